"""From token ids to text: whole characters only, and nothing from a stop string on."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class TextStream:
    """Turns one generation's tokens into text piece by piece.

    `push` holds back incomplete text: the bytes of a part of a character (by tokenizers' DecodeStream), a prefix of a
    stop string, and the whitespace before the first word.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(stop)
        self._held = ""
        self._started = False
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is final with this token. Sets `stopped` when a stop string is complete."""
        piece = self._decoder.step(self._tokenizer, token)
        if self.stopped or not piece:
            return ""
        self._held += piece
        if not self._started:
            self._held = self._held.lstrip()
            self._started = bool(self._held)
        cut = min((index for index in map(self._held.find, self._stop) if index >= 0), default=None)
        if cut is not None:
            self.stopped = True
            self._held = self._held[:cut]
            return self.flush()
        final = len(self._held) - max((_overlap(self._held, stop) for stop in self._stop), default=0)
        shown, self._held = self._held[:final], self._held[final:]
        return shown

    def flush(self) -> str:
        """The text held back for a stop string, once no token follows."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
