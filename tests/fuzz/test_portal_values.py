"""Whatever JSON the portal sends: no number that is none, no error but the one that is expected."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.gateways.portal import values
from trio_bridge.gateways.portal.account import read_accounts
from trio_bridge.gateways.portal.definitions import (
    read_contract_info,
    read_definitions,
    read_magnifier,
)
from trio_bridge.gateways.portal.holdings import Holdings
from trio_bridge.gateways.portal.login import read_status, read_tickle
from trio_bridge.gateways.portal.market_data.board import QuoteBoard
from trio_bridge.gateways.portal.market_data.quotes import read_snapshot
from trio_bridge.gateways.portal.positions import read_page
from trio_bridge.gateways.portal.values import ShapeError
from trio_bridge.model import DataType, PositionState
from trio_bridge.risk.greeks import LARGEST_CREDIBLE
from trio_bridge.risk.portfolio import Portfolio, aggregate, standings

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.long

NUMBER_LIKE = st.text(alphabet="0123456789.,-+CHKMB%eE @x\u0663\u00b2\u2212_nanif", max_size=45)
SCALARS = st.one_of(
    NUMBER_LIKE,
    st.text(max_size=12),
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 5),
    st.floats(),
    st.sampled_from(["-2", -2, "-1", "1.7976931348623157E308", "NaN", "Infinity", 1e15, "1e999"]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
CON_IDS = st.sampled_from([1, 2, 3, "1", "2@SMART", 0, None])
KINDS = st.sampled_from(["OPT", "FOP", "FUT", "STK", "CASH", "", "?", None]) | JSON


def rarely_wrong(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(usual, usual, usual, JSON)


ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "conid": rarely_wrong(CON_IDS),
        "conidEx": rarely_wrong(CON_IDS),
        "position": rarely_wrong(st.one_of(SCALARS, st.integers(-5, 5))),
        "assetClass": KINDS,
        "secType": KINDS,
        "instrument_type": KINDS,
        "multiplier": SCALARS,
        "expiry": SCALARS,
        "lastTradingDay": SCALARS,
        "displayRule": st.one_of(JSON, st.builds(lambda one: {"magnification": one}, SCALARS)),
        "rules": st.one_of(JSON, st.builds(lambda one: {"priceMagnifier": one}, SCALARS)),
        "ticker": SCALARS,
        "symbol": SCALARS,
        "currency": SCALARS,
        "undConid": rarely_wrong(CON_IDS),
        "underlying_con_id": rarely_wrong(CON_IDS),
        "model": SCALARS,
        "accountId": SCALARS,
        "authenticated": JSON,
        "connected": JSON,
        "competing": JSON,
        **dict.fromkeys(values.NUMBER_FIELDS, rarely_wrong(SCALARS)),
        values.UNDERLYING_CON_ID: rarely_wrong(CON_IDS),
        values.AVAILABILITY: rarely_wrong(st.sampled_from(["R", "ZB", "D", "Y", "N"])),
    },
)
PAYLOADS = st.one_of(
    st.lists(ENTRIES, max_size=4),
    ENTRIES,
    st.builds(lambda entries: {"secdef": entries}, st.lists(ENTRIES, max_size=3)),
    st.builds(lambda status: {"iserver": {"authStatus": status}}, ENTRIES),
    JSON,
)


@given(raw=JSON)
def numbers_are_numbers(raw: object) -> None:
    reading = values.read_number(raw)
    if reading is not None:
        assert math.isfinite(reading.value)
        assert abs(reading.value) < LARGEST_CREDIBLE
        if isinstance(raw, str):
            assert any(letter in "0123456789" for letter in raw)
    positive = values.read_positive(raw)
    assert positive is None or 0 < positive < LARGEST_CREDIBLE
    con_id = values.read_con_id(raw)
    assert con_id is None or (type(con_id) is int and con_id > 0)
    assert values.read_availability(raw) in {None, *DataType}


@given(
    pages=st.lists(PAYLOADS, max_size=3),
    definitions=st.lists(PAYLOADS, max_size=2),
    info=PAYLOADS,
    snapshots=st.lists(PAYLOADS, max_size=4),
    setting=st.sampled_from(DataType),
)
def rows_hold_only_numbers(
    pages: list[object],
    definitions: list[object],
    info: object,
    snapshots: list[object],
    setting: DataType,
) -> None:
    book, quotes = Holdings(), QuoteBoard(setting)
    for payload in pages:
        held = _unless_shapeless(read_page, payload, "DU1")
        if held is not None:
            book.offer(held, {"DU1"})
            book.offer(held, {"DU1"})
    for payload in definitions:
        found = _unless_shapeless(read_definitions, payload)
        if found is not None:
            book.learn(found)
    definition = _unless_shapeless(read_contract_info, info)
    if definition is not None:
        book.learn({1: definition})
    magnifier = _unless_shapeless(read_magnifier, info)
    for product in book.unmagnified() if magnifier is not None else ():
        assert 0 < magnifier < LARGEST_CREDIBLE
        book.learn_magnifier(product, magnifier)
    _unless_shapeless(read_accounts, info)
    read_status(info)
    read_tickle(info)
    for at, payload in enumerate(snapshots):
        for con_id, entry in _unless_shapeless(read_snapshot, payload) or ():
            quotes.merge(con_id, entry, float(at))
    greeks = {}
    for con_id in book.options():
        under = book.underlying_of(con_id)
        if (told := quotes.greeks(con_id, under, since=0.0)) is not None:
            greeks[con_id] = told
    assert len(book.lacking()) + len(book.undefined()) <= 2 * len(book.positions())
    instant: dict[str, Any] = {"read_at": datetime.now(UTC), "now": 9.0, "max_age_s": 60.0}
    portfolio = Portfolio(book.positions())
    row = aggregate(portfolio, greeks, **instant, interval_s=5.0)
    states = [one.state for one in standings(portfolio, greeks, {}, **instant)]
    assert states.count(PositionState.PRICED) == row.priced
    for value in (row.delta, row.gamma, row.vega, row.theta, row.underlying_price):
        assert value is None or math.isfinite(value)
    assert 0 <= row.priced <= row.positions
    assert row.gamma_error is None or 0 <= row.gamma_error < math.inf


def _unless_shapeless(read: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return read(*arguments)
    except ShapeError:
        return None


def test_no_value_of_the_portal_becomes_a_false_number(fuzz: Callable[..., None]) -> None:
    fuzz(numbers_are_numbers)


def test_no_answer_of_the_portal_becomes_a_false_row(fuzz: Callable[..., None]) -> None:
    fuzz(rows_hold_only_numbers)
