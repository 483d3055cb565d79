"""How fast this process really is: prefill and decode as the engine measures them, step by step.

Two kinds of figures. The best ever seen says what can't possibly finish; the usual one says how long things take.
"""

from __future__ import annotations

import threading

# Steps with fewer new prompt tokens say more about overhead than about prefill.
_FEWEST_PREFILL_TOKENS = 32
# Weight of the newest step in the usual figures.
_NEWEST = 0.1


class Rates:
    """Written by the engine's thread, read by any. A figure is None until something was measured."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.prefill_s_per_token: float | None = None
        self.decode_s_per_token: float | None = None
        self.best_prefill_s_per_token: float | None = None
        self.best_decode_s_per_token: float | None = None

    def observe(self, *, prefill_tokens: int, decodes: int, seconds: float) -> None:
        """One step: so many prompt tokens and so many sequences that gained a token, in so much time."""
        with self._lock:
            if decodes and not prefill_tokens:
                self.decode_s_per_token = _smoothed(self.decode_s_per_token, seconds)
                self.best_decode_s_per_token = _least(self.best_decode_s_per_token, seconds)
            elif prefill_tokens >= _FEWEST_PREFILL_TOKENS:
                each = seconds / prefill_tokens
                self.prefill_s_per_token = _smoothed(self.prefill_s_per_token, each)
                self.best_prefill_s_per_token = _least(self.best_prefill_s_per_token, each)

    def least_s(self, prompt_tokens: int, new_tokens: int) -> float:
        """Seconds that a request takes at the very least, at the best rates seen; 0 where nothing is known."""
        return prompt_tokens * (self.best_prefill_s_per_token or 0.0) + new_tokens * (
            self.best_decode_s_per_token or 0.0
        )

    def most_new_tokens(self, prompt_tokens: int, seconds: float) -> int | None:
        """The most new tokens that `least_s` still allows within `seconds`; None where nothing is known."""
        if not self.best_decode_s_per_token:
            return None
        left_s = seconds - self.least_s(prompt_tokens, 0)
        return max(0, int(left_s / self.best_decode_s_per_token))


def _smoothed(usual: float | None, newest: float) -> float:
    return newest if usual is None else usual + _NEWEST * (newest - usual)


def _least(best: float | None, newest: float) -> float:
    return newest if best is None else min(best, newest)
