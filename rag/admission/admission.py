"""Admission control: each generation reserves its worst case of KV memory before the work, waits for it, or is refused.

Two implementations: LedgerAdmission counts against the Plan's blocks in this process, RemoteAdmission leaves the
counting to the LLM service.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from rag.cancellation import Call
from rag.errors import Draining, Overloaded, PromptTooLong
from rag.interfaces import Usage


class Permit(Protocol):
    """The memory that one request, or one session, may use until `release`."""

    def shrink(self, tokens: int) -> None:
        """Free what the worst case reserved beyond `tokens`, prompt and output together."""

    def release(self) -> None:
        """Free everything. May be called again."""


class Admission(Protocol):
    """Admits requests and sessions, or refuses them with figures. Thread-safe."""

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""

    def limit_tokens(self, *, allow_long: bool) -> int:
        """Tokens of a prompt and its output together, at most."""

    def usage(self) -> Usage:
        """What is reserved now, and for how many requests and sessions."""

    def admit(
        self, prompt_tokens: int, new_tokens: int, call: Call, *, deadline_s: float, allow_long: bool = False
    ) -> Permit:
        """Reserve prompt and output, waiting in the queue if necessary. `deadline_s` counts from the call's start.

        Raises Overloaded with the time to retry, PromptTooLong for what can never fit or never end in time, Draining,
        or ClientGone; nothing is reserved then.
        """

    def admit_session(self) -> Permit:
        """Reserve a whole context for a session; sessions do not queue. Raises Overloaded or Draining."""

    def check_deadline(self, prompt_tokens: int, new_tokens: int, limit_s: float) -> None:
        """Raises PromptTooLong for work that can't end within `limit_s`, even at the best rates measured here."""

    def busy(self) -> Overloaded:
        """The refusal of a request for which even the queue has no place."""

    def too_long(self, prompt_tokens: int, new_tokens: int, *, allow_long: bool) -> PromptTooLong:
        """The refusal of a request that never fits this deployment, with each change that would help."""

    def drain(self, grace_s: float) -> None:
        """Refuse new and queued requests from now on, and end running ones after `grace_s` seconds."""


def draining_error() -> Draining:
    """The refusal of a process that is shutting down."""
    return Draining(
        "the container is shutting down", field="phase", value="draining", remedy="send it again", retry_after_s=1.0
    )


def expire_later(grace_s: float, calls: Callable[[], Iterable[Call]]) -> None:
    """Expire, after `grace_s` seconds, the calls that run then."""

    def expire() -> None:
        for call in calls():
            call.expire()

    timer = threading.Timer(grace_s, expire)
    timer.daemon = True
    timer.start()
