from __future__ import annotations

import json
import random
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from deploy.local.eventstream import payload_part, stream_error
from deploy.local.runtime import rechunked
from rag_client.frames import read_events

EVENTS: list[dict[str, Any]] = [
    {"type": "sources", "sources": [{"title": "Brasília — “capital”", "text": 'linha\nquebrada\r\u2028 aspas "'}]},
    {"type": "text", "text": "é 🇧🇷 "},
    {"type": "end", "text": "fim"},
]
JSON_LINES = b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in EVENTS)
SSE = b"".join(
    f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode() for event in EVENTS
)


@pytest.mark.parametrize("stream", [JSON_LINES, SSE, JSON_LINES.rstrip(), SSE + b"data: [DONE]\n\n", b": hi\n" + SSE])
def test_a_stream_cut_at_every_byte_gives_the_same_events(stream: bytes) -> None:
    for cut in range(len(stream) + 1):
        assert list(read_events([stream[:cut], stream[cut:]])) == EVENTS
    assert list(read_events(stream[place : place + 1] for place in range(len(stream)))) == EVENTS


@given(st.integers(0, 2**32), st.sampled_from([JSON_LINES, SSE]))
def test_a_rechunked_stream_gives_the_same_events(seed: int, stream: bytes) -> None:
    lines = iter(stream.splitlines(keepends=True))
    pieces = list(rechunked(lines, random.Random(seed)))
    assert b"".join(pieces) == stream
    assert list(read_events(pieces)) == EVENTS


def test_a_line_that_is_no_json_object_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON object"):
        list(read_events([b"[1]\n"]))


@given(st.binary(max_size=300), st.integers(1, 40))
def test_botocore_reads_every_frame_that_is_built_here(data: bytes, step: int) -> None:
    wire = payload_part(data) + stream_error("StreamBroken", "foi-se — é")
    buffer = EventStreamBuffer()
    for start in range(0, len(wire), step):
        buffer.add_data(wire[start : start + step])
    part, error = list(buffer)
    assert part.payload == data
    assert part.headers[":event-type"] == "PayloadPart"
    assert error.headers[":message-type"] == "exception"
    assert json.loads(error.payload) == {"Message": "foi-se — é", "ErrorCode": "StreamBroken"}
