"""The made-up book is exact, moves, and misbehaves on request."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.model import Greeks, Position
from trio_bridge.risk.portfolio import Portfolio, aggregate
from trio_bridge.simulator.book import Book, Holding, make_book
from trio_bridge.simulator.contracts import quarter_end_on_or_after
from trio_bridge.simulator.pricing import OptionValue, option_value

DBL_MAX = 1.7976931348623157e308


class ManualClock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def first_option(book: Book) -> int:
    return book.market.options()[0].con_id


# Pricing ---------------------------------------------------------------------------------------

options = st.fixed_dictionaries(
    {
        "underlying_price": st.floats(4000, 6500),
        "strike": st.floats(4500, 6000),
        "years": st.floats(0.05, 1.0),
        "iv": st.floats(0.1, 0.5),
        "rate": st.floats(0.0, 0.06),
        "carry": st.floats(0.0, 0.05),
    }
)


def value(right: str, **terms: float) -> OptionValue:
    rate, carry = terms.pop("rate"), terms.pop("carry")
    price, strike, years, iv = (
        terms[name] for name in ("underlying_price", "strike", "years", "iv")
    )
    return option_value(price, strike, years, iv, right, rate=rate, carry=carry)


@given(terms=options, right=st.sampled_from("CP"))
def test_greeks_are_the_slopes_of_the_price_in_tws_units(
    terms: dict[str, float], right: str
) -> None:
    def price(**changed: float) -> float:
        return value(right, **(terms | changed)).price

    def shifted(name: str, step: float) -> tuple[float, float]:
        return price(**{name: terms[name] + step}), price(**{name: terms[name] - step})

    greeks = value(right, **terms)
    up, down = shifted("underlying_price", 0.5)
    assert greeks.delta == pytest.approx(up - down, abs=1e-5)
    assert greeks.gamma == pytest.approx((up - 2 * price() + down) / 0.25, abs=1e-5)
    up, down = shifted("iv", 0.0001)
    assert greeks.vega == pytest.approx((up - down) / 0.0002 / 100, rel=1e-4, abs=1e-6)
    later, earlier = shifted("years", 0.01 / 365)
    assert greeks.theta == pytest.approx((earlier - later) / 0.02, rel=1e-3, abs=1e-5)


@given(terms=options)
def test_calls_and_puts_are_at_parity(terms: dict[str, float]) -> None:
    call, put = value("C", **terms), value("P", **terms)
    growth = math.exp((terms["carry"] - terms["rate"]) * terms["years"])
    discount = math.exp(-terms["rate"] * terms["years"])
    forward = terms["underlying_price"] * growth - terms["strike"] * discount
    assert call.price - put.price == pytest.approx(forward, abs=1e-6)
    assert call.delta - put.delta == pytest.approx(growth, abs=1e-9)


# Composition -----------------------------------------------------------------------------------


def test_the_default_book_holds_thirty_positions_of_every_kind() -> None:
    book = make_book()
    kinds = [holding.contract.sec_type for holding in book.positions()]
    assert len(kinds) == 30
    assert set(kinds) == {"STK", "FUT", "OPT", "FOP"}
    assert book.accounts == ("DU1000001",)
    assert all(holding.quantity for holding in book.positions())


def test_options_hang_on_the_right_underlying_with_the_right_multiplier() -> None:
    book = make_book(options=100)
    for option in book.market.options():
        underlying = book.contract(option.under_con_id)
        if option.sec_type == "OPT":
            assert (underlying.sec_type, underlying.symbol, option.multiplier) == (
                "IND",
                "SPX",
                100.0,
            )
        else:
            assert (underlying.sec_type, underlying.symbol, option.multiplier) == (
                "FUT",
                "ES",
                50.0,
            )
            assert option.expiry <= underlying.expiry
        model = book.quote(option.con_id).model
        assert model is not None
        assert model.underlying_price == book.quote(underlying.con_id).last


def test_a_large_book_has_no_contract_twice_and_uses_all_accounts() -> None:
    book = make_book(options=1000, accounts=2)
    contracts = [one.contract for one in book.positions() if one.contract.is_option]
    assert len({contract.con_id for contract in contracts}) == 1000
    assert len({(one.sec_type, one.local_symbol) for one in contracts}) == 1000
    assert {one.account for one in book.positions()} == set(book.accounts)
    for contract in contracts:
        model = book.quote(contract.con_id).model
        assert model is not None
        assert all(math.isfinite(field) for field in model)


def test_index_futures_end_on_third_fridays_of_quarters() -> None:
    assert quarter_end_on_or_after(date(2026, 3, 20)) == date(2026, 3, 20)
    assert quarter_end_on_or_after(date(2026, 3, 21)) == date(2026, 6, 19)
    assert quarter_end_on_or_after(date(2026, 12, 31)) == date(2027, 3, 19)


# Time ------------------------------------------------------------------------------------------


def test_values_depend_on_seed_and_time_alone() -> None:
    one = make_book(seed=3, today=date(2026, 1, 1))
    other = make_book(seed=3, today=date(2031, 7, 7))
    for t in (0.0, 17.0, 86_400.0):
        assert one.at(t).net_greeks() == other.at(t).net_greeks()
    assert one.at(17).net_greeks() != make_book(seed=4).at(17).net_greeks()


def test_values_move_from_step_to_step_and_hold_still_within_one() -> None:
    book = make_book()
    con_id = first_option(book)
    assert book.at(10.0).quote(con_id) == book.at(10.9).quote(con_id)
    models = [book.at(t).true_value(con_id) for t in (10.0, 11.0, 12.0)]
    for name in ("delta", "gamma", "vega", "theta"):
        assert len({getattr(model, name) for model in models}) == 3
    under = book.contract(con_id).under_con_id
    prices = {book.at(t).quote(under).last for t in range(60)}
    assert len(prices) > 30


def test_the_clock_runs_is_held_advanced_and_let_go() -> None:
    clock = ManualClock()
    book = make_book(clock=clock)
    clock.seconds += 5
    assert book.now() == 5
    book.freeze()
    clock.seconds += 100
    assert book.now() == 5
    book.advance(2)
    assert book.now() == 7
    book.thaw()
    assert book.now() == 7
    clock.seconds += 1
    assert book.now() == 8
    book.freeze(at=60)
    assert book.net_greeks() == book.at(60).net_greeks()


# The independent sum ---------------------------------------------------------------------------


def test_the_sum_is_quantity_times_multiplier_times_greek_plus_the_linear_positions() -> None:
    book = make_book(options=2)
    account = book.accounts[0]
    for holding in book.positions():
        book.set_position(account, holding.contract.con_id, 0)
    call, put = (contract.con_id for contract in book.market.options())
    book.set_position(account, call, 3)
    book.set_position(account, put, -2)
    book.set_position(account, 265598, 120)
    book.set_position(account, 600_000_000, -1)
    book.freeze(at=42)
    one, two = book.moment.true_value(call), book.moment.true_value(put)
    net = book.net_greeks()
    assert net.delta == pytest.approx(300 * one.delta - 200 * two.delta + 120 - 50, rel=1e-12)
    assert net.gamma == pytest.approx(300 * one.gamma - 200 * two.gamma, rel=1e-12)
    assert net.vega == pytest.approx(300 * one.vega - 200 * two.vega, rel=1e-12)
    assert net.theta == pytest.approx(300 * one.theta - 200 * two.theta, rel=1e-12)
    assert (net.positions, net.priced) == (4, 4)


def test_accounts_add_up_to_the_whole() -> None:
    book = make_book(accounts=2)
    book.freeze(at=9)
    whole = book.net_greeks()
    parts = [book.net_greeks([account]) for account in book.accounts]
    assert parts[0] != parts[1]
    for name, total in whole._asdict().items():
        assert sum(getattr(part, name) for part in parts) == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("name", ["delta", "gamma", "vega", "theta"])
def test_an_option_with_a_sentinel_shows_it_and_counts_as_unpriced(name: str) -> None:
    book = make_book()
    book.freeze(at=9)
    con_id = first_option(book)
    without = book.net_greeks(without=[con_id])
    book.market.override(con_id, **{name: -2.0})
    model = book.quote(con_id).model
    assert model is not None
    assert getattr(model, name) == -2.0
    assert book.net_greeks() == without
    assert without.priced == without.positions - 1
    book.market.override(con_id)
    assert book.net_greeks().priced == without.positions


def test_a_sentinel_in_the_price_leaves_the_option_priced() -> None:
    book = make_book()
    con_id = first_option(book)
    book.market.override(con_id, price=-1.0, underlying_price=DBL_MAX)
    assert book.net_greeks().priced == book.net_greeks().positions


def test_silent_options_and_options_without_multiplier_are_unpriced() -> None:
    book = make_book()
    silent, bare = (contract.con_id for contract in book.market.options()[:2])
    book.market.silence_greeks(silent)
    book.market.change_contract(bare, multiplier=None)
    quote = book.quote(silent)
    assert quote.model is quote.bid_greeks is quote.ask_greeks is quote.last_greeks is None
    net = book.net_greeks()
    assert net.priced == net.positions - 2
    book.market.clear_quirks()
    assert book.quote(silent).model is not None


def test_computations_of_bid_ask_and_last_differ_from_the_model_in_every_greek() -> None:
    book = make_book(options=100)
    for option in book.market.options():
        quote = book.quote(option.con_id)
        for side in (quote.bid_greeks, quote.ask_greeks, quote.last_greeks):
            assert side is not None
            assert quote.model is not None
            for name in ("price", "delta", "gamma", "vega", "theta", "iv"):
                assert getattr(side, name) != pytest.approx(getattr(quote.model, name), rel=1e-8)


def test_the_bridge_sums_the_same_from_the_same_quotes() -> None:
    book = make_book(options=200, accounts=2)
    book.freeze(at=77)
    greeks = {}
    for option in book.market.options():
        model = book.quote(option.con_id).model
        assert model is not None
        greeks[option.con_id] = Greeks(
            model.delta, model.gamma, model.vega, model.theta, model.underlying_price
        )
    positions = [
        Position(
            one.account,
            one.contract.con_id,
            one.contract.sec_type,
            one.contract.symbol,
            one.quantity,
            one.contract.multiplier,
        )
        for one in book.positions()
    ]
    row = aggregate(
        Portfolio(positions),
        greeks,
        read_at=datetime.now(UTC),
        now=0.0,
        max_age_s=120,
        interval_s=5.0,
    )
    net = book.net_greeks()
    assert (row.positions, row.priced) == (net.positions, net.priced)
    for name in ("delta", "gamma", "vega", "theta"):
        assert getattr(row, name) == pytest.approx(getattr(net, name), rel=1e-9)


# Changes ---------------------------------------------------------------------------------------


def test_positions_open_change_and_close_and_watchers_see_it() -> None:
    book = make_book()
    seen: list[Holding] = []
    unwatch = book.watch(seen.append)
    account, con_id = book.accounts[0], first_option(book)
    before = next(one for one in book.positions() if one.contract.con_id == con_id)

    book.set_position(account, con_id, before.quantity + 5)
    changed = next(one for one in book.positions() if one.contract.con_id == con_id)
    assert (changed.quantity, changed.average_cost) == (before.quantity + 5, before.average_cost)

    book.set_position(account, con_id, 0)
    assert len(book.positions()) == 29
    assert all(one.contract.con_id != con_id for one in book.positions())

    book.set_position(account, con_id, -1)
    assert len(book.positions()) == 30
    assert [one.quantity for one in seen] == [before.quantity + 5, 0, -1]

    unwatch()
    book.set_position(account, con_id, 7)
    assert len(seen) == 3


def test_unknown_accounts_contracts_and_fields_are_refused() -> None:
    book = make_book()
    con_id = first_option(book)
    with pytest.raises(KeyError):
        book.set_position("DU404", con_id, 1)
    with pytest.raises(KeyError):
        book.set_position(book.accounts[0], 404, 1)
    with pytest.raises(KeyError):
        book.market.override(404, vega=-2.0)
    with pytest.raises(ValueError, match="colour"):
        book.market.override(con_id, colour=1.0)
    with pytest.raises(ValueError, match="type 5"):
        book.market.set_data_type(con_id, 5)
