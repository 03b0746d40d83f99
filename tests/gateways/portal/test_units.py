"""What a number of the gateway stands for: in which unit, how coarse, and whether it can stand for
anything."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from tests.gateways.portal.support import QUICK, Rig, portal_rig
from trio_bridge.gateways.portal.definitions import read_magnifier
from trio_bridge.gateways.portal.values import (
    ShapeError,
    read_earliest_day,
    read_magnification,
    read_number,
)
from trio_bridge.model import PositionState, Verdict
from trio_bridge.simulator.book import Book, make_book
from trio_bridge.simulator.listings import list_corn, list_nikkei
from trio_bridge.simulator.portal.faults import Fault

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock

BRIEF = QUICK._replace(settle_s=5.0)
"""The first row does not wait long for what never comes."""


@pytest.fixture
def book() -> Book:
    book = make_book(options=4)
    book.freeze(at=10)
    return book


def state_of(rig: Rig, con_id: int) -> PositionState:
    (found,) = {one.state for one in rig.bridge.states() if one.position.con_id == con_id}
    return found


def first_option(book: Book) -> int:
    return book.market.options()[0].con_id


# Prices in cents --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("displayed", "ruled"),
    [(100, 100), (0, 100), (100, None), (2, None), (2, 100), (None, 100)],
    ids=str,
)
async def test_corn_is_in_dollars_wherever_the_portal_tells_its_unit(
    displayed: Any, ruled: Any, fast_clock: PatientClock, book: Book
) -> None:
    """Multiplier 5,000, price magnifier 100: which of two places tells it is not documented."""
    corn = list_corn(book, book.accounts[0], quantity=20)
    async with portal_rig(book, connect=False) as rig:
        for one in corn:
            rig.sim.quirks.magnification[one.con_id] = displayed
            rig.sim.quirks.magnifier_in_rules[one.con_id] = ruled
        await rig.bridge.connect()
        row = await rig.until_right()
        assert (row.priced, row.verdict) == (row.positions, Verdict.COMPLETE)
        assert rig.only_true_rows()


async def test_a_price_magnifier_that_is_not_known_yet_leaves_options_unpriced(
    fast_clock: PatientClock, book: Book
) -> None:
    corn = list_corn(book, book.accounts[0])[0]
    async with portal_rig(book, timing=BRIEF, connect=False) as rig:
        with rig.sim.faults(Fault("/info-and-rules", status=500)):
            await rig.bridge.connect()
            await rig.until(rig.row)
            row = rig.row()
            assert row is not None
            assert (row.priced, row.verdict) == (row.positions - 6, Verdict.PARTIAL)
            assert state_of(rig, corn.con_id) is PositionState.NO_MULTIPLIER
        await rig.until_right()
        assert state_of(rig, corn.con_id) is PositionState.PRICED


async def test_a_gateway_without_rules_is_believed_what_it_displays(
    fast_clock: PatientClock, book: Book
) -> None:
    list_corn(book, book.accounts[0], quantity=20)
    async with portal_rig(book, connect=False) as rig:
        with rig.sim.faults(Fault("/info-and-rules", status=404)):
            await rig.bridge.connect()
            row = await rig.until_right()
            assert row.priced == row.positions
        assert rig.only_true_rows()


async def test_one_request_tells_the_unit_of_all_options_of_a_product(
    fast_clock: PatientClock,
) -> None:
    book = make_book(options=60)
    book.freeze(at=10)
    async with portal_rig(book) as rig:
        await rig.until_right()
        asked = [one for one in rig.sim.rules.requests if one.path.endswith("/info-and-rules")]
        assert len(asked) == 2, "options on SPX and on ES"


@pytest.mark.parametrize(
    ("rule", "magnifier"),
    [
        ({"magnification": 0}, 1.0),
        ({"magnification": 2}, 100.0),
        ({"magnification": 100}, 100.0),
        ({"magnification": "100"}, 100.0),
        ({"magnification": None}, None),
        ({"magnification": -2}, None),
        ({"magnification": 2.5}, None),
        ({}, None),
        (None, None),
        ("2", None),
    ],
)
def test_a_magnification_is_a_factor_or_its_power_of_ten(
    rule: object, magnifier: float | None
) -> None:
    assert read_magnification(rule) == magnifier


@pytest.mark.parametrize(
    ("rules", "magnifier"),
    [
        ({"priceMagnifier": 100}, 100.0),
        ({"priceMagnifier": None}, 1.0),
        ({"priceMagnifier": 0}, 1.0),
        ({"error": None}, 1.0),
        ([{"priceMagnifier": 100}], 100.0),
    ],
)
def test_rules_without_a_price_magnifier_mean_one(rules: object, magnifier: float) -> None:
    assert read_magnifier({"rules": rules}) == magnifier


@pytest.mark.parametrize("payload", [None, {}, {"rules": None}, {"rules": {"error": "try later"}}])
def test_no_rules_mean_nothing(payload: object) -> None:
    with pytest.raises(ShapeError):
        read_magnifier(payload)


# Expired ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last_day", "settled_days_later", "now", "expired"),
    [
        # Yesterday
        ("20260715", 0, "2026-07-16 10:00 America/New_York", True),
        # An hour ago: PM-settled in Chicago, AM-settled there a day later, and in Frankfurt
        ("20260716", 0, "2026-07-16 16:15 America/Chicago", True),
        ("20260716", 1, "2026-07-16 16:15 America/Chicago", True),
        ("20260717", 0, "2026-07-17 18:30 Europe/Berlin", True),
        # They still trade
        ("20260716", 0, "2026-07-16 15:00 America/Chicago", False),
        ("20260717", 1, "2026-07-17 17:30 Europe/Berlin", False),
    ],
)
async def test_an_option_counts_until_its_last_day_is_over(
    last_day: str,
    settled_days_later: int,
    now: str,
    expired: bool,
    fast_clock: PatientClock,
    book: Book,
) -> None:
    text, _, zone = now.rpartition(" ")
    at = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    settled = datetime.strptime(last_day, "%Y%m%d").date() + timedelta(days=settled_days_later)
    option = first_option(book)
    currency = "EUR" if zone == "Europe/Berlin" else "USD"
    for one in book.market.options():
        book.market.change_contract(one.con_id, currency=currency)
    book.market.change_contract(option, expiry=last_day, real_expiry=f"{settled:%Y%m%d}")
    without = {option} if expired else set()
    async with portal_rig(book, now=lambda: at) as rig:
        row = await rig.until_right(without=without)
        assert row.priced == row.positions - len(without)
        assert row.verdict is (Verdict.PARTIAL if expired else Verdict.COMPLETE)
        state = PositionState.EXPIRED if expired else PositionState.PRICED
        assert state_of(rig, option) is state


def test_the_earliest_day_counts() -> None:
    entry = {"lastTradingDay": "20260717", "expiry": "20260716", "maturity_date": "202607"}
    assert read_earliest_day(entry, "lastTradingDay", "expiry", "maturity_date") == "20260716"
    assert read_earliest_day({"expiry": None}, "lastTradingDay", "expiry") == ""


# What cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {"delta": 2147483647.0},
        {"delta": -40.0},
        {"gamma": -0.5},
        {"vega": 2147483647.0},
        {"vega": -0.5},
        {"theta": -2147483648.0},
    ],
    ids=str,
)
async def test_a_number_that_a_greek_can_not_be_is_not_computed(
    value: dict[str, float], fast_clock: PatientClock, book: Book
) -> None:
    option = first_option(book)
    book.market.override(option, **value)
    async with portal_rig(book, timing=BRIEF) as rig:
        row = await rig.until_right()
        assert (row.priced, row.verdict) == (row.positions - 1, Verdict.PARTIAL)
        assert state_of(rig, option) is PositionState.NO_DATA


# Currencies ---------------------------------------------------------------------------------------


async def test_yen_and_dollars_are_summed_in_the_base_currency(
    fast_clock: PatientClock, book: Book
) -> None:
    list_nikkei(book, book.accounts[0])
    async with portal_rig(book, connect=False) as rig:
        await rig.bridge.connect()
        row = await rig.until_right()
        assert (row.currency, row.priced) == ("USD", row.positions)
        assert row.verdict is Verdict.COMPLETE
        del book.money.rates["JPY"]
        await rig.until(lambda: (row := rig.row()) is not None and row.vega is None)
        row = rig.bridge.get_portfolio_greeks()
        assert (row.vega, row.theta, row.currency) == (None, None, "USD")
        assert row.verdict is Verdict.PARTIAL
        assert None not in (row.delta, row.gamma)


# Coarse texts -------------------------------------------------------------------------------------


async def test_the_row_says_by_how_much_rounded_gammas_may_be_wrong(
    fast_clock: PatientClock,
) -> None:
    book = make_book(options=26)
    book.freeze(at=10)
    async with portal_rig(book, connect=False) as rig:
        rig.sim.quirks.decimals_of["7309"] = 2
        await rig.bridge.connect()
        await rig.until(lambda: (row := rig.row()) is not None and row.priced == row.positions)
        row = rig.bridge.get_portfolio_greeks()
        units = sum(
            abs(held.quantity) * (held.contract.multiplier or 0.0)
            for held in book.positions()
            if held.contract.is_option
        )
        assert row.gamma_error == pytest.approx(0.005 * units)
        assert row.verdict is Verdict.COMPLETE
        assert row.gamma is not None
        assert row.gamma_error is not None
        assert 0 < abs(row.gamma - book.net_greeks().gamma) <= row.gamma_error


@pytest.mark.parametrize(
    ("raw", "value", "error"),
    [
        ("0.271", 0.271, 0.0005),
        ("0.00", 0.0, 0.005),
        ("-0", 0.0, 0.5),
        ("1,300", 1300.0, 0.5),
        ("10.2K", 10_200.0, 50.0),
        ("3M", 3e6, 5e5),
        ("C193.18", 193.18, 0.005),
        ("1.5E-3", 0.0015, 5e-5),
        (".5", 0.5, 0.05),
        ("5.", 5.0, 0.5),
        (0.271, 0.271, 0.0005),
        (0.5, 0.5, 0.05),
        (3, 3.0, 0.5),
        (1e-07, 1e-7, 5e-8),
    ],
)
def test_rounding_changes_at_most_half_a_unit_of_the_last_place(
    raw: object, value: float, error: float
) -> None:
    reading = read_number(raw)
    assert reading is not None
    assert (reading.value, reading.error) == pytest.approx((value, error))
