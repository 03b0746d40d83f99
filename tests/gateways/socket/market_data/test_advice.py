"""A code is advice until the data say otherwise, and a line that is given up is cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.socket.market_data.support import age_of, ids_of, ticking, times_asked
from tests.gateways.socket.support import CANCEL, SUBSCRIBE, socket_rig, still_book
from tests.support.heard import with_code
from trio_bridge.events.data import CompetingSession, CompetingSessionEnded, NotSubscribed
from trio_bridge.events.gateway import GatewayRemark
from trio_bridge.gateways.socket.market_data.feed import ANSWER_S
from trio_bridge.gateways.socket.market_data.refusals import ASK_REFUSED_S
from trio_bridge.model import DataType, PositionState, Verdict
from trio_bridge.simulator.tws.quirks import Advice

if TYPE_CHECKING:
    from tests.gateways.socket.support import Rig
    from tests.support.patient_clock import PatientClock

CODES = (354, 10089, 10090, 10091, 10167, 10168, 10186)
LATE_S = 2.0


async def most_lines(rig: Rig, seconds: int) -> int:
    """The most market data lines in use at the gateway within this time."""
    most = 0
    for _ in range(seconds):
        await trio.sleep(1)
        most = max(most, rig.sim.lines_in_use)
    return most


@pytest.mark.parametrize(
    ("codes", "data_type"),
    [((10167, 10091), DataType.DELAYED), ((10089,), DataType.FROZEN)]
    + [((code,), DataType.LIVE) for code in CODES],
    ids=str,
)
async def test_whatever_code_comes_before_valid_ticks_the_option_is_priced(
    codes: tuple[int, ...], data_type: DataType, fast_clock: PatientClock
) -> None:
    book = still_book(options=3)
    advised = ids_of(book)[0]
    async with socket_rig(book, connect=False) as rig:
        rig.sim.quirks.advice[advised] = Advice(codes, int(data_type))
        await rig.bridge.connect()
        assert (await rig.until_right()).data_type is data_type
        await trio.sleep(30)
        row = await rig.until_right()
        assert (row.greeks_age_s, row.verdict) == (0.0, Verdict.COMPLETE)
        assert rig.sim.received(CANCEL) == []
        assert len(rig.sim.received(SUBSCRIBE)) == 3
        assert rig.told(NotSubscribed) == []
        (event,) = rig.told(GatewayRemark)
        assert (event.code, event.contracts) == (codes[0], 1)


@pytest.mark.parametrize("code", CODES)
async def test_without_a_computation_it_is_refused_and_cancelled_and_no_line_is_leaked(
    code: int, faster_clock: PatientClock
) -> None:
    book = still_book(options=3)
    advised = ids_of(book)[0]
    async with socket_rig(book, connect=False, ib_market_data_type=DataType.LIVE) as rig:
        rig.sim.quirks.advice[advised] = Advice((code,), int(DataType.LIVE), ticks=False)
        await rig.bridge.connect()
        await rig.until(lambda: times_asked(rig, advised))
        asked_at = times_asked(rig, advised)[0]
        assert (await rig.until_right(without={advised})).verdict is Verdict.PARTIAL
        await rig.until(lambda: rig.sim.lines_in_use == 2)
        assert ANSWER_S <= trio.current_time() - asked_at <= ANSWER_S + LATE_S
        trouble = rig.bridge.inputs().troubles[advised]
        assert trouble.state is PositionState.REFUSED
        assert str(code) in trouble.reason
        assert "IB_MARKET_DATA_TYPE" in trouble.reason

        assert await most_lines(rig, 600) == 3
        first, again = times_asked(rig, advised)[:2]
        assert again - first == pytest.approx(ANSWER_S + ASK_REFUSED_S, abs=2 * LATE_S)
        (event,) = rig.told(NotSubscribed)
        assert (event.code, event.contracts) == (code, 1)

        del rig.sim.quirks.advice[advised]
        assert (await rig.until_right()).verdict is Verdict.COMPLETE
        assert rig.bridge.inputs().troubles == {}


async def test_codes_for_a_line_that_lives_change_nothing_and_leak_nothing(
    faster_clock: PatientClock,
) -> None:
    book = still_book(options=3)
    advised = ids_of(book)[0]
    async with socket_rig(book) as rig, ticking(book):
        await trio.sleep(5)
        for _ in range(10):
            for code in CODES:
                rig.sim.say_of_lines([advised], code)
            assert await most_lines(rig, 60) == 3
            assert age_of(rig) == 0.0
            assert rig.bridge.get_portfolio_greeks().verdict is Verdict.COMPLETE
        assert rig.sim.received(CANCEL) == []
        assert rig.told(NotSubscribed) == []


async def test_a_quiet_line_that_gets_a_code_is_asked_once_more(faster_clock: PatientClock) -> None:
    """10089 for a line that lives but has nothing to say."""
    book = still_book(options=3)
    advised = ids_of(book)[0]
    async with socket_rig(book) as rig:
        await rig.until_right()
        await trio.sleep(2)
        rig.sim.say_of_lines([advised], 10089)
        await trio.sleep(ANSWER_S + LATE_S)
        assert len(times_asked(rig, advised)) == 2
        assert (await rig.until_right()).greeks_age_s == 0.0
        assert await most_lines(rig, 600) == 3
        assert rig.told(NotSubscribed) == []


async def test_many_that_are_refused_at_once_are_one_event(faster_clock: PatientClock) -> None:
    book = still_book(options=40)
    async with socket_rig(book, connect=False, ib_market_data_type=DataType.LIVE) as rig:
        rig.sim.refuse_market_data(ids_of(book), 354)
        await rig.bridge.connect()
        await rig.until_told(NotSubscribed)
        await trio.sleep(60)
        (event,) = rig.told(NotSubscribed)
        assert rig.bridge.get_portfolio_greeks().verdict is Verdict.PARTIAL
        assert event.contracts == 40
        assert event.contract.count(", ") == 4


# 10197 for one contract -------------------------------------------------------------------------


async def test_10197_for_one_contract_while_others_stream_is_no_competing_session(
    faster_clock: PatientClock,
) -> None:
    book = still_book(options=4)
    stopped = ids_of(book)[0]
    async with socket_rig(book, greeks_max_age_s=50.0) as rig, ticking(book):
        await trio.sleep(5)
        rig.sim.pause_ticks([stopped])
        stopped_at = trio.current_time()
        for _ in range(12):
            rig.sim.say_of_lines([stopped], 10197, times=5)
            await trio.sleep(10)
            row = rig.row()
            assert row is not None
            silent_s = trio.current_time() - stopped_at
            if silent_s > 50 + LATE_S:
                assert (row.priced, row.greeks_age_s) == (7, 0.0)
                assert row.verdict is Verdict.PARTIAL
            elif silent_s < 50:
                assert row.verdict is Verdict.COMPLETE
                assert row.greeks_age_s == pytest.approx(silent_s, abs=LATE_S)
            trouble = rig.bridge.inputs().troubles[stopped]
            assert trouble.state is PositionState.REFUSED
            assert "10197" in trouble.reason
        assert rig.told(CompetingSession) == []
        assert rig.told(CompetingSessionEnded) == []
        assert len(with_code(rig.events, 10197)) == 1
        assert rig.sim.lines_in_use == 4

        rig.sim.resume_ticks()
        await rig.until(lambda: (now := rig.row()) and now.priced == 8)
        assert rig.bridge.get_portfolio_greeks().verdict is Verdict.COMPLETE


async def test_10197_for_every_line_in_turn_is_one(faster_clock: PatientClock) -> None:
    book = still_book(options=4)
    async with socket_rig(book) as rig, ticking(book):
        await trio.sleep(5)
        for con_id in ids_of(book):
            assert rig.told(CompetingSession) == []
            rig.sim.pause_ticks([con_id])
            rig.sim.say_of_lines([con_id], 10197)
            await trio.sleep(0.5)
        await rig.until_told(CompetingSession)
        await trio.sleep(5)
        assert len(with_code(rig.events, 10197)) == 1, "the contracts are not named besides"
