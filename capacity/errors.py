"""Errors of the capacity model's inputs.

    CapacityError
    ├── UnknownName        an unknown model, server, dtype or model_type, with the nearest known names
    ├── InvalidInput       a field is missing, of the wrong type, or out of its range
    └── BrokenFile         a file that can't be read or is not valid JSON, with line and column

A workload that does not fit is a result, not an error (see planning/refusal.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CapacityError(ValueError):
    """Base class. The message is one line: the field, the value, the limit and the remedy."""


class UnknownName(CapacityError):  # noqa: N818 - named for what happened
    """A name that is in no table or catalogue."""

    def __init__(self, kind: str, name: str, known: Iterable[str], remedy: str = "") -> None:
        self.nearest = nearest(name, known)
        hint = f"; nearest: {', '.join(self.nearest)}" if self.nearest else ""
        super().__init__(f"unknown {kind} {name!r}{hint}{'; ' + remedy if remedy else ''}")


class InvalidInput(CapacityError):  # noqa: N818
    """A missing value, or one of the wrong type or range, with its field."""

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        super().__init__(f"{field}: {problem}")


class BrokenFile(CapacityError):  # noqa: N818
    """A file that can't be read or parsed; a JSON error has its line and column."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` known names closest to `name`, best first; letter case and punctuation weigh little."""
    folded = _folded(name)

    def closeness(candidate: str) -> tuple[float, str]:
        other = _folded(candidate)
        ratio = difflib.SequenceMatcher(None, folded, other).ratio()
        return (-(ratio + (0.5 if folded and (folded in other or other in folded) else 0.0)), candidate)

    return sorted(set(known), key=closeness)[:count]


def _folded(name: str) -> str:
    return "".join(character for character in name.rsplit("/", 1)[-1].lower() if character.isalnum())
