"""Admission where the ledger is another process's: nothing is counted here, and refusals are fetched from there.

What stays is what a process must know of itself: how long a prompt may be, that it is draining, and which requests to
end then.
"""

from __future__ import annotations

from rag.admission.admission import Admission, Budget, Usage
from rag.errors import Overloaded, PromptTooLong, RagError
from rag.remote.clients import RemoteGenerator

# More blocks than requests will ever ask for: the line that counts is the LLM service's.
_BOUNDLESS = Budget(sequences=2**30, num_blocks=2**50, block_tokens=1, block_bytes=0, context_tokens=2**40)


class RemoteAdmission(Admission):
    """Lets every request through to the LLM services, unless it is too long or the process is draining."""

    def __init__(self, generator: RemoteGenerator, *, governed_tokens: int | None = None) -> None:
        super().__init__(_BOUNDLESS, max_waiting=0, longest_wait_s=0.0)
        self._generator = generator
        self._own_governed_tokens = governed_tokens

    def limit_tokens(self, *, allow_long: bool) -> int:
        """See Admission.limit_tokens."""
        context = self._generator.max_model_len
        if allow_long or self._own_governed_tokens is None:
            return context
        return min(self._own_governed_tokens, context)

    def usage(self) -> Usage:
        """What the LLM services' ledgers say together; zeros for those that can't be asked."""
        return self._generator.usage()

    def busy(self) -> Overloaded:
        """The LLM service's refusal, or a plain one where it can't be asked."""
        try:
            return self._generator.busy()
        except RagError:
            return Overloaded("every place is taken", field="queue", remedy="try again", retry_after_s=1.0)

    def too_long(self, prompt_tokens: int, new_tokens: int, *, allow_long: bool) -> PromptTooLong:
        """The LLM service's refusal. Raises NotReady where it can't be asked."""
        return self._generator.too_long(prompt_tokens, new_tokens, allow_long=allow_long)
