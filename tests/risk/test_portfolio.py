"""Positions × model Greeks → one row: what counts, how much, what stays unpriced, and why."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_bridge.model import (
    OLD,
    DataType,
    Defect,
    ExchangeRates,
    Greeks,
    Position,
    PositionState,
    Snapshot,
    Trouble,
    Verdict,
)
from trio_bridge.risk.greeks import KNOWN_TYPES, OPTION_TYPES, valid_four, valid_price
from trio_bridge.risk.portfolio import NO_RATES, Portfolio, Standing, aggregate, standings

AT = datetime(2026, 7, 15, 14, 30, tzinfo=UTC)
NOW = 10_000.0
MAX_AGE_S = 120.0
TO_USD = {"USD": 1.0, "JPY": 1 / 128}
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
    **more: Any,
) -> Position:
    return Position(account, con_id, sec_type, "X", quantity, multiplier, underlying, **more)


def model_with(name: str, value: Any) -> Greeks:
    return MODEL._replace(**{name: value})


def row(
    positions: list[Position],
    greeks: dict[int, Greeks] | None = None,
    rates: ExchangeRates = NO_RATES,
    positions_at: float | None = None,
) -> Snapshot:
    return aggregate(
        Portfolio(positions),
        greeks or {},
        read_at=AT,
        now=NOW,
        max_age_s=MAX_AGE_S,
        interval_s=5.0,
        account="DU1",
        rates=rates,
        positions_at=positions_at,
    )


def states(
    positions: list[Position],
    greeks: dict[int, Greeks] | None = None,
    troubles: dict[int, Trouble] | None = None,
    rates: ExchangeRates = NO_RATES,
) -> list[Standing]:
    return standings(
        Portfolio(positions),
        greeks or {},
        troubles or {},
        read_at=AT,
        now=NOW,
        max_age_s=MAX_AGE_S,
        rates=rates,
    )


def defects(found: list[Standing]) -> list[Defect]:
    return [defect for one in found if (defect := one.defect(5.0)) is not None]


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


@pytest.mark.parametrize("sec_type", ["CASH", "BOND", "BILL", "CMDTY"])
def test_some_types_are_counted_and_add_nothing(sec_type: str) -> None:
    snapshot = row([held(sec_type=sec_type, quantity=7)], {1: MODEL})

    assert sums(snapshot) == (0, 0, 0, 0)
    assert (snapshot.positions, snapshot.priced) == (1, 1)


@pytest.mark.parametrize("sec_type", ["BAG", "", "???"])
def test_types_that_are_not_known_add_nothing_and_are_not_priced(sec_type: str) -> None:
    snapshot = row([held(sec_type=sec_type, quantity=7), held(2, "STK", 5)], {1: MODEL})

    assert sums(snapshot) == (5, 0, 0, 0), "what is known of the others stays"
    assert (snapshot.positions, snapshot.priced) == (2, 1)


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


@pytest.mark.parametrize(
    ("name", "values"),
    [
        # 1.0003 has been seen: a lattice's delta of an American option, or its rounding.
        ("delta", (-1.0, 0.0, 1.0, 1.0003, -1.01, 1.01)),
        ("gamma", (0.0, -1e-6, -1e-9, 350.0, 1e6)),
        ("vega", (0.0, -1e-6, 2.0, 1e5)),
        ("theta", (-1.0, 0.0, 2.0, -1.999999, -2.000001, -350.0, 1e5)),
    ],
)
def test_what_a_greek_can_be_counts(name: str, values: tuple[float, ...]) -> None:
    for value in values:
        snapshot = row([held()], {1: model_with(name, value)})

        assert getattr(snapshot, name) == pytest.approx(100 * value)
        assert snapshot.priced == 1


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("delta", (1.02, -1.02, 40.0, -40.0)),
        ("gamma", (-0.5, -1e-5, 1e9)),
        ("vega", (-0.5, -1e-5, -1.0, 1e9)),
        ("theta", (1e9, -1e9)),
    ],
)
def test_what_a_greek_can_not_be_is_not_computed(name: str, values: tuple[float, ...]) -> None:
    """2147483647 has been seen as a number; 2147483520 is the nearest one below it in single
    precision."""
    ends_of_int = (2147483647.0, 2147483646.0, 2147483520.0, 2147483648.0, -2147483648.0)
    for value in (*values, *ends_of_int):
        snapshot = row([held(1), held(2)], {1: MODEL, 2: model_with(name, value)})

        assert sums(snapshot) == pytest.approx((50, 2, 11, -7))
        assert (snapshot.positions, snapshot.priced) == (2, 1)
        (unpriced,) = states([held(2)], {2: model_with(name, value)})
        assert unpriced.state is PositionState.NO_DATA


@given(st.tuples(*[st.none() | st.floats(-2, 2) | st.floats() | st.sampled_from([1e9, -2.0])] * 4))
def test_gateways_and_sums_agree_on_what_is_a_greek(four: tuple[float | None, ...]) -> None:
    delta, gamma, vega, theta = four
    greeks = MODEL._replace(delta=delta, gamma=gamma, vega=vega, theta=theta)

    assert counts(held(), greeks) == (valid_four(delta, gamma, vega, theta) is not None)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_first_number_that_is_too_large_is_the_same_for_all(sign: int) -> None:
    """Of a kind: 1e15 is refused for quantities and multipliers, 1e9 for prices."""
    limit, below = sign * 1e15, sign * math.nextafter(1e15, 0)

    for sec_type in ("OPT", "STK", "FUT", "CASH"):
        assert not counts(held(sec_type=sec_type, quantity=limit))
        assert counts(held(sec_type=sec_type, quantity=below))
    for sec_type in ("OPT", "FUT"):
        assert not counts(held(sec_type=sec_type, multiplier=abs(limit)))
        assert counts(held(sec_type=sec_type, multiplier=abs(below)))
    assert valid_price(sign * 1e9) is None
    assert valid_price(sign * math.nextafter(1e9, 0)) is not None
    assert valid_price(sign * 2147483647.0) is None


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


# Units: prices in cents, other currencies, rounded gammas


def test_prices_in_cents_make_vega_and_theta_a_hundredth() -> None:
    """Two corn options: 5,000 bushels, quoted in cents."""
    corn = Greeks(delta=0.4, gamma=0.01, vega=0.65, theta=-0.35, underlying_price=450.0)
    snapshot = row([held(1, "FOP", 2, 5000, magnifier=100.0)], {1: corn})

    assert sums(snapshot) == pytest.approx((4000, 100, 65, -35))


@pytest.mark.parametrize("magnifier", [None, 0.0, 0.01, -100.0, math.nan, math.inf])
def test_a_magnifier_that_is_not_known_leaves_an_option_unpriced(magnifier: float | None) -> None:
    position = held(magnifier=magnifier)

    assert not counts(position)
    (unpriced,) = states([position], {1: MODEL})
    assert unpriced.state is PositionState.NO_MULTIPLIER
    assert counts(held(sec_type="STK", magnifier=magnifier))


YEN, DOLLARS = held(1, currency="JPY"), held(2, currency="USD")
BOTH = {1: MODEL, 2: MODEL}


@pytest.mark.parametrize("currency", ["USD", "JPY", ""])
def test_one_currency_stays_as_it_is_whatever_the_base_currency(currency: str) -> None:
    snapshot = row([held(currency=currency)], {1: MODEL}, ExchangeRates("EUR", {"JPY": 0.01}))

    assert sums(snapshot) == pytest.approx((50, 2, 11, -7))
    assert snapshot.currency == (currency or None)


@pytest.mark.parametrize(
    ("rates", "dollar", "yen"),
    [
        (ExchangeRates("USD", {"JPY": 0.0066}), 1.0, 0.0066),
        (ExchangeRates("USD", {"JPY": 0.0066, "USD": 1.0}), 1.0, 0.0066),
        (ExchangeRates("EUR", {"JPY": 0.006, "USD": 0.9}), 0.9, 0.006),
    ],
)
def test_several_currencies_are_summed_in_the_base_currency(
    rates: ExchangeRates, dollar: float, yen: float
) -> None:
    snapshot = row([YEN, DOLLARS], BOTH, rates)

    assert snapshot.currency == rates.base
    assert sums(snapshot) == pytest.approx((100, 4, 11 * (dollar + yen), -7 * (dollar + yen)))


@pytest.mark.parametrize(
    "rates",
    [
        ExchangeRates(),
        ExchangeRates("USD"),
        ExchangeRates("EUR", {"JPY": 0.006}),
        ExchangeRates("", {"JPY": 0.0066, "USD": 1.0}),
        ExchangeRates("USD", {"JPY": 0.0}),
        ExchangeRates("USD", {"JPY": math.nan}),
        ExchangeRates("USD", {"JPY": math.inf}),
    ],
)
def test_a_rate_that_is_missing_makes_nulls_of_vega_and_theta_alone(rates: ExchangeRates) -> None:
    snapshot = row([YEN, DOLLARS], BOTH, rates)

    assert sums(snapshot) == (100, 4, None, None)
    assert (snapshot.positions, snapshot.priced) == (2, 2)
    assert snapshot.currency == (rates.base or None)


def test_the_currency_does_not_change_when_a_line_falls_silent() -> None:
    rates = ExchangeRates("USD", {"JPY": 0.0066})
    snapshot = row([YEN, DOLLARS], {1: MODEL}, rates)

    assert snapshot.currency == "USD"
    assert snapshot.vega == pytest.approx(11 * 0.0066)
    assert row([YEN, DOLLARS], {2: MODEL}, ExchangeRates("USD")).vega == pytest.approx(11)
    assert row([YEN, DOLLARS], {}, rates).currency == "USD"
    assert row([held(sec_type="STK", currency="USD")]).currency is None


def test_what_rounding_may_have_made_of_the_gammas_adds_up() -> None:
    coarse = MODEL._replace(gamma_error=0.005)
    positions = [held(1, quantity=-3), held(2, quantity=2), held(3)]
    snapshot = row(positions, {1: coarse, 2: coarse, 3: MODEL})

    assert snapshot.gamma_error == pytest.approx(0.005 * 500)
    assert row(positions, dict.fromkeys((1, 2, 3), MODEL)).gamma_error == 0
    assert row(positions).gamma_error is None
    assert row([]).gamma_error == 0


# Expired options


@pytest.mark.parametrize(
    ("seconds", "priced"), [(-86_400, 0), (-1, 0), (0, 0), (1, 1), (86_400, 1)]
)
def test_an_option_counts_until_its_last_trading_instant(seconds: float, priced: int) -> None:
    position = held(last_trade=AT + timedelta(seconds=seconds))
    snapshot = row([position, held(2)], {1: MODEL, 2: MODEL})

    assert (snapshot.positions, snapshot.priced) == (2, 1 + priced)
    (state, _) = states([position, held(2)], {1: MODEL, 2: MODEL})
    assert state.state is (PositionState.PRICED if priced else PositionState.EXPIRED)


# States


@pytest.mark.parametrize(
    ("position", "greeks", "state"),
    [
        (held(), MODEL, PositionState.PRICED),
        (held(sec_type="STK"), None, PositionState.PRICED),
        (held(sec_type="CASH"), None, PositionState.PRICED),
        (held(), None, PositionState.NO_DATA),
        (held(), MODEL._replace(vega=None), PositionState.NO_DATA),
        (held(), MODEL._replace(current_until=NOW - 500), PositionState.STALE),
        (held(multiplier=None), MODEL, PositionState.NO_MULTIPLIER),
        (held(quantity=math.inf), MODEL, PositionState.NO_MULTIPLIER),
        (held(sec_type="FUT", multiplier=None), None, PositionState.NO_MULTIPLIER),
        (held(sec_type="STK", quantity=math.nan), None, PositionState.NO_DATA),
        (held(sec_type="ICU"), None, PositionState.UNKNOWN_TYPE),
        (held(multiplier=None, last_trade=AT), None, PositionState.EXPIRED),
    ],
)
def test_each_position_has_a_state(
    position: Position, greeks: Greeks | None, state: PositionState
) -> None:
    (found,) = states([position], {} if greeks is None else {1: greeks})

    assert (found.position, found.state) == (position, state)
    assert bool(found.reason) == (state is not PositionState.PRICED)


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble(PositionState.WAITING),
        Trouble(PositionState.REFUSED, "not subscribed (354)"),
        Trouble(PositionState.NO_DATA, "silent"),
    ],
)
def test_the_gateways_reason_is_told_where_there_are_no_greeks(trouble: Trouble) -> None:
    (found,) = states([held()], {}, {1: trouble})
    assert (found.state, found.reason) == trouble

    old = MODEL._replace(current_until=NOW - 500)
    (found,) = states([held()], {1: old}, {1: trouble})
    assert found.state is PositionState.STALE
    assert trouble.reason in found.reason

    (found,) = states([held()], {1: MODEL}, {1: trouble})
    assert found.state is PositionState.PRICED, "a code is advice until the data says otherwise"


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


def some_greek(true: st.SearchStrategy[float]) -> st.SearchStrategy[float | None]:
    return st.one_of(true, true, true, st.sampled_from([*NOT_NUMBERS.values(), 2147483647.0]))


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
    currency=st.sampled_from(["USD", "USD", "USD", "JPY"]),
    magnifier=st.sampled_from([None, 1.0, 1.0, 100.0]),
    last_trade=st.sampled_from([None, AT, AT - timedelta(days=1), AT + timedelta(seconds=1)]),
)
portfolios = st.lists(positions_of_any_kind, max_size=25)
quotes = st.dictionaries(
    st.integers(1, 12),
    st.builds(
        Greeks,
        delta=some_greek(st.floats(-1, 1)),
        gamma=some_greek(st.floats(0, 1e4)),
        vega=some_greek(st.floats(0, 1e4)),
        theta=some_greek(st.floats(-1e4, 1e4).filter(lambda value: value != -2)),
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
        return position.sec_type != "???"
    if position.last_trade is not None and position.last_trade <= AT:
        return False
    if quote is None or not position.multiplier or not position.magnifier:
        return False
    if quote.current_until is not None and NOW - quote.current_until > MAX_AGE_S:
        return False
    bad = {repr(value) for value in (*NOT_NUMBERS.values(), 2147483647.0)}
    return not bad & {repr(getattr(quote, name)) for name in THE_FOUR}


def exact_terms(position: Position, quote: Greeks | None, name: str) -> Fraction:
    quantity, multiplier = Fraction(position.quantity), Fraction(position.multiplier or 0)
    match position.sec_type:
        case "OPT" | "FOP" | "WAR" | "IOPT":
            assert quote is not None
            if name in ("vega", "theta"):
                multiplier /= Fraction(position.magnifier or 0)
                multiplier *= Fraction(TO_USD[position.currency])
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
    yen = ExchangeRates("USD", TO_USD)
    holdings = [position for position in positions if position.quantity]
    if not any(p.currency == "USD" for p in holdings if p.sec_type in OPTION_TYPES):
        yen = ExchangeRates()  # one currency: nothing is converted
        positions = [replace(p, currency="USD") for p in positions]
        holdings = [position for position in positions if position.quantity]
    snapshot = row(positions, greeks, yen)
    priced = [p for p in holdings if is_priced(p, greeks.get(p.con_id))]
    options = [p for p in priced if p.sec_type in OPTION_TYPES]

    assert (snapshot.positions, snapshot.priced) == (len(holdings), len(priced))
    if len(priced) < len([p for p in holdings if p.sec_type != "???"]) and not options:
        assert sums(snapshot) == (None,) * 4
    else:
        for name in THE_FOUR:
            terms = [exact_terms(p, greeks.get(p.con_id), name) for p in priced]
            # A few roundings in each term, one in the sum.
            allowed = Fraction(1, 2**50) * sum(map(abs, terms)) + Fraction(1, 2**1000)
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
    snapshot = row(positions, greeks, ExchangeRates("USD", TO_USD))

    for value in (*sums(snapshot), snapshot.underlying_price, snapshot.greeks_age_s):
        assert value is None or abs(value) < 1e15
    assert sums(snapshot).count(None) in (0, 4)
    assert 0 <= snapshot.priced <= snapshot.positions


@given(portfolios, quotes)
def test_a_book_and_its_mirror_net_to_nothing(
    positions: list[Position], greeks: dict[int, Greeks]
) -> None:
    mirror = [replace(p, quantity=-p.quantity) for p in positions]

    assert set(sums(row(positions + mirror, greeks))) <= {0.0, None}


@given(portfolios, quotes)
def test_those_whose_state_is_priced_are_those_that_the_row_counts(
    positions: list[Position], greeks: dict[int, Greeks]
) -> None:
    found = states(positions, greeks)

    assert [one.position for one in found] == [one for one in positions if one.quantity]
    assert [one.state for one in found].count(PositionState.PRICED) == row(positions, greeks).priced
    assert all(bool(one.reason) != (one.state is PositionState.PRICED) for one in found)


def test_the_row_carries_its_instant_and_accounts() -> None:
    snapshot = row([])

    assert (snapshot.timestamp, snapshot.account, snapshot.contract) == (AT, "DU1", "PORTFOLIO")


def test_every_type_that_adds_something_or_is_silent_on_purpose_is_known() -> None:
    documented = "OPT FOP WAR IOPT STK ETF FUND CFD CRYPTO FUT CONTFUT CASH BOND BILL CMDTY"
    assert set(documented.split()) == KNOWN_TYPES


# The verdict, and who is to blame


def aged(age_s: float) -> Greeks:
    return MODEL._replace(current_until=NOW - age_s)


@pytest.mark.parametrize(("age_s", "verdict"), [(70.0, Verdict.COMPLETE), (71.0, Verdict.STALE)])
def test_old_greeks_make_a_row_stale_and_are_named(age_s: float, verdict: Verdict) -> None:
    assert row([held()], {1: aged(age_s)}).verdict is verdict

    found = defects(states([held()], {1: aged(age_s)}))
    assert found == ([Defect("X", OLD, "71 s")] if verdict is Verdict.STALE else [])


def test_a_position_left_out_makes_a_row_partial_and_is_named() -> None:
    positions = [held(), held(2)]

    assert row(positions, {1: MODEL}).verdict is Verdict.PARTIAL
    (found,) = defects(states(positions, {1: MODEL}))
    assert found == Defect("X", PositionState.NO_DATA, "no Greeks have come")


def test_a_book_of_many_accounts_is_not_stale_because_its_turn_takes_minutes() -> None:
    """The gateway has its own bound for the age of positions, beyond which there is no row."""
    snapshot = row([held()], {1: MODEL}, positions_at=NOW - 200.0)

    assert (snapshot.verdict, snapshot.greeks_age_s) == (Verdict.COMPLETE, 200.0)


def test_without_an_exchange_rate_a_row_is_partial_and_the_options_are_named() -> None:
    positions = [held(currency="USD"), held(2, currency="JPY")]
    greeks, rates = {1: MODEL, 2: MODEL}, ExchangeRates("USD", {})

    snapshot = row(positions, greeks, rates)
    assert (snapshot.verdict, snapshot.priced, snapshot.vega) == (Verdict.PARTIAL, 2, None)
    (found,) = defects(states(positions, greeks, rates=rates))
    assert found.state == PositionState.PRICED
    assert "JPY" in found.reason
    known = ExchangeRates("USD", {"JPY": 0.007})
    assert row(positions, greeks, known).verdict is Verdict.COMPLETE
    assert defects(states(positions, greeks, rates=known)) == []
