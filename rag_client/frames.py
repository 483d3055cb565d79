"""Bytes of a streamed answer, cut anywhere, → its events. Both framings are read: JSON Lines and server-sent events.

A PayloadPart may end anywhere, even between the bytes of one character, so an event is read only once its line is
complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Event = dict[str, Any]


class EventReader:
    """Feed it pieces in their order; it gives back the events that are complete."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that `piece` completes. Raises ValueError for a line that is no JSON object."""
        searched = len(self._rest)
        self._rest += piece
        if self._rest.find(b"\n", searched) < 0:
            return
        *lines, rest = self._rest.split(b"\n")
        self._rest = rest
        for line in lines:
            yield from self._events(line)

    def close(self) -> Iterator[Event]:
        """The event of a last line that came without a line feed."""
        line, self._rest = self._rest, bytearray()
        yield from self._events(line)

    def _events(self, line: bytearray) -> Iterator[Event]:
        text = line.strip()
        if text.startswith((b"event:", b"id:", b"retry:", b":")):
            return
        text = text.removeprefix(b"data:").strip()
        if not text or text == b"[DONE]":
            return
        event = json.loads(text)
        if not isinstance(event, dict):
            raise ValueError(f"an event is a JSON object, not {bytes(text[:40])!r}")  # noqa: TRY004 - the bytes are wrong
        yield event
