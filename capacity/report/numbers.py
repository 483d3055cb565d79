"""Numbers and dates as a language writes them: the same figures with other separators."""

from __future__ import annotations

import datetime
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Numbers:
    """The formats of one language: `thousands` and `decimal` separators, and a date pattern for strftime."""

    thousands: str
    decimal: str
    date_pattern: str
    moment_pattern: str

    def number(self, value: float, digits: int = 0) -> str:
        """`value` with `digits` decimals, grouped by thousands."""
        return self._marked(f"{value:,.{digits}f}")

    def trimmed(self, value: float, digits: int = 2) -> str:
        """`value` with at most `digits` decimals, trailing zeros dropped."""
        plain = f"{value:,.{digits}f}"
        if "." in plain:
            plain = plain.rstrip("0").rstrip(".")
        return self._marked(plain)

    def _marked(self, plain: str) -> str:
        """English separators replaced by the language's."""
        return plain.translate(str.maketrans(",.", self.thousands + self.decimal))

    def percent(self, share: float, digits: int = 0) -> str:
        """A share as per cent."""
        return f"{self.number(share * 100, digits)}%"

    def gib(self, value: float, digits: int = 1) -> str:
        """A size in GiB."""
        return f"{self.number(value, digits)} GiB"

    def date(self, iso: str) -> str:
        """The day of an ISO moment."""
        return datetime.datetime.fromisoformat(iso).strftime(self.date_pattern)

    def moment(self, iso: str) -> str:
        """Day and time of an ISO moment."""
        return datetime.datetime.fromisoformat(iso).strftime(self.moment_pattern)


PORTUGUESE = Numbers(".", ",", "%d/%m/%Y", "%d/%m/%Y %H:%M:%S")
ENGLISH = Numbers(",", ".", "%Y-%m-%d", "%Y-%m-%d %H:%M:%S")
