"""What was deployed from this directory, remembered in one small file, so that `clean` and `status` find it again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = Path(".deployment.json")


@dataclass(frozen=True, slots=True)
class State:
    """The endpoint, where it is, and the image and bucket it came from."""

    endpoint: str
    region: str
    image: str
    bucket: str


def read_state(path: Path = FILE) -> State | None:
    """What was written, or None where there is nothing or it can't be read."""
    try:
        return State(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_state(state: State, path: Path = FILE) -> None:
    """Remember `state`."""
    path.write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")


def forget_state(endpoint: str, path: Path = FILE) -> None:
    """Forget `endpoint`, if it is the one remembered."""
    state = read_state(path)
    if state is not None and state.endpoint == endpoint:
        path.unlink(missing_ok=True)
