"""The catalogue: facts with their sources, in catalog/*.json, read once, on first use."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from capacity.errors import BrokenFile

_FOLDER = Path(__file__).parent / "catalog"


def read_json(path: Path) -> Any:
    """The JSON document at `path`; BrokenFile names the line and the column where it breaks."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BrokenFile(f"{path}: can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BrokenFile(f"{path}: not UTF-8 text (byte {error.start})") from error
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BrokenFile(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError:
        raise BrokenFile(f"{path}: nested too deeply") from None


@functools.cache
def document(name: str) -> Any:
    """catalog/<name>.json, parsed once a process; callers must not change it."""
    return read_json(_FOLDER / f"{name}.json")


def folder() -> Path:
    """The folder of the catalogue's files."""
    return _FOLDER
