"""From token ids to text that is safe to show: whole characters only, and nothing from a stop string on."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class TextStream:
    """Turns one generation's tokens into text piece by piece.

    `push` holds back what may still become something else: the bytes of half a character (tokenizers' DecodeStream
    does that), the beginning of a stop string, and the blanks before the first word.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._stop = tuple(stop)
        self._held = ""
        self._started = False
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that this token makes certain. Sets `stopped` when a stop string is complete."""
        piece = self._decoder.step(self._tokenizer, token)
        if self.stopped or not piece:
            return ""
        self._held += piece
        if not self._started:
            self._held = self._held.lstrip()
            self._started = bool(self._held)
        cut = min((place for place in map(self._held.find, self._stop) if place >= 0), default=None)
        if cut is not None:
            self.stopped = True
            self._held = self._held[:cut]
            return self.flush()
        certain = len(self._held) - max((_overlap(self._held, stop) for stop in self._stop), default=0)
        shown, self._held = self._held[:certain], self._held[certain:]
        return shown

    def flush(self) -> str:
        """What was held back in case a stop string followed, now that nothing follows."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a true beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
