"""Units: bytes inside, GiB only where people read. GB is 10⁹ bytes and is never printed as GiB."""

from __future__ import annotations

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
