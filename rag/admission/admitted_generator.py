"""A generator that admits: the Generator seam with the ledger in front, for a service that has no pipeline.

The monolith's pipeline reserves before it retrieves. Here the prompt is written when it arrives, so its real size is
reserved at once. Sessions hold their memory here and their conversation in the orchestrator.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rag.admission.admission import Admission, Permit
from rag.cancellation import Call
from rag.errors import Overloaded
from rag.interfaces import Delta, DeltaStream, Generator, KvUse, Message, Sampling


@dataclass(slots=True)
class _Lease:
    permit: Permit
    last_used: float


class AdmittedGenerator:
    """Fills the Generator seam. A session that nobody has used for `idle_s` is closed: its orchestrator is gone."""

    def __init__(
        self,
        generator: Generator,
        admission: Admission,
        *,
        idle_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.admission = admission
        self._generator = generator
        self._idle_s = idle_s
        self._clock = clock
        self._leases: dict[str, _Lease] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """See Generator.name."""
        return self._generator.name

    @property
    def alive(self) -> bool:
        """See Generator.alive."""
        return self._generator.alive

    @property
    def max_model_len(self) -> int:
        """See Generator.max_model_len."""
        return self._generator.max_model_len

    @property
    def kv_use(self) -> KvUse:
        """See Generator.kv_use."""
        return self._generator.kv_use

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """See Generator.encode."""
        return self._generator.encode(messages)

    def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, session: str | None = None, call: Call | None = None
    ) -> AdmittedDeltas:
        """See Generator.generate. Waits in the ledger's line; ends when `call` does.

        Raises what Admission.admit raises as well.
        """
        call = call or Call()
        deadline_s = math.inf if sampling.deadline_s is None else sampling.deadline_s
        permit: Permit | None = None
        if session is None:
            # Whether it may be so long was asked where the request came in; the share of such requests is kept here.
            permit = self.admission.admit(
                len(prompt_ids), sampling.max_new_tokens, call, deadline_s=deadline_s, allow_long=True
            )
        else:
            with self._lock:
                if session in self._leases:
                    self._leases[session].last_used = self._clock()
        try:
            if sampling.deadline_s is not None:
                left_s = call.left_s(deadline_s)
                self.admission.refuse_endless(len(prompt_ids), sampling.max_new_tokens, left_s)
                sampling = replace(sampling, deadline_s=left_s)
            deltas = self._generator.generate(prompt_ids, sampling, session)
        except BaseException:
            if permit is not None:
                permit.release()
            raise
        return AdmittedDeltas(deltas, permit, call)

    def open_session(self, session: str) -> None:
        """See Generator.open_session. One that is open already stays as it is: the request may have been repeated."""
        with self._lock:
            if session in self._leases:
                return
        permit = self.admission.admit_session()
        try:
            self._generator.open_session(session)
        except BaseException:
            permit.release()
            raise
        with self._lock:
            self._leases[session] = _Lease(permit, self._clock())

    def close_session(self, session: str) -> None:
        """See Generator.close_session."""
        with self._lock:
            lease = self._leases.pop(session, None)
        self._generator.close_session(session)
        if lease is not None:
            lease.permit.release()

    def sweep(self) -> None:
        """Close the sessions that were left alone."""
        oldest = self._clock() - self._idle_s
        with self._lock:
            left = [session for session, lease in self._leases.items() if lease.last_used < oldest]
        for session in left:
            self.close_session(session)

    def revive(self) -> None:
        """See Generator.revive."""
        with self._lock:
            lost, self._leases = list(self._leases.values()), {}
        for lease in lost:
            lease.permit.release()
        self._generator.revive()

    def busy(self) -> Overloaded:
        """The refusal where there is not even a place in the line."""
        return self.admission.busy()

    def close(self) -> None:
        """See Generator.close."""
        self._generator.close()


class AdmittedDeltas:
    """The deltas of an admitted generation. What was reserved is given back when it ends, however it ends."""

    def __init__(self, deltas: DeltaStream, permit: Permit | None, call: Call) -> None:
        self._deltas = deltas
        self._permit = permit
        self._call = call
        call.on_end(deltas.close)

    def __iter__(self) -> AdmittedDeltas:
        return self

    def __next__(self) -> Delta:
        """See DeltaStream."""
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

    def close(self) -> None:
        """See DeltaStream.close."""
        self._deltas.close()
        if self._permit is not None:
            self._permit.release()
