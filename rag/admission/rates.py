"""The best prefill and decode rates that the engine has reached in this process: what can't end in time by them, can't.

The best ones, so that a slow moment never refuses what is possible.
"""

from __future__ import annotations

import threading

# Steps with fewer new prompt tokens say more about overhead than about prefill.
_FEWEST_PREFILL_TOKENS = 32


class Rates:
    """Written by the engine's thread, read by any. A rate is None until it was measured."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prefill_s_per_token: float | None = None
        self._decode_s_per_token: float | None = None

    def observe(self, *, prefill_tokens: int, decodes: int, seconds: float) -> None:
        """One step: its number of prompt tokens, the sequences that gained a token in it, and its duration."""
        with self._lock:
            if decodes and not prefill_tokens:
                self._decode_s_per_token = _least(self._decode_s_per_token, seconds)
            elif prefill_tokens >= _FEWEST_PREFILL_TOKENS:
                self._prefill_s_per_token = _least(self._prefill_s_per_token, seconds / prefill_tokens)

    def least_s(self, prompt_tokens: int, new_tokens: int) -> float:
        """Seconds that a request takes at least; a rate that was not measured counts as 0."""
        return prompt_tokens * (self._prefill_s_per_token or 0.0) + new_tokens * (self._decode_s_per_token or 0.0)

    def most_new_tokens(self, prompt_tokens: int, seconds: float) -> int | None:
        """The most new tokens for which `least_s` stays within `seconds`; None where decode was not measured."""
        if not self._decode_s_per_token:
            return None
        left_s = seconds - self.least_s(prompt_tokens, 0)
        return max(0, int(left_s / self._decode_s_per_token))


def _least(best: float | None, newest: float) -> float:
    return newest if best is None else min(best, newest)
