"""The last deployment from this directory, in a small file that `clean` and `status` read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = Path(".deployment.json")


@dataclass(frozen=True, slots=True)
class State:
    """The endpoint, its region, and the image and bucket it was deployed from."""

    endpoint: str
    region: str
    image: str
    bucket: str


def read_state(path: Path = FILE) -> State | None:
    """The stored state, or None where there is none or it can't be read."""
    try:
        return State(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_state(state: State, path: Path = FILE) -> None:
    """Store `state`."""
    path.write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")


def forget_state(endpoint: str, path: Path = FILE) -> None:
    """Delete the stored state if it is of `endpoint`."""
    state = read_state(path)
    if state is not None and state.endpoint == endpoint:
        path.unlink(missing_ok=True)
