"""Three failures in a row open the circuit; only a whole replay closes it."""

from __future__ import annotations

from trio_bridge.delivery.breaker import BreakerState, DBCircuitBreaker, Transition

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def opened() -> DBCircuitBreaker:
    breaker = DBCircuitBreaker()
    breaker.hold_back("backlog")
    return breaker


def test_the_third_failure_in_a_row_opens_it() -> None:
    breaker = DBCircuitBreaker()
    assert breaker.record_failure("refused") is None
    assert breaker.record_failure("refused") is None
    assert breaker.record_failure("refused") == Transition(
        CLOSED, OPEN, "3 failures in a row: refused"
    )
    assert breaker.state is OPEN


def test_a_success_starts_the_count_again() -> None:
    breaker = DBCircuitBreaker()
    for _ in range(5):
        breaker.record_failure("refused")
        breaker.record_failure("refused")
        breaker.record_success()
    assert breaker.state is CLOSED


def test_a_probe_that_fails_opens_it_again_at_once() -> None:
    breaker = opened()
    assert breaker.probe("60 s") == Transition(OPEN, HALF_OPEN, "60 s")
    assert breaker.record_failure("refused") == Transition(HALF_OPEN, OPEN, "refused")


def test_it_closes_only_from_half_open_and_forgets_the_failures() -> None:
    breaker = DBCircuitBreaker(failure_threshold=2)
    breaker.record_failure("refused")
    assert breaker.close("no") is None
    breaker.record_failure("refused")
    assert breaker.close("no") is None
    assert breaker.state is OPEN
    breaker.probe("try")
    assert breaker.close("all is in") == Transition(HALF_OPEN, CLOSED, "all is in")
    assert breaker.record_failure("refused") is None


def test_a_backlog_holds_the_writer_back_without_any_failure() -> None:
    breaker = DBCircuitBreaker()
    assert breaker.hold_back("backlog") == Transition(CLOSED, OPEN, "backlog")
    assert breaker.hold_back("backlog") is None
    assert breaker.failures == 0


def test_only_an_open_circuit_is_probed() -> None:
    assert DBCircuitBreaker().probe("try") is None
    breaker = opened()
    assert breaker.probe("try") is not None
    assert breaker.probe("again") is None
    assert breaker.state is HALF_OPEN


def test_failures_while_open_change_nothing() -> None:
    breaker = opened()
    assert breaker.record_failure("refused") is None
    assert breaker.state is OPEN
