"""Conversations that keep their memory between calls, as SageMaker's stateful sessions have them.

An open session holds a whole context of the Plan until it is closed or expires, so the number of sessions that the Plan
promises is the number that can be open. Between two turns its KV stays where it is: the next prompt repeats the
conversation word for word, and only what is new is computed.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rag.admission.admission import Admission, Permit
from rag.answering.prompt import Encode, write_messages
from rag.errors import Overloaded, SessionClosed
from rag.interfaces import Generator, Language, Message, Passage


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, the message that it was put in (with its passages), and the answer."""

    question: str
    prompted: Message
    answer: str

    def messages(self, *, bare: bool) -> list[Message]:
        """Both sides of the turn, the question as it was prompted or `bare`, without its passages."""
        asked = Message("user", self.question) if bare else self.prompted
        return [asked, Message("assistant", self.answer)]


@dataclass(slots=True)
class Session:
    """An open conversation. `expires` is a wall-clock time, in seconds since 1970."""

    id: str
    permit: Permit
    expires: float
    last_used: float
    turns: list[Turn] = field(default_factory=list)
    active: bool = False

    def history(
        self, question: str, passages: Sequence[Passage], *, encode: Encode, max_prompt_tokens: int, language: Language
    ) -> list[Message]:
        """As much of the conversation as fits beside the new question and its passages.

        Word for word if possible; else the earlier questions without their passages, then without the oldest turns.
        """
        for history in self._shorter_and_shorter():
            if len(encode(write_messages(question, passages, language, history))) <= max_prompt_tokens:
                return history
        return []

    def _shorter_and_shorter(self) -> Iterator[list[Message]]:
        yield [message for turn in self.turns for message in turn.messages(bare=False)]
        for dropped in range(len(self.turns)):
            yield [message for turn in self.turns[dropped:] for message in turn.messages(bare=True)]


class Sessions:
    """The open sessions of this container. Thread-safe."""

    def __init__(
        self,
        admission: Admission,
        generator: Generator,
        *,
        lifetime_s: float,
        idle_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._admission = admission
        self._generator = generator
        self._lifetime_s = lifetime_s
        self._idle_s = idle_s
        self._clock = clock
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def open(self) -> Session:
        """A new session with memory of its own. Raises Overloaded where the Plan's sessions are all taken."""
        self.sweep()
        permit = self._admission.admit_session()
        now = self._clock()
        session = Session(uuid.uuid4().hex, permit, now + self._lifetime_s, now)
        try:
            self._generator.open_session(session.id)
        except BaseException:
            permit.release()
            raise
        with self._lock:
            self._open[session.id] = session
        return session

    def begin(self, session_id: str) -> Session:
        """The session, held for one call until `end`. Raises SessionClosed, or Overloaded while another call runs."""
        self.sweep()
        with self._lock:
            session = self._open.get(session_id)
            if session is None:
                raise SessionClosed(
                    "this session is not open here: it was closed, has expired, or never was",
                    field="X-Amzn-SageMaker-Session-Id",
                    value=session_id,
                    remedy="open one with the session id NEW_SESSION",
                )
            if session.active:
                raise Overloaded(
                    "another call of this session is running",
                    field="X-Amzn-SageMaker-Session-Id",
                    value=session_id,
                    limit="one call at a time",
                    remedy="wait for its answer",
                    retry_after_s=1.0,
                )
            session.active = True
            return session

    def end(self, session: Session) -> None:
        """A call of `session` is over."""
        with self._lock:
            session.active = False
            session.last_used = self._clock()

    def close(self, session_id: str) -> None:
        """End a session and give its memory back. Raises as `begin` does."""
        self._close(self.begin(session_id))

    def sweep(self) -> None:
        """Close what has expired or has not been used for too long. A session whose call is running stays."""
        now = self._clock()
        with self._lock:
            over = [
                session
                for session in self._open.values()
                if not session.active and (now >= session.expires or now - session.last_used >= self._idle_s)
            ]
            for session in over:
                session.active = True  # nobody begins a call in it any more
        for session in over:
            self._close(session)

    def close_all(self) -> None:
        """Forget every session, active or not: their memory is gone."""
        with self._lock:
            lost, self._open = list(self._open.values()), {}
        for session in lost:
            session.permit.release()

    def _close(self, session: Session) -> None:
        with self._lock:
            self._open.pop(session.id, None)
        self._generator.close_session(session.id)
        session.permit.release()
