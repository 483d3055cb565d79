"""A Generator behind admission, for a service without a pipeline.

The monolith's pipeline reserves before it retrieves. Here the prompt arrives complete, so its real size is reserved at
once. A session's memory is reserved here; its conversation is the orchestrator's.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from typing_extensions import override

from rag.admission.admission import Admission, Permit
from rag.cancellation import Call
from rag.interfaces import Delta, DeltaStream, KvUse, LocalGenerator, Message, Sampling


@dataclass(slots=True)
class _ReservedSession:
    permit: Permit
    last_used: float


class AdmittedGenerator(LocalGenerator):
    """Admits each generation. A session unused for `idle_s` is closed: its orchestrator is gone."""

    def __init__(
        self,
        generator: LocalGenerator,
        admission: Admission,
        *,
        idle_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.admission = admission
        self._generator = generator
        self._idle_s = idle_s
        self._clock = clock
        self._sessions: dict[str, _ReservedSession] = {}
        self._lock = threading.Lock()

    @property
    @override
    def name(self) -> str:
        return self._generator.name

    @property
    @override
    def alive(self) -> bool:
        return self._generator.alive

    @property
    @override
    def max_model_len(self) -> int:
        return self._generator.max_model_len

    @property
    @override
    def kv_use(self) -> KvUse:
        return self._generator.kv_use

    @override
    def encode(self, messages: Sequence[Message]) -> list[int]:
        return self._generator.encode(messages)

    @override
    def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, session: str | None = None, call: Call | None = None
    ) -> AdmittedDeltas:
        """Waits in the admission queue; ends when `call` does. Raises what Admission.admit raises as well."""
        call = call or Call()
        deadline_s = math.inf if sampling.deadline_s is None else sampling.deadline_s
        permit: Permit | None = None
        if session is None:
            # The orchestrator has checked allow_long_context; the share of long contexts is limited here.
            permit = self.admission.admit(
                len(prompt_ids), sampling.max_new_tokens, call, deadline_s=deadline_s, allow_long=True
            )
        else:
            with self._lock:
                if session in self._sessions:
                    self._sessions[session].last_used = self._clock()
        try:
            if sampling.deadline_s is not None:
                left_s = call.left_s(deadline_s)
                self.admission.check_deadline(len(prompt_ids), sampling.max_new_tokens, left_s)
                sampling = replace(sampling, deadline_s=left_s)
            deltas = self._generator.generate(prompt_ids, sampling, session)
        except BaseException:
            if permit is not None:
                permit.release()
            raise
        return AdmittedDeltas(deltas, permit, call)

    @override
    def open_session(self, session: str) -> None:
        """Does nothing for a session that is open already: the request may be a retry."""
        with self._lock:
            if session in self._sessions:
                return
        permit = self.admission.admit_session()
        try:
            self._generator.open_session(session)
        except BaseException:
            permit.release()
            raise
        with self._lock:
            self._sessions[session] = _ReservedSession(permit, self._clock())

    @override
    def close_session(self, session: str) -> None:
        with self._lock:
            reserved = self._sessions.pop(session, None)
        self._generator.close_session(session)
        if reserved is not None:
            reserved.permit.release()

    def sweep(self) -> None:
        """Close the sessions that have been idle too long."""
        oldest = self._clock() - self._idle_s
        with self._lock:
            idle = [session for session, reserved in self._sessions.items() if reserved.last_used < oldest]
        for session in idle:
            self.close_session(session)

    @override
    def revive(self) -> None:
        with self._lock:
            lost, self._sessions = list(self._sessions.values()), {}
        for reserved in lost:
            reserved.permit.release()
        self._generator.revive()

    @override
    def close(self) -> None:
        self._generator.close()


class AdmittedDeltas(DeltaStream):
    """The deltas of an admitted generation. Its reservation is released when it ends, however it ends."""

    def __init__(self, deltas: DeltaStream, permit: Permit | None, call: Call) -> None:
        self._deltas = deltas
        self._permit = permit
        self._call = call
        call.on_end(deltas.close)

    @override
    def __iter__(self) -> AdmittedDeltas:
        return self

    @override
    def __next__(self) -> Delta:
        try:
            delta = next(self._deltas)
        except BaseException:
            self.close()
            raise
        if delta.finish_reason == "cancelled" and self._call.expired:
            delta = replace(delta, finish_reason="deadline")
        if delta.finish_reason is not None:
            self.close()
        return delta

    @override
    def close(self) -> None:
        self._deltas.close()
        if self._permit is not None:
            self._permit.release()
