"""Bytes of a streamed answer, cut anywhere → its events. Both framings are read: JSON Lines and server-sent events.

A PayloadPart may end anywhere, even inside a UTF-8 character, so an event is parsed only once its line is complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

Event = dict[str, Any]


def read_events(pieces: Iterable[bytes]) -> Iterator[Event]:
    """The events in `pieces`, each as soon as its line is complete; the last line needs no line feed.

    Raises ValueError for a line that is no JSON object.
    """
    rest = bytearray()
    for piece in pieces:
        searched = len(rest)
        rest += piece
        if rest.find(b"\n", searched) < 0:
            continue
        *lines, rest = rest.split(b"\n")
        for line in lines:
            yield from _event(line)
    yield from _event(rest)


def _event(line: bytearray) -> Iterator[Event]:
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
