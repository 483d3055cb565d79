"""Units and whole numbers: bytes in the code, GiB in what is printed. GB is 10⁹ bytes and is never printed as GiB."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

MIB = 2**20
GIB = 2**30
TIB = 2**40
GB = 10**9


def ceil_div(amount: int, size: int) -> int:
    """The number of whole pieces of `size` that hold `amount` (both integers, size > 0)."""
    return -(-amount // size)


def round_up(amount: int, multiple: int) -> int:
    """`amount` rounded up to a whole multiple (multiple > 0)."""
    return ceil_div(amount, multiple) * multiple


def largest(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `limit` that fits, 0 where none does. All numbers below one that fits must fit."""
    return bisect_left(range(1, limit + 1), True, key=lambda number: not fits(number))


def gib(size_bytes: float) -> float:
    """GiB, to six digits: the precision of every report figure."""
    return round(size_bytes / GIB, 6)
