"""Why there is no row: of several reasons the most fundamental, each for as long as it lasts."""

from __future__ import annotations

import math
from itertools import combinations

import pytest

from trio_bridge.gateways.readiness import Blocked, NotReadyError, Readiness, Reason, Settling

ORDER = (
    Reason.NOT_CONNECTED,
    Reason.ASLEEP,
    Reason.CLOCK_SET,
    Reason.NO_ANSWER,
    Reason.USELESS_ANSWERS,
    Reason.LOGGED_OUT,
    Reason.NO_BROKERAGE,
    Reason.COMPETING,
    Reason.UPSTREAM_LOST,
    Reason.SESSION_UNKNOWN,
    Reason.SESSION_STALE,
    Reason.DOWNLOADING,
    Reason.POSITIONS_LACKING,
    Reason.VALUES_AWAITED,
    Reason.POSITIONS_STALE,
    Reason.SETTLING,
    Reason.PROBE_MISSED,
    Reason.STANDBY,
)
WAIT_S = 10.0


def connected() -> Readiness:
    readiness = Readiness()
    readiness.clear(Reason.NOT_CONNECTED)
    return readiness


def reason(readiness: Readiness, now: float = 0.0) -> Reason | None:
    blocked = readiness.why(now)
    return None if blocked is None else blocked.reason


def test_a_new_connection_is_none_yet() -> None:
    assert reason(Readiness()) is Reason.NOT_CONNECTED
    assert connected().why(0.0) is None


def test_every_reason_has_its_place_in_the_order() -> None:
    assert set(ORDER) == set(Reason)


@pytest.mark.parametrize(("first", "second"), [*combinations(ORDER, 2)])
def test_of_two_reasons_the_more_fundamental_is_given(first: Reason, second: Reason) -> None:
    for one, other in ((first, second), (second, first)):
        readiness = connected()
        readiness.block(one)
        readiness.block(other)
        assert reason(readiness) is first
        readiness.clear(first)
        assert reason(readiness) is second
        readiness.clear(second)
        assert readiness.why(0.0) is None


@pytest.mark.parametrize("one", ORDER)
def test_a_reason_lasts_until_it_is_cleared_or_its_instant_has_come(one: Reason) -> None:
    readiness = connected()
    readiness.block(one)
    assert readiness.blocks(one, 1e9)
    readiness.block(one, until=5.0)
    assert [readiness.blocks(one, now) for now in (-1e9, 4.999, 5.0)] == [True, True, False]
    readiness.block(one, until=9.0)
    assert readiness.blocks(one, 5.0)
    readiness.clear(one)
    assert not readiness.blocks(one, 5.0)


@pytest.mark.parametrize("one", ORDER)
def test_what_must_be_vouched_for_again_blocks_by_itself(one: Reason) -> None:
    readiness = connected()
    readiness.block(one)
    readiness.vouch(one, at=100.0, until=120.0)
    assert [readiness.blocks(one, now) for now in (100.0, 119.999, 120.0)] == [False, False, True]
    assert readiness.why(130.0) == Blocked(one, "30 s")
    readiness.vouch(one, at=110.0, until=131.0)
    assert readiness.why(130.0) is None


def test_asking_changes_nothing() -> None:
    readiness = connected()
    readiness.block(Reason.SETTLING, until=5.0)
    readiness.vouch(Reason.POSITIONS_STALE, at=0.0, until=8.0)
    for _ in range(2):
        assert [reason(readiness, now) for now in (9.0, 6.0, 4.0)] == [
            Reason.POSITIONS_STALE,
            None,
            Reason.SETTLING,
        ]


def test_the_text_is_made_of_the_reason_and_its_detail() -> None:
    readiness = connected()
    readiness.block(Reason.NO_ANSWER, "no answer within 10 s")
    blocked = readiness.why(0.0)
    assert blocked is not None
    assert str(blocked) == "the gateway does not answer (no answer within 10 s)"
    error = NotReadyError(blocked)
    assert (error.blocked, str(error)) == (blocked, str(blocked))
    for one in Reason:
        assert "{" not in str(Blocked(one, "30 s"))


def test_the_first_greeks_are_waited_for_from_the_download_on() -> None:
    readiness = connected()
    settling = Settling(readiness, WAIT_S)
    assert reason(readiness, 1e9) is Reason.SETTLING
    settling.start(100.0)
    settling.start(105.0)  # another download brings no new wait
    assert reason(readiness, 109.9) is Reason.SETTLING
    assert not settling.is_over(109.9)
    assert readiness.why(110.0) is None
    assert settling.is_over(110.0)


def test_the_wait_is_over_when_every_option_has_answered() -> None:
    readiness = connected()
    settling = Settling(readiness, WAIT_S)
    settling.answered()  # before there is a download that says which options there are
    assert not settling.is_over(1e9)
    settling.start(100.0)
    settling.answered()
    assert readiness.why(100.0) is None
    settling.start(200.0)
    settling.hold(200.0)
    assert readiness.why(200.0) is None, "what has settled stays so"


def test_an_outage_postpones_the_end_of_the_wait() -> None:
    readiness = connected()
    settling = Settling(readiness, WAIT_S)
    settling.start(100.0)
    settling.hold(105.0)
    settling.answered()  # computed without a link
    assert reason(readiness, math.nextafter(math.inf, 0.0)) is Reason.SETTLING
    settling.start(300.0)
    assert reason(readiness, 309.9) is Reason.SETTLING
    assert readiness.why(310.0) is None


def test_an_outage_before_the_download_starts_no_clock() -> None:
    readiness = connected()
    settling = Settling(readiness, WAIT_S)
    settling.hold(50.0)
    assert not settling.is_over(1e9)


def test_a_download_from_scratch_is_waited_for_anew() -> None:
    readiness = connected()
    settling = Settling(readiness, WAIT_S)
    settling.start(100.0)
    settling.answered()
    settling.forget()
    assert reason(readiness, 1e9) is Reason.SETTLING
    settling.start(200.0)
    assert readiness.why(210.0) is None
