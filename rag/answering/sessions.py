"""Conversations that keep their KV memory between requests: SageMaker's stateful sessions.

An open session reserves a whole context of the Plan until it is closed or expires, so as many can be open as the Plan
has sessions. Its KV cache is kept between turns: the next prompt repeats the conversation word for word, so that only
the new tokens are computed.
"""

from __future__ import annotations

import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rag.admission.admission import Admission, Permit
from rag.answering.prompt import Encode, write_messages
from rag.errors import Overloaded, SessionClosed
from rag.interfaces import Generator, Language, Message, Passage


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, the message that was sent to the model for it (with passages), and the answer."""

    question: str
    prompted: Message
    answer: str

    @property
    def characters(self) -> int:
        """Of question and answer."""
        return len(self.question) + len(self.answer)

    def messages(self, *, bare: bool) -> list[Message]:
        """Question and answer; the question as it was in the prompt or, `bare`, without its passages."""
        asked = Message("user", self.question) if bare else self.prompted
        return [asked, Message("assistant", self.answer)]


@dataclass(slots=True)
class Conversation:
    """An open session. `expires` is a wall-clock time, in seconds since 1970."""

    id: str
    permit: Permit
    expires: float
    last_used: float
    turns: list[Turn] = field(default_factory=list)
    active: bool = False

    def history(
        self, question: str, passages: Sequence[Passage], *, encode: Encode, max_prompt_tokens: int, language: Language
    ) -> list[Message]:
        """As much of the conversation as fits with the new question and its passages.

        Word for word if possible; else earlier questions without their passages, then without the oldest turns.
        """

        def fits(history: Sequence[Message]) -> bool:
            return len(encode(write_messages(question, passages, language, history))) <= max_prompt_tokens

        def without(dropped: int) -> list[Message]:
            return [message for turn in self.turns[dropped:] for message in turn.messages(bare=True)]

        whole = [message for turn in self.turns for message in turn.messages(bare=False)]
        if fits(whole):
            return whole
        return without(bisect_left(range(len(self.turns)), True, key=lambda dropped: fits(without(dropped))))

    def remember(self, turn: Turn, max_characters: int) -> None:
        """Add a turn, and forget the oldest that could never be in a prompt again."""
        self.turns.append(turn)
        while len(self.turns) > 1 and sum(turn.characters for turn in self.turns) > max_characters:
            del self.turns[0]


class Sessions:
    """The open sessions of this container. Thread-safe."""

    def __init__(
        self,
        admission: Admission,
        generator: Generator,
        *,
        lifetime_s: float,
        idle_s: float,
    ) -> None:
        self._admission = admission
        self._generator = generator
        self._lifetime_s = lifetime_s
        self._idle_s = idle_s
        self.clock: Callable[[], float] = time.time
        self._open: dict[str, Conversation] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def open(self) -> Conversation:
        """A new session with its memory reserved. Raises Overloaded where all of the Plan's sessions are open."""
        self.sweep()
        permit = self._admission.admit_session()
        now = self.clock()
        session = Conversation(uuid.uuid4().hex, permit, now + self._lifetime_s, now)
        try:
            self._generator.open_session(session.id)
        except BaseException:
            permit.release()
            raise
        with self._lock:
            self._open[session.id] = session
        return session

    def begin(self, session_id: str) -> Conversation:
        """The session, reserved for one request until `end`. Raises SessionClosed, or Overloaded while another runs."""
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
                    "another request of this session is running",
                    field="X-Amzn-SageMaker-Session-Id",
                    value=session_id,
                    limit="one request at a time",
                    remedy="wait for its answer",
                    retry_after_s=1.0,
                )
            session.active = True
            return session

    def end(self, session: Conversation) -> None:
        """The request in `session` has ended."""
        with self._lock:
            session.active = False
            session.last_used = self.clock()

    def close(self, session_id: str) -> None:
        """Close a session and free its memory. Raises as `begin` does."""
        self._close(self.begin(session_id))

    def sweep(self) -> None:
        """Close sessions that have expired or been idle too long. One with a running request stays open."""
        now = self.clock()
        with self._lock:
            expired = [
                session
                for session in self._open.values()
                if not session.active and (now >= session.expires or now - session.last_used >= self._idle_s)
            ]
            for session in expired:
                session.active = True  # no request may begin in it any more
        for session in expired:
            self._close(session)

    def close_all(self) -> None:
        """Drop every session, active or not: their KV cache was lost."""
        with self._lock:
            lost, self._open = list(self._open.values()), {}
        for session in lost:
            session.permit.release()

    def _close(self, session: Conversation) -> None:
        with self._lock:
            self._open.pop(session.id, None)
        self._generator.close_session(session.id)
        session.permit.release()
