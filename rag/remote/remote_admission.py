"""Admission where another process, the LLM service, has the ledger: nothing is counted here.

Here are the limit on a prompt's length, and shutdown: new requests are refused, running ones end after a grace period.
"""

from __future__ import annotations

from typing_extensions import override

from rag.admission.admission import Admission, Permit, draining_error, expire_later
from rag.cancellation import Call
from rag.errors import ClientGone, Overloaded, PromptTooLong, RagError
from rag.interfaces import Usage
from rag.remote.remote_generator import RemoteGenerator


class RemoteAdmission(Admission):
    """Admits every request that is not too long, until the process drains; the LLM services may still refuse it."""

    def __init__(self, generator: RemoteGenerator, *, governed_tokens: int | None = None) -> None:
        self._generator = generator
        self._governed_tokens = governed_tokens
        self._running: set[Call] = set()
        self._draining = False

    @property
    @override
    def draining(self) -> bool:
        return self._draining

    @override
    def limit_tokens(self, *, allow_long: bool) -> int:
        context = self._generator.max_model_len
        if allow_long or self._governed_tokens is None:
            return context
        return min(self._governed_tokens, context)

    @override
    def usage(self) -> Usage:
        """The sum over the LLM services; zeros for those that do not answer."""
        return self._generator.usage()

    @override
    def admit(
        self, prompt_tokens: int, new_tokens: int, call: Call, *, deadline_s: float, allow_long: bool = False
    ) -> Permit:
        if prompt_tokens + new_tokens > self.limit_tokens(allow_long=allow_long):
            raise self.too_long(prompt_tokens, new_tokens, allow_long=allow_long)
        if self._draining:
            raise draining_error()
        if call.cancelled:
            raise ClientGone("the client has disconnected")
        self._running.add(call)
        return _RemotePermit(self._running, call)

    @override
    def admit_session(self) -> Permit:
        if self._draining:
            raise draining_error()
        return _RemotePermit(self._running, None)

    @override
    def check_deadline(self, prompt_tokens: int, new_tokens: int, limit_s: float) -> None:
        """Left to the LLM service, which measures the rates."""

    @override
    def busy(self) -> Overloaded:
        """The LLM service's refusal, or a plain one where it does not answer."""
        try:
            return self._generator.busy()
        except RagError:
            return Overloaded("every place is taken", field="queue", remedy="try again", retry_after_s=1.0)

    @override
    def too_long(self, prompt_tokens: int, new_tokens: int, *, allow_long: bool) -> PromptTooLong:
        """The LLM service's refusal. Raises NotReady where it does not answer."""
        return self._generator.too_long(prompt_tokens, new_tokens, allow_long=allow_long)

    @override
    def drain(self, grace_s: float) -> None:
        self._draining = True
        expire_later(grace_s, lambda: list(self._running))


class _RemotePermit(Permit):
    """Registers a running request; its memory is the LLM service's."""

    def __init__(self, running: set[Call], call: Call | None) -> None:
        self._running = running
        self._call = call

    @override
    def shrink(self, tokens: int) -> None:
        """The LLM service reserves the real size at once."""

    @override
    def release(self) -> None:
        if self._call is not None:
            self._running.discard(self._call)
