"""What the blocking and the asyncio session share: the session's id and expiry, and the shape of requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from rag_client.failures import CallFailed
from rag_client.frames import Event

Answer = dict[str, Any]
_NEW_SESSION = "NEW_SESSION"


class SessionBase:
    """`id` and `expires` are the container's; None until the first answer."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.expires: datetime | None = None

    def _parameters(self) -> dict[str, str]:
        """The boto3 parameters of the next turn."""
        return {"SessionId": self.id or _NEW_SESSION}

    def _opened_by(self, response: Mapping[str, Any]) -> None:
        """Take id and expiry from the first response: "<id>; Expires=YYYY-MM-DDTHH:MM:SSZ". Raises CallFailed."""
        if self.id is not None:
            return
        session_id, _, attribute = str(response.get("NewSessionId", "")).partition(";")
        if not session_id:
            raise CallFailed("the container opened no session: it answered without a session id")
        name, _, moment = attribute.strip().partition("=")
        if name == "Expires":
            self.expires = datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        self.id = session_id.strip()


def request_body(query: str | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The request's JSON object."""
    return dict(fields) if query is None else {"query": query, **fields}


def answer_events(answer: Answer) -> Iterator[Event]:
    """A whole answer as the events of a stream."""
    yield {"type": "sources", "id": answer.get("id"), "sources": answer.get("sources", [])}
    yield {"type": "text", "text": answer.get("text", "")}
    yield {"type": "end", **answer}
