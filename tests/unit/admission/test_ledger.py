"""The ledger's invariants, by a state machine of random operations."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from rag.admission.ledger import MOST_OVERTAKINGS, Ledger, Reservation

TOTAL, PLACES = 24, 5


class LedgerMachine(RuleBasedStateMachine):
    """Join, shrink, release, leave the queue, lose memory: in any order."""

    reservations = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(TOTAL, most_holders=PLACES, long_blocks=10)
        self.all: list[Reservation] = []

    @rule(target=reservations, blocks=st.integers(1, 10), is_long=st.booleans())
    def join(self, blocks: int, is_long: bool) -> Reservation:
        reservation = self.ledger.join(blocks, is_long=is_long)
        self.all.append(reservation)
        self.ledger.grant()
        return reservation

    @rule(reservation=reservations, blocks=st.integers(1, 10), is_long=st.booleans())
    def shrink(self, reservation: Reservation, blocks: int, is_long: bool) -> None:
        before = reservation.blocks
        freed = self.ledger.shrink(reservation, blocks, is_long=is_long)
        assert reservation.blocks == before - freed <= before
        self.ledger.grant()

    @rule(reservation=consumes(reservations))
    def release_or_cancel(self, reservation: Reservation) -> None:
        self.ledger.release(reservation)
        assert self.ledger.release(reservation) == 0  # a second release frees nothing
        self.ledger.grant()

    @rule()
    def lose_memory(self) -> None:
        if self.ledger.total_blocks > 10:
            self.ledger.lose(1)

    @invariant()
    def sums_match_the_reservations(self) -> None:
        held = [reservation for reservation in self.all if reservation.state == "reserved"]
        assert self.ledger.reserved_blocks == sum(reservation.blocks for reservation in held)
        assert self.ledger.reserved_long_blocks == sum(item.blocks for item in held if item.is_long)
        assert self.ledger.holders == len(held)

    @invariant()
    def sums_never_exceed_the_plan(self) -> None:
        assert self.ledger.reserved_blocks <= TOTAL
        assert self.ledger.reserved_long_blocks <= 10
        assert self.ledger.holders <= PLACES

    @invariant()
    def the_first_in_the_queue_waits_only_for_memory_or_a_place(self) -> None:
        self.ledger.grant()
        if self.ledger.waiting:
            first = self.ledger.waiting[0]
            short_of_share = first.is_long and self.ledger.reserved_long_blocks + first.blocks > self.ledger.long_blocks
            assert first.blocks > self.ledger.free_blocks or short_of_share or self.ledger.free_places <= 0

    @invariant()
    def no_reservation_is_overtaken_more_often_than_allowed(self) -> None:
        assert all(reservation.overtaken <= MOST_OVERTAKINGS for reservation in self.all)


TestLedger = pytest.mark.slow(LedgerMachine.TestCase)


def test_a_small_request_overtakes_a_large_one_that_does_not_fit_yet() -> None:
    ledger = Ledger(10, most_holders=10)
    running, large, small = ledger.join(6), ledger.join(8), ledger.join(2)
    assert ledger.grant() == [running, small]
    ledger.release(small)
    ledger.release(running)
    assert ledger.grant() == [large]


def test_a_large_request_is_overtaken_a_fixed_number_of_times_and_then_granted_first() -> None:
    ledger = Ledger(10, most_holders=10)
    running, large = ledger.join(6), ledger.join(8)
    ledger.grant()
    for _ in range(MOST_OVERTAKINGS):
        small = ledger.join(1)
        assert ledger.grant() == [small]
        ledger.release(small)
    late = ledger.join(1)
    assert ledger.grant() == []
    ledger.release(running)
    assert ledger.grant() == [large, late]


def test_long_contexts_hold_no_more_than_their_share() -> None:
    ledger = Ledger(10, most_holders=10, long_blocks=4)
    first, second, short = ledger.join(4, is_long=True), ledger.join(4, is_long=True), ledger.join(4)
    assert ledger.grant() == [first, short]
    ledger.shrink(first, 3)  # it turns out not to be long, and leaves the share
    assert ledger.reserved_long_blocks == 0
    ledger.release(short)
    assert ledger.grant() == [second]


def test_holders_never_exceed_the_plan_s_sequences_and_waiting_for_a_place_is_in_order() -> None:
    ledger = Ledger(10, most_holders=2)
    first, second, large, small = ledger.join(1), ledger.join(1), ledger.join(4), ledger.join(1)
    assert ledger.grant() == [first, second]
    ledger.release(first)
    assert ledger.grant() == [large]
    assert small.state == "waiting"
    ledger.lose(5)
    ledger.release(second)
    assert ledger.grant() == []  # a place was lost with the memory
