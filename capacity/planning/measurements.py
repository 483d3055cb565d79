"""Measurements of a machine, as a file: memory by a boot, latency by `calibrate`. They replace estimates only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from capacity.catalog import read_json
from capacity.errors import InvalidInput
from capacity.memory.overheads import Measured

SCHEMA = "capacity.measured/1"


@dataclass(frozen=True, slots=True)
class MeasuredLatency:
    """Latency measured on a machine.

    `prefill_tokens_per_s` is from the slope of TTFT over prompt length, `ttft_floor_s` TTFT at a prompt of no length.
    `tpot_s` is the time between tokens of one session alone, to which each further session adds `tpot_added_s`.
    `context_tokens` is the longest context that was measured.
    """

    prefill_tokens_per_s: float
    ttft_floor_s: float
    tpot_s: float
    tpot_added_s: float
    context_tokens: int


@dataclass(frozen=True, slots=True)
class Measurements:
    """Everything measured of one model on one machine."""

    model: str = ""
    hardware: str = ""
    memory: Measured = field(default_factory=Measured)
    latency: MeasuredLatency | None = None

    def dumps(self) -> str:
        """The file's text."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n"


def read_measurements(path: Path) -> Measurements:
    """The measurements in a file; raises BrokenFile or InvalidInput with the field that is wrong."""
    raw = read_json(path)
    if not isinstance(raw, Mapping) or raw.get("schema") != SCHEMA:
        raise InvalidInput(str(path), f"not a {SCHEMA} file")
    memory = _numbers(path, raw.get("memory"), Measured.__dataclass_fields__)
    latency = _numbers(path, raw.get("latency"), MeasuredLatency.__dataclass_fields__)
    try:
        return Measurements(
            model=str(raw.get("model", "")),
            hardware=str(raw.get("hardware", "")),
            memory=Measured(**{key: int(value) for key, value in memory.items()}),
            latency=MeasuredLatency(**{**latency, "context_tokens": int(latency["context_tokens"])})
            if latency
            else None,
        )
    except (KeyError, TypeError) as error:
        raise InvalidInput(str(path), f"latency is incomplete: {error}") from error


def _numbers(path: Path, raw: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise InvalidInput(str(path), f"{raw!r} is not an object")
    for key, value in raw.items():
        if key not in known:
            raise InvalidInput(f"{path}: {key}", f"unknown; known are {', '.join(known)}")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            raise InvalidInput(f"{path}: {key}", f"{value!r} is not a number of at least 0")
    return {key: value for key, value in raw.items() if value is not None}
