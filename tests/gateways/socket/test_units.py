"""What a number of the gateway stands for: in which unit, and whether it can stand for anything."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from tests.gateways.socket.support import DETAILS, Rig, options_of, socket_rig, still_book
from trio_bridge.model import PositionState, Verdict
from trio_bridge.simulator.listings import YEN, list_corn, list_nikkei

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock
    from trio_bridge.simulator.book import Book


def state_of(rig: Rig, con_id: int) -> PositionState:
    (found,) = {one.state for one in rig.bridge.states() if one.position.con_id == con_id}
    return found


def asked_about(rig: Rig) -> list[int]:
    """The contracts whose details were requested."""
    return [int(one.fields[3]) for one in rig.sim.received(DETAILS)]


def flat_book() -> Book:
    book = still_book(options=0)
    for held in book.positions():
        book.set_position(held.account, held.contract.con_id, 0)
    return book


# Prices in cents --------------------------------------------------------------------------------


async def test_two_corn_options_are_65_dollars_a_volatility_point_not_6500(
    fast_clock: PatientClock,
) -> None:
    """Multiplier 5,000, price magnifier 100."""
    book = flat_book()
    call, put = list_corn(book, book.accounts[0], quantity=2)
    values = [book.moment.true_value(one.con_id) for one in (call, put)]
    async with socket_rig(book) as rig:
        row = await rig.until_right()
        assert row.vega == pytest.approx(2 * 50 * sum(one.vega for one in values))
        assert row.theta == pytest.approx(2 * 50 * sum(one.theta for one in values))
        assert row.delta == pytest.approx(2 * 5000 * sum(one.delta for one in values))
        assert row.gamma == pytest.approx(2 * 5000 * sum(one.gamma for one in values))
        assert (row.currency, row.gamma_error) == ("USD", 0.0)
        assert row.verdict is Verdict.COMPLETE


async def test_a_price_magnifier_that_is_not_known_yet_leaves_options_unpriced(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=0)
    corn, _ = list_corn(book, book.accounts[0])
    async with socket_rig(book, connect=False) as rig:
        rig.sim.quirks.details_delay_s = math.inf
        await rig.bridge.connect()
        await rig.until(rig.row)
        row = rig.row()
        assert row is not None
        assert (row.positions, row.priced, row.vega) == (6, 4, None)
        assert row.verdict is Verdict.PARTIAL
        assert state_of(rig, corn.con_id) is PositionState.NO_MULTIPLIER
        rig.sim.quirks.details_delay_s = 0.0
        await rig.until_right()
        assert state_of(rig, corn.con_id) is PositionState.PRICED


async def test_a_product_is_asked_about_once_also_over_reconnects(fast_clock: PatientClock) -> None:
    book = still_book(options=60)
    index_options = {one.con_id for one in options_of(book) if one.sec_type == "OPT"}
    assert len(index_options) > 30
    async with socket_rig(book) as rig:
        await rig.until_right()
        assert 1 <= len(index_options & set(asked_about(rig))) <= 3
        before = len(asked_about(rig))
        await rig.bridge.disconnect()
        await rig.bridge.connect()
        row = await rig.until_right()
        assert row.priced == row.positions
        assert not index_options & set(asked_about(rig)[before:])


# Expired ----------------------------------------------------------------------------------------

CHICAGO, FRANKFURT = ZoneInfo("US/Central"), ZoneInfo("MET")


@pytest.mark.parametrize(
    "at",
    [
        datetime(2026, 7, 16, 15, 15, tzinfo=CHICAGO),
        datetime(2026, 7, 17, 8, 30, tzinfo=CHICAGO),
        datetime(2026, 7, 17, 17, 30, tzinfo=FRANKFURT),
        datetime(2026, 1, 16, 13, 0, tzinfo=FRANKFURT),
    ],
)
@pytest.mark.parametrize("settled_days_later", [0, 1], ids=["PM", "AM"])
@pytest.mark.parametrize("hours", [-1, 1])
async def test_an_option_counts_until_its_last_trading_instant_though_its_line_lives(
    at: datetime, settled_days_later: int, hours: int, fast_clock: PatientClock
) -> None:
    book = still_book(options=4)
    option = options_of(book)[0]
    settled_on = at.date() + timedelta(days=settled_days_later)
    book.market.end_trading(option.con_id, at, settled_on=settled_on)
    book.market.clear_quirks()  # whether that has passed is up to the bridge's clock
    expired = {option.con_id} if hours > 0 else set()
    now = (at + timedelta(hours=hours)).astimezone(UTC)
    async with socket_rig(book, now=lambda: now) as rig:
        row = await rig.until_right(without=expired)
        assert (row.positions, row.priced) == (8, 8 - len(expired))
        assert row.verdict is (Verdict.PARTIAL if expired else Verdict.COMPLETE)
        state = PositionState.EXPIRED if expired else PositionState.PRICED
        assert state_of(rig, option.con_id) is state
        # Its line goes on.
        assert option.con_id in rig.sim.subscribed()


async def test_an_option_whose_last_day_was_yesterday_is_expired(fast_clock: PatientClock) -> None:
    book = still_book(options=4)
    option = options_of(book)[0]
    book.market.change_contract(option.con_id, expiry="20260715")
    now = datetime(2026, 7, 16, 14, 30, tzinfo=UTC)
    async with socket_rig(book, now=lambda: now) as rig:
        row = await rig.until_right(without={option.con_id})
        assert (row.greeks_age_s, row.verdict) == (0.0, Verdict.PARTIAL)
        assert state_of(rig, option.con_id) is PositionState.EXPIRED


async def test_an_option_expires_while_the_service_runs(fast_clock: PatientClock) -> None:
    book = still_book(options=4)
    option = options_of(book)[0]
    at = datetime(2026, 7, 16, 15, 15, tzinfo=CHICAGO)
    book.market.end_trading(option.con_id, at)
    book.market.clear_quirks()
    now = at.astimezone(UTC) - timedelta(seconds=1)
    async with socket_rig(book, now=lambda: now) as rig:
        assert (await rig.until_right()).verdict is Verdict.COMPLETE
        now += timedelta(seconds=1)
        row = await rig.until_right(without={option.con_id})
        assert row.verdict is Verdict.PARTIAL


# What cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {"delta": 2147483647.0},
        {"delta": -40.0},
        {"gamma": -0.5},
        {"gamma": 2147483647.0},
        {"vega": -0.5},
        {"theta": -2147483648.0},
    ],
    ids=str,
)
async def test_a_number_that_a_greek_can_not_be_is_not_computed(
    value: dict[str, float], fast_clock: PatientClock
) -> None:
    book = still_book(options=4)
    option = options_of(book)[0]
    book.market.override(option.con_id, **value)
    async with socket_rig(book) as rig:
        row = await rig.until_right()
        assert (row.positions, row.priced, row.verdict) == (8, 7, Verdict.PARTIAL)
        assert state_of(rig, option.con_id) is PositionState.NO_DATA


# Currencies ---------------------------------------------------------------------------------------


async def test_yen_and_dollars_are_summed_in_the_base_currency(fast_clock: PatientClock) -> None:
    book = still_book(options=4)
    yen = list_nikkei(book, book.accounts[0])
    async with socket_rig(book, connect=False) as rig:
        await rig.bridge.connect()
        row = await rig.until_right()
        assert (row.currency, row.verdict) == ("USD", Verdict.COMPLETE)
        in_yen = sum(2 * 1000 * book.moment.true_value(one.con_id).vega for one in yen)
        book.set_position(book.accounts[0], yen[0].con_id, 0)
        book.set_position(book.accounts[0], yen[1].con_id, 0)
        without = await rig.until_right()
        assert row.vega is not None
        assert without.vega is not None
        assert row.vega - without.vega == pytest.approx(in_yen * YEN)


async def test_without_a_rate_vega_and_theta_are_null_and_the_rest_stays(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=4)
    list_nikkei(book, book.accounts[0])
    async with socket_rig(book, connect=False) as rig:
        await rig.bridge.connect()
        right = await rig.until_right()
        del book.money.rates["JPY"]
        await rig.until(lambda: (row := rig.row()) is not None and row.vega is None)
        row = rig.bridge.get_portfolio_greeks()
        assert (row.vega, row.theta) == (None, None)
        assert (row.delta, row.gamma, row.currency) == (right.delta, right.gamma, "USD")
        assert (row.positions, row.priced) == (right.positions, right.priced)
        assert (right.verdict, row.verdict) == (Verdict.COMPLETE, Verdict.PARTIAL)


async def test_options_in_yen_alone_stay_in_yen(fast_clock: PatientClock) -> None:
    book = flat_book()
    yen = list_nikkei(book, book.accounts[0])
    async with socket_rig(book) as rig:
        row = await rig.until_right()
        assert (row.currency, row.verdict) == ("JPY", Verdict.COMPLETE)
        in_yen = sum(2 * 1000 * book.moment.true_value(one.con_id).vega for one in yen)
        assert row.vega == pytest.approx(in_yen)
