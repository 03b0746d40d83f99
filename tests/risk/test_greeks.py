"""Positions × model Greeks → one row: what counts, how much, and what stays unpriced."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_bridge.model import DataType, Greeks, Position, Snapshot
from trio_bridge.risk.greeks import (
    KNOWN_TYPES,
    OPTION_TYPES,
    Portfolio,
    aggregate,
    valid_greek,
    valid_price,
)

AT = datetime(2026, 7, 15, 14, 30, tzinfo=UTC)
NOW = 10_000.0
MAX_AGE_S = 120.0
THE_FOUR = ("delta", "gamma", "vega", "theta")

MODEL = Greeks(delta=0.5, gamma=0.02, vega=0.11, theta=-0.07, underlying_price=230.5)
"""Four different numbers, so that none can be mistaken for another."""


def held(
    con_id: int = 1,
    sec_type: str = "OPT",
    quantity: float = 1.0,
    multiplier: float | None = 100.0,
    underlying: str = "AAPL",
    account: str = "DU1",
) -> Position:
    return Position(account, con_id, sec_type, "X", quantity, multiplier, underlying)


def model_with(name: str, value: Any) -> Greeks:
    return MODEL._replace(**{name: value})


def row(positions: list[Position], greeks: dict[int, Greeks] | None = None) -> Snapshot:
    return aggregate(
        Portfolio(positions),
        greeks or {},
        timestamp=AT,
        now=NOW,
        max_age_s=MAX_AGE_S,
        interval_s=5.0,
        account="DU1",
    )


def counts(position: Position, greeks: Greeks = MODEL) -> bool:
    return row([position], {position.con_id: greeks}).priced == 1


def sums(snapshot: Snapshot) -> tuple[float | None, ...]:
    return tuple(getattr(snapshot, name) for name in THE_FOUR)


def comparable(snapshot: Snapshot) -> dict[str, Any]:
    values = asdict(snapshot)
    del values["event_id"]
    return values


# What each security type contributes, computed by hand


@pytest.mark.parametrize("sec_type", ["OPT", "FOP", "WAR", "IOPT"])
def test_an_option_adds_quantity_times_multiplier_times_each_greek(sec_type: str) -> None:
    snapshot = row([held(sec_type=sec_type, quantity=-3, multiplier=50)], {1: MODEL})

    assert sums(snapshot) == pytest.approx((-75.0, -3.0, -16.5, 10.5))
    assert (snapshot.positions, snapshot.priced) == (1, 1)


@pytest.mark.parametrize("sec_type", ["STK", "ETF", "FUND", "CFD", "CRYPTO"])
@pytest.mark.parametrize("multiplier", [None, 0.0, 1.0, 100.0])
def test_a_share_adds_its_quantity_to_delta_whatever_its_multiplier(
    sec_type: str, multiplier: float | None
) -> None:
    snapshot = row([held(sec_type=sec_type, quantity=-12.5, multiplier=multiplier)])

    assert sums(snapshot) == (-12.5, 0, 0, 0)
    assert (snapshot.positions, snapshot.priced) == (1, 1)


@pytest.mark.parametrize("sec_type", ["FUT", "CONTFUT"])
def test_a_future_adds_quantity_times_multiplier_to_delta(sec_type: str) -> None:
    snapshot = row([held(sec_type=sec_type, quantity=-2, multiplier=50)])

    assert sums(snapshot) == (-100, 0, 0, 0)
    assert (snapshot.positions, snapshot.priced) == (1, 1)


@pytest.mark.parametrize("sec_type", ["CASH", "BOND", "BILL", "CMDTY", "BAG", "", "???"])
def test_other_types_are_counted_and_add_nothing(sec_type: str) -> None:
    snapshot = row([held(sec_type=sec_type, quantity=7)], {1: MODEL})

    assert sums(snapshot) == (0, 0, 0, 0)
    assert (snapshot.positions, snapshot.priced) == (1, 1)


def test_only_options_have_model_greeks() -> None:
    """A gateway may send Greeks for anything; a share's delta is its quantity."""
    snapshot = row([held(sec_type="STK", quantity=10), held(2, "FUT", 1, 5)], {1: MODEL, 2: MODEL})

    assert sums(snapshot) == (15, 0, 0, 0)
    assert snapshot.underlying_price is None
    assert (snapshot.greeks_age_s, snapshot.data_type) == (None, None)


def test_a_portfolio_is_the_sum_of_its_positions() -> None:
    positions = [
        held(1, "OPT", 10),  # a long call
        held(2, "OPT", -5),  # a short put
        held(3, "STK", -300, None),
        held(4, "FUT", 2, 50),
        held(5, "CASH", 1e6, None),
    ]
    put = Greeks(delta=-0.25, gamma=0.01, vega=0.2, theta=-0.05, underlying_price=230.5)
    snapshot = row(positions, {1: MODEL, 2: put})

    assert snapshot.delta == pytest.approx(500 + 125 - 300 + 100)
    assert snapshot.gamma == pytest.approx(20 - 5)
    assert snapshot.vega == pytest.approx(110 - 100)
    assert snapshot.theta == pytest.approx(-70 + 25)
    assert (snapshot.positions, snapshot.priced) == (5, 5)


@pytest.mark.parametrize("name", THE_FOUR)
def test_each_greek_lands_in_its_own_column(name: str) -> None:
    """In particular vega and theta, which an earlier specification had swapped."""
    nothing = Greeks(delta=0.0, gamma=0.0, vega=0.0, theta=0.0, underlying_price=None)
    greeks = nothing._replace(**{name: 0.25})  # type: ignore[arg-type]  # a name of the four
    snapshot = row([held()], {1: greeks})

    assert {key: getattr(snapshot, key) for key in THE_FOUR} == {
        **dict.fromkeys(THE_FOUR, 0.0),
        name: 25.0,
    }


def test_the_same_option_in_two_accounts_counts_twice() -> None:
    snapshot = row([held(account="DU1"), held(account="DU2", quantity=2)], {1: MODEL})

    assert snapshot.delta == pytest.approx(150)
    assert (snapshot.positions, snapshot.priced) == (2, 2)


def test_sums_are_rounded_once_however_they_cancel() -> None:
    futures = [held(i, "FUT", sign * 1e14, 1e14) for i, sign in enumerate((1, -1))]
    shares = [held(i, "STK", quantity) for i, quantity in enumerate((1.0, 1e-17, -1.0))]

    assert row([futures[0], *shares, futures[1]]).delta == 1e-17


# What the gateway sends that is not a number

NOT_NUMBERS = {
    "not computed": -2.0,
    "missing": None,
    "NaN": math.nan,
    "infinite": math.inf,
    "minus infinite": -math.inf,
    "DBL_MAX": sys.float_info.max,
    "minus DBL_MAX": -sys.float_info.max,
}


@pytest.mark.parametrize("name", THE_FOUR)
@pytest.mark.parametrize("value", NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_an_option_counts_only_when_all_four_are_valid(name: str, value: float | None) -> None:
    snapshot = row([held(1), held(2)], {1: MODEL, 2: model_with(name, value)})

    assert sums(snapshot) == pytest.approx((50, 2, 11, -7))
    assert (snapshot.positions, snapshot.priced) == (2, 1)


@pytest.mark.parametrize("name", THE_FOUR)
@pytest.mark.parametrize("value", [-1.0, 0.0, 2.0, -1.999999, -2.000001, -350.0])
def test_what_only_resembles_a_sentinel_counts(name: str, value: float) -> None:
    snapshot = row([held()], {1: model_with(name, value)})

    assert getattr(snapshot, name) == pytest.approx(100 * value)
    assert snapshot.priced == 1


@given(st.none() | st.floats() | st.sampled_from([*NOT_NUMBERS.values(), 1e15, -1e15]))
def test_gateways_and_sums_agree_on_what_is_a_greek(value: float | None) -> None:
    expected = repr(value) not in map(repr, NOT_NUMBERS.values())
    if value is not None and math.isfinite(value):
        expected = expected and abs(value) < 1e15

    assert valid_greek(value) == expected
    for name in THE_FOUR:
        assert counts(held(), model_with(name, value)) == expected


@pytest.mark.parametrize("sign", [1, -1])
def test_the_first_number_that_is_too_large_is_the_same_for_all(sign: int) -> None:
    """Greeks, quantities, multipliers and prices alike: 1e15 is refused, just below it is not."""
    limit, below = sign * 1e15, sign * math.nextafter(1e15, 0)

    for name in THE_FOUR:
        assert not counts(held(), model_with(name, limit))
        assert counts(held(), model_with(name, below))
    for sec_type in ("OPT", "STK", "FUT", "CASH"):
        assert not counts(held(sec_type=sec_type, quantity=limit))
        assert counts(held(sec_type=sec_type, quantity=below))
    for sec_type in ("OPT", "FUT"):
        assert not counts(held(sec_type=sec_type, multiplier=abs(limit)))
        assert counts(held(sec_type=sec_type, multiplier=abs(below)))
    assert valid_price(limit) is None
    assert valid_price(below) == below


@pytest.mark.parametrize("sec_type", ["OPT", "FOP", "WAR", "IOPT", "FUT", "CONTFUT"])
@pytest.mark.parametrize("multiplier", [None, 0.0, -100.0, math.nan, math.inf])
def test_a_multiplier_that_is_not_known_is_never_guessed(
    sec_type: str, multiplier: float | None
) -> None:
    assert not counts(held(sec_type=sec_type, multiplier=multiplier))


@pytest.mark.parametrize("sec_type", ["OPT", "STK", "FUT", "CASH"])
@pytest.mark.parametrize("quantity", [math.nan, math.inf, -sys.float_info.max])
def test_a_quantity_that_is_not_a_number_is_unpriced(sec_type: str, quantity: float) -> None:
    snapshot = row([held(1, sec_type, quantity), held(2)], {1: MODEL, 2: MODEL})

    assert sums(snapshot) == pytest.approx((50, 2, 11, -7))
    assert (snapshot.positions, snapshot.priced) == (2, 1)


# Zeros and NULLs


def test_no_positions_are_zeros() -> None:
    snapshot = row([])

    assert sums(snapshot) == (0, 0, 0, 0)
    assert (snapshot.positions, snapshot.priced) == (0, 0)
    assert (snapshot.underlying_price, snapshot.greeks_age_s, snapshot.data_type) == (None,) * 3


def test_positions_of_quantity_zero_are_no_positions() -> None:
    assert comparable(row([held(quantity=0), held(2, "STK", -0.0)])) == comparable(row([]))


def test_without_a_single_priced_option_the_four_are_null_not_zero() -> None:
    snapshot = row([held(1), held(2, "STK", 500)])

    assert sums(snapshot) == (None,) * 4
    assert (snapshot.positions, snapshot.priced) == (2, 1)
    assert (snapshot.greeks_age_s, snapshot.data_type) == (None, None)


def test_one_priced_option_is_enough_for_a_row_that_says_what_is_missing() -> None:
    snapshot = row([held(1), held(2), held(3)], {2: MODEL})

    assert sums(snapshot) == pytest.approx((50, 2, 11, -7))
    assert (snapshot.positions, snapshot.priced) == (3, 1)


# Ages and kinds of data


@pytest.mark.parametrize(
    ("current_until", "age_s"),
    [
        (None, 0.0),
        (NOW - 30, 30.0),
        (NOW - MAX_AGE_S, MAX_AGE_S),
        (NOW - MAX_AGE_S - 0.001, None),
        (NOW + 1, 0.0),  # a clock read a moment later
    ],
)
def test_greeks_count_until_they_are_too_old(
    current_until: float | None, age_s: float | None
) -> None:
    snapshot = row([held()], {1: MODEL._replace(current_until=current_until)})

    assert snapshot.greeks_age_s == age_s
    assert snapshot.priced == (0 if age_s is None else 1)
    assert snapshot.delta == (None if age_s is None else 50)
    assert snapshot.underlying_price == (None if age_s is None else 230.5)


def test_the_row_tells_the_oldest_age_and_the_worst_kind_that_counted() -> None:
    greeks = {
        1: MODEL._replace(current_until=NOW - 5, data_type=DataType.FROZEN),
        2: MODEL._replace(current_until=NOW - 90, data_type=DataType.LIVE),
        3: MODEL,
        # too old, and incomplete: neither counts
        4: MODEL._replace(current_until=NOW - 500, data_type=DataType.DELAYED_FROZEN),
        5: MODEL._replace(vega=None, current_until=NOW - 100, data_type=DataType.DELAYED),
    }
    snapshot = row([held(con_id) for con_id in range(1, 6)], greeks)

    assert snapshot.greeks_age_s == 90
    assert snapshot.data_type is DataType.FROZEN
    assert snapshot.priced == 3


@pytest.mark.parametrize("worst", DataType)
def test_a_worse_kind_hides_behind_no_better_one(worst: DataType) -> None:
    kinds = [kind for kind in DataType if kind <= worst]
    for order in (kinds, kinds[::-1]):
        greeks = {i: MODEL._replace(data_type=kind) for i, kind in enumerate(order)}
        assert row([held(i) for i in greeks], greeks).data_type is worst


# The price of the underlying


def priced_at(price: float | None, **more: Any) -> Greeks:
    return MODEL._replace(underlying_price=price, **more)


def test_the_underlying_with_most_option_positions_gives_the_price() -> None:
    positions = [
        held(1, quantity=1000, underlying="AAPL"),
        held(2, underlying="SPX"),
        held(3, underlying="SPX"),
        held(4, "STK", 1, underlying="AAPL"),
        held(5, "FUT", 1, underlying="AAPL"),
    ]
    greeks = {1: priced_at(230.0), 2: priced_at(6000.0), 3: priced_at(6000.0)}

    assert row(positions, greeks).underlying_price == 6000


@pytest.mark.parametrize(("larger", "smaller"), [("AAPL", "SPX"), ("SPX", "AAPL")])
def test_a_tie_goes_to_the_largest_absolute_net_delta(larger: str, smaller: str) -> None:
    positions = [
        held(1, quantity=50, underlying=smaller),
        held(2, quantity=-49, underlying=smaller),
        held(3, quantity=-1, underlying=larger),
        held(4, quantity=-1, underlying=larger),
    ]
    greeks = {
        **dict.fromkeys((1, 2), priced_at(230.0, gamma=0.9, vega=9.0, theta=-9.0)),
        **dict.fromkeys((3, 4), priced_at(6000.0)),
    }

    assert row(positions, greeks).underlying_price == 6000


def test_a_full_tie_is_broken_by_name_not_by_order() -> None:
    positions = [held(1, underlying="AAPL"), held(2, underlying="SPX")]
    greeks = {1: priced_at(230.0), 2: priced_at(6000.0)}

    assert row(positions, greeks).underlying_price == row(positions[::-1], greeks).underlying_price


def test_unpriced_options_count_in_the_choice_of_the_underlying() -> None:
    positions = [held(1), held(2, underlying="SPX"), held(3, underlying="SPX")]

    assert row(positions, {1: priced_at(230.0)}).underlying_price is None


def test_the_price_of_an_unpriced_option_is_still_a_price() -> None:
    snapshot = row([held()], {1: priced_at(230.0, vega=None)})

    assert snapshot.underlying_price == 230
    assert sums(snapshot) == (None,) * 4


def test_the_median_of_the_freshest_prices_stands_for_their_underlying() -> None:
    greeks = {
        1: priced_at(210.0, current_until=NOW - 60),
        2: priced_at(210.0, current_until=NOW - 60),
        3: priced_at(230.2),
        4: priced_at(230.0, current_until=NOW + 1),  # a clock read a moment later
        5: priced_at(230.1),
    }

    assert row([held(con_id) for con_id in greeks], greeks).underlying_price == 230.1


def test_the_median_is_the_middle_one_of_many() -> None:
    greeks = {number: priced_at(230.0 + number % 5) for number in range(5)}

    assert row([held(con_id) for con_id in greeks], greeks).underlying_price == 232


def test_a_majority_on_unknown_underlyings_leaves_the_price_open() -> None:
    positions = [held(1, underlying=""), held(2, underlying=""), held(3)]
    greeks = {1: priced_at(6000.0), 2: priced_at(80.0), 3: priced_at(230.0)}

    assert row(positions, greeks).underlying_price is None
    assert row(positions[1:], greeks | {3: priced_at(230.0, delta=0.9)}).underlying_price == 230


@pytest.mark.parametrize(
    ("price", "known"),
    [
        (230.0, True),
        (-37.63, True),  # crude oil, 20 April 2020
        (0.0001, True),
        (-1.0, False),
        (0.0, False),
        (None, False),
        (math.nan, False),
        (math.inf, False),
        (sys.float_info.max, False),
    ],
)
def test_a_price_that_was_not_computed_is_unknown(price: float | None, known: bool) -> None:
    assert valid_price(price) == (price if known else None)
    assert row([held()], {1: priced_at(price)}).underlying_price == (price if known else None)


# Any portfolio, against an independent computation in exact arithmetic

amounts = st.floats(-1e5, 1e5) | st.integers(-500, 500).map(float)
true_greeks = st.floats(-1e4, 1e4).filter(lambda value: value != -2)
any_greek = st.one_of(true_greeks, true_greeks, st.sampled_from(list(NOT_NUMBERS.values())))
ages = st.none() | st.floats(NOW - 2 * MAX_AGE_S, NOW)
positions_of_any_kind = st.builds(
    Position,
    account=st.sampled_from(["DU1", "DU2"]),
    con_id=st.integers(1, 12),
    sec_type=st.sampled_from([*sorted(KNOWN_TYPES), "OPT", "OPT", "???"]),
    symbol=st.just("X"),
    quantity=amounts,
    multiplier=st.sampled_from([None, 0.0, 0.1, 1.0, 50.0, 100.0, 100.0]),
    underlying=st.sampled_from(["AAPL", "SPX", "ES", ""]),
)
portfolios = st.lists(positions_of_any_kind, max_size=25)
quotes = st.dictionaries(
    st.integers(1, 12),
    st.builds(
        Greeks,
        delta=any_greek,
        gamma=any_greek,
        vega=any_greek,
        theta=any_greek,
        underlying_price=st.sampled_from([None, -1.0, 0.0, 230.0, 231.0, 6000.0]),
        data_type=st.sampled_from(DataType),
        current_until=ages,
    ),
)


def is_priced(position: Position, quote: Greeks | None) -> bool:
    """The rules again, written differently."""
    if position.sec_type in {"FUT", "CONTFUT"}:
        return bool(position.multiplier)
    if position.sec_type not in {"OPT", "FOP", "WAR", "IOPT"}:
        return True
    if quote is None or not position.multiplier:
        return False
    if quote.current_until is not None and NOW - quote.current_until > MAX_AGE_S:
        return False
    bad = {repr(value) for value in NOT_NUMBERS.values()}
    return not bad & {repr(getattr(quote, name)) for name in THE_FOUR}


def exact_terms(position: Position, quote: Greeks | None, name: str) -> Fraction:
    quantity, multiplier = Fraction(position.quantity), Fraction(position.multiplier or 0)
    match position.sec_type:
        case "OPT" | "FOP" | "WAR" | "IOPT":
            assert quote is not None
            return quantity * multiplier * Fraction(getattr(quote, name))
        case "STK" | "ETF" | "FUND" | "CFD" | "CRYPTO" if name == "delta":
            return quantity
        case "FUT" | "CONTFUT" if name == "delta":
            return quantity * multiplier
    return Fraction(0)


@given(portfolios, quotes)
@settings(max_examples=300)
def test_the_sums_equal_an_exact_computation(
    positions: list[Position], greeks: dict[int, Greeks]
) -> None:
    snapshot = row(positions, greeks)
    holdings = [position for position in positions if position.quantity]
    priced = [p for p in holdings if is_priced(p, greeks.get(p.con_id))]
    options = [p for p in priced if p.sec_type in OPTION_TYPES]

    assert (snapshot.positions, snapshot.priced) == (len(holdings), len(priced))
    if len(priced) < len(holdings) and not options:
        assert sums(snapshot) == (None,) * 4
    else:
        for name in THE_FOUR:
            terms = [exact_terms(p, greeks.get(p.con_id), name) for p in priced]
            # Two roundings in each term, one in the sum.
            allowed = Fraction(1, 2**51) * sum(map(abs, terms)) + Fraction(1, 2**1000)
            assert abs(Fraction(getattr(snapshot, name)) - sum(terms)) <= allowed

    counted = [greeks[p.con_id] for p in options]
    if counted:
        assert snapshot.greeks_age_s == max(
            0.0 if quote.current_until is None else NOW - quote.current_until for quote in counted
        )
        assert snapshot.data_type == max(quote.data_type for quote in counted)
    else:
        assert (snapshot.greeks_age_s, snapshot.data_type) == (None, None)


@given(portfolios, quotes, st.randoms(use_true_random=False))
def test_the_order_of_positions_changes_nothing_at_all(
    positions: list[Position], greeks: dict[int, Greeks], random: Any
) -> None:
    shuffled = list(positions)
    random.shuffle(shuffled)
    items = list(greeks.items())
    random.shuffle(items)

    assert comparable(row(positions, greeks)) == comparable(row(shuffled, dict(items)))


@given(portfolios, quotes)
def test_nothing_but_finite_numbers_leaves(
    positions: list[Position], greeks: dict[int, Greeks]
) -> None:
    snapshot = row(positions, greeks)

    for value in (*sums(snapshot), snapshot.underlying_price, snapshot.greeks_age_s):
        assert value is None or abs(value) < 1e15
    assert sums(snapshot).count(None) in (0, 4)
    assert 0 <= snapshot.priced <= snapshot.positions


@given(portfolios, quotes)
def test_a_book_and_its_mirror_net_to_nothing(
    positions: list[Position], greeks: dict[int, Greeks]
) -> None:
    mirror = [
        Position(p.account, p.con_id, p.sec_type, p.symbol, -p.quantity, p.multiplier, p.underlying)
        for p in positions
    ]

    assert set(sums(row(positions + mirror, greeks))) <= {0.0, None}


def test_the_row_carries_its_instant_and_accounts() -> None:
    snapshot = row([])

    assert (snapshot.timestamp, snapshot.account, snapshot.contract) == (AT, "DU1", "PORTFOLIO")


def test_every_type_that_adds_something_or_is_silent_on_purpose_is_known() -> None:
    documented = "OPT FOP WAR IOPT STK ETF FUND CFD CRYPTO FUT CONTFUT CASH BOND BILL CMDTY"
    assert set(documented.split()) == KNOWN_TYPES
