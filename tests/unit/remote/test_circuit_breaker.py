"""The circuit breaker, by a fake clock."""

from __future__ import annotations

from rag.remote.circuit_breaker import CircuitBreaker


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def opened(clock: Clock) -> CircuitBreaker:
    circuit = CircuitBreaker(failures=3, cool_off_s=1.0, clock=clock)
    for _ in range(3):
        assert circuit.permits()
        circuit.failed()
    return circuit


def test_three_failures_in_a_row_open_it_and_two_do_not() -> None:
    circuit = CircuitBreaker(failures=3)
    for report in (circuit.failed, circuit.failed, circuit.succeeded, circuit.failed, circuit.failed):
        report()
    assert circuit.permits()
    circuit.failed()
    assert not circuit.permits()


def test_while_open_it_gives_the_time_to_wait() -> None:
    clock = Clock()
    circuit = opened(clock)
    clock.now_s += 0.25
    assert not circuit.permits()
    assert circuit.retry_after_s == 0.75


def test_after_the_cool_off_exactly_one_request_is_let_through() -> None:
    clock = Clock()
    circuit = opened(clock)
    clock.now_s += 1.0
    assert [circuit.permits() for _ in range(3)] == [True, False, False]


def test_a_trial_that_succeeds_closes_it_and_one_that_fails_opens_it_again() -> None:
    clock = Clock()
    circuit = opened(clock)
    clock.now_s += 1.0
    assert circuit.permits()
    circuit.failed()
    assert circuit.retry_after_s == 1.0
    clock.now_s += 1.0
    assert circuit.permits()
    circuit.succeeded()
    assert circuit.permits()
