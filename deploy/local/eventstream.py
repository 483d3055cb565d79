"""The frames of a streamed invocation (application/vnd.amazon.eventstream), as the SageMaker Runtime sends them.

All numbers are big-endian:  u32 total, u32 headers' length, u32 CRC-32 of those 8 bytes, headers, payload, u32 CRC-32
of everything before it. A header: u8 length of its name, name, 0x07 (a string), u16 length of its value, value.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping

CONTENT_TYPE = "application/vnd.amazon.eventstream"
_STRING = 7
_AROUND_BYTES = 16  # the prelude with its checksum, and the checksum at the end


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One frame of the stream."""
    block = b"".join(_header(name, value) for name, value in headers.items())
    prelude = struct.pack("!II", _AROUND_BYTES + len(block) + len(payload), len(block))
    checked = prelude + struct.pack("!I", zlib.crc32(prelude)) + block + payload
    return checked + struct.pack("!I", zlib.crc32(checked))


def payload_part(data: bytes) -> bytes:
    """The frame of a piece of the container's answer."""
    headers = {
        ":message-type": "event",
        ":event-type": "PayloadPart",
        ":content-type": "application/octet-stream",
    }
    return frame(headers, data)


def stream_error(code: str, message: str) -> bytes:
    """The frame that ends a broken stream: `code` is ModelInvocationTimeExceeded or StreamBroken."""
    headers = {
        ":message-type": "exception",
        ":exception-type": "ModelStreamError",
        ":content-type": "application/json",
    }
    return frame(headers, json.dumps({"Message": message, "ErrorCode": code}).encode())


def _header(name: str, value: str) -> bytes:
    key, text = name.encode(), value.encode()
    return struct.pack("!B", len(key)) + key + struct.pack("!BH", _STRING, len(text)) + text
