"""The reservations of KV blocks and the queue for them. Pure Python, without threads and clocks.

Reserved blocks never exceed the total, nor do holders of reservations exceed the sequences that the plan runs at once:
more would fit where requests are small, but all would be slower than planned. A request that does not fit queues:
first come, first served, but a smaller request may overtake a larger one that does not fit yet, at most
MOST_OVERTAKINGS times, so that neither a small request waits for a large one's memory nor a large one starves.
"""

from __future__ import annotations

from typing import Literal

MOST_OVERTAKINGS = 8

State = Literal["waiting", "reserved", "released"]


class Reservation:
    """One request for `blocks`: waiting for them, holding them, or done."""

    __slots__ = ("blocks", "is_long", "overtaken", "state")

    def __init__(self, blocks: int, *, is_long: bool) -> None:
        self.blocks = blocks
        self.is_long = is_long
        self.overtaken = 0
        self.state: State = "waiting"


class Ledger:
    """`total_blocks` for `most_holders`; reservations of long contexts together hold at most `long_blocks` of them.

    Not thread-safe: rag/admission/ledger_admission.py holds a lock.
    """

    def __init__(self, total_blocks: int, *, most_holders: int, long_blocks: int | None = None) -> None:
        self.total_blocks = total_blocks
        self.most_holders = most_holders
        self.long_blocks = total_blocks if long_blocks is None else long_blocks
        self.holders = 0
        self.reserved_blocks = 0
        self.reserved_long_blocks = 0
        self.waiting: list[Reservation] = []

    @property
    def free_blocks(self) -> int:
        """Blocks without a reservation; below 0 for a while after `lose`."""
        return self.total_blocks - self.reserved_blocks

    @property
    def free_places(self) -> int:
        """Reservations that may still be granted at once; below 0 for a while after `lose`."""
        return self.most_holders - self.holders

    @property
    def waiting_blocks(self) -> int:
        """Blocks that the queue waits for."""
        return sum(reservation.blocks for reservation in self.waiting)

    def join(self, blocks: int, *, is_long: bool = False) -> Reservation:
        """A new reservation at the end of the queue; `grant` returns it if it is served at once."""
        reservation = Reservation(blocks, is_long=is_long)
        self.waiting.append(reservation)
        return reservation

    def grant(self) -> list[Reservation]:
        """Grant every reservation that may be granted now, and return them in order."""
        granted: list[Reservation] = []
        skipped: list[Reservation] = []
        for reservation in list(self.waiting):
            if self.free_places <= 0 or any(ahead.overtaken >= MOST_OVERTAKINGS for ahead in skipped):
                break
            if not self._fits(reservation):
                skipped.append(reservation)
                continue
            self.waiting.remove(reservation)
            self.holders += 1
            self._count(reservation, reservation.blocks)
            reservation.state = "reserved"
            granted.append(reservation)
            for ahead in skipped:
                ahead.overtaken += 1
        return granted

    def shrink(self, reservation: Reservation, blocks: int, *, is_long: bool = False) -> int:
        """Free what `reservation` holds beyond `blocks`, and return their number. Never grows it.

        A reservation that turns out not to be for a long context no longer counts in the share of those.
        """
        if reservation.state != "reserved":
            return 0
        surplus = max(0, reservation.blocks - blocks)
        self._count(reservation, -reservation.blocks)
        reservation.blocks -= surplus
        reservation.is_long = reservation.is_long and is_long
        self._count(reservation, reservation.blocks)
        return surplus

    def release(self, reservation: Reservation) -> int:
        """End `reservation`, granted or waiting; returns the blocks freed. A second call does nothing."""
        freed = 0
        if reservation.state == "waiting":
            self.waiting.remove(reservation)
        elif reservation.state == "reserved":
            freed = reservation.blocks
            self.holders -= 1
            self._count(reservation, -freed)
        reservation.state = "released"
        return freed

    def lose(self, blocks: int) -> None:
        """Take `blocks` and a place away, after memory ran out. Granted reservations keep theirs."""
        self.total_blocks -= blocks
        self.most_holders = max(1, self.most_holders - 1)
        self.long_blocks = min(self.long_blocks, self.total_blocks)

    def _fits(self, reservation: Reservation) -> bool:
        if reservation.is_long and self.reserved_long_blocks + reservation.blocks > self.long_blocks:
            return False
        return reservation.blocks <= self.free_blocks

    def _count(self, reservation: Reservation, blocks: int) -> None:
        self.reserved_blocks += blocks
        if reservation.is_long:
            self.reserved_long_blocks += blocks
