"""What the book knows beside prices: units, expiries, currencies, the accounts' money."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from trio_bridge.simulator.accounts import BASE, figures, ledger
from trio_bridge.simulator.book import Book, make_book
from trio_bridge.simulator.listings import YEN, list_corn, list_nikkei


def told(book: Book, account: str) -> dict[str, float | str]:
    return {one.key: one.amount for one in figures(book, account)}


def flat_book(accounts: int = 1) -> Book:
    """Accounts without a position."""
    book = make_book(options=0, accounts=accounts)
    book.freeze(at=10)
    for held in book.positions():
        book.set_position(held.account, held.contract.con_id, 0)
    return book


def test_vega_and_theta_of_what_is_quoted_in_cents_are_a_hundredth() -> None:
    book = flat_book()
    call, put = list_corn(book, book.accounts[0], quantity=2)
    values = [book.moment.true_value(one.con_id) for one in (call, put)]
    net = book.net_greeks()
    assert net.delta == pytest.approx(2 * 5000 * sum(one.delta for one in values))
    assert net.gamma == pytest.approx(2 * 5000 * sum(one.gamma for one in values))
    assert net.vega == pytest.approx(2 * 50 * sum(one.vega for one in values))
    assert net.theta == pytest.approx(2 * 50 * sum(one.theta for one in values))
    # In cents a bushel: the prices, and with them the account's values, are a few cents.
    assert 1 < values[0].price < 100
    gross = told(book, book.accounts[0])["GrossPositionValue"]
    assert gross == 0.0, "options on futures are no securities"


def test_several_currencies_are_summed_in_the_base_currency_one_stays_as_it_is() -> None:
    book = flat_book()
    account = book.accounts[0]
    yen = list_nikkei(book, account)
    alone = book.net_greeks()
    assert alone.vega == pytest.approx(
        sum(2 * 1000 * book.moment.true_value(one.con_id).vega for one in yen)
    )
    list_corn(book, account)
    both = book.net_greeks()
    dollars = both.vega - alone.vega * YEN
    assert 0 < dollars < both.vega
    del book.money.rates["JPY"]
    assert math.isnan(book.net_greeks().vega)
    assert not math.isnan(book.net_greeks().delta)
    for one in yen:
        book.set_position(account, one.con_id, 0)
    assert book.net_greeks().vega == pytest.approx(dollars)


@pytest.mark.parametrize("zone", ["US/Central", "Europe/Berlin"])
@pytest.mark.parametrize(("hours", "priced"), [(-1, 4), (1, 5)])
def test_an_option_past_its_last_trading_instant_is_unpriced_though_it_computes(
    zone: str, hours: float, priced: int
) -> None:
    book = make_book(options=1)
    option = book.market.options()[0]
    at = datetime.now(ZoneInfo(zone)) + timedelta(hours=hours)
    contract = book.market.end_trading(option.con_id, at, settled_on=date(2030, 1, 4))
    assert (contract.expiry, contract.last_trade_time) == (f"{at:%Y%m%d}", f"{at:%H:%M}")
    assert (contract.time_zone, contract.real_expiry) == (zone, "20300104")
    assert book.net_greeks().positions == 5
    assert book.net_greeks().priced == priced
    assert book.quote(option.con_id).model is not None


def test_last_trading_instants_need_a_time_zone() -> None:
    book = make_book(options=1)
    with pytest.raises(ValueError, match="time zone"):
        book.market.end_trading(book.market.options()[0].con_id, datetime(2026, 1, 2, 15))
    book.market.end_trading(book.market.options()[0].con_id, datetime.now(UTC))


def test_account_figures_follow_from_the_positions() -> None:
    book = make_book(accounts=2)
    book.freeze(at=10)
    for account in book.accounts:
        known = told(book, account)
        assert known["AccountReady"] == "true"
        assert isinstance(known["GrossPositionValue"], float)
        assert known["GrossPositionValue"] > 0
        assert isinstance(known["MaintMarginReq"], float)
        assert known["MaintMarginReq"] == known["MaintMarginReq-S"] + known["MaintMarginReq-C"]  # type: ignore[operator]
        assert known["ExcessLiquidity"] == known["NetLiquidation"] - known["MaintMarginReq"]  # type: ignore[operator]
        assert {one.currency for one in figures(book, account)} == {"", "USD"}


def test_a_flat_account_has_neither_value_nor_margin() -> None:
    book = flat_book()
    known = told(book, book.accounts[0])
    assert (known["GrossPositionValue"], known["MaintMarginReq"]) == (0.0, 0.0)
    assert known["NetLiquidation"] == 1_000_000.0


def test_a_future_alone_shows_in_the_margin_only() -> None:
    book = flat_book()
    future = next(one for one in book.contracts.values() if one.sec_type == "FUT")
    book.set_position(book.accounts[0], future.con_id, 1)
    known = told(book, book.accounts[0])
    assert known["GrossPositionValue"] == 0.0
    assert known["MaintMarginReq-C"] == known["MaintMarginReq"] > 0.0  # type: ignore[operator]


def test_figures_can_be_told_otherwise_or_not_at_all() -> None:
    book = flat_book(accounts=2)
    first, second = book.accounts
    book.money.set_figures(first, GrossPositionValue=57_500.0, AccountReady="false", Cushion=None)
    known = told(book, first)
    assert (known["GrossPositionValue"], known["AccountReady"]) == (57_500.0, "false")
    assert "Cushion" not in known
    assert told(book, second)["GrossPositionValue"] == 0.0
    book.money.set_figures(first)
    assert told(book, first)["GrossPositionValue"] == 0.0


def test_the_ledger_has_a_line_for_each_currency_with_a_known_rate_and_their_sum() -> None:
    book = flat_book()
    account = book.accounts[0]
    list_nikkei(book, account)
    book.money.set_cash(account, "EUR", 500.0)
    lines = ledger(book, account)
    assert list(lines) == ["USD", "JPY", BASE], "no rate, no line"
    book.money.rates["EUR"] = 1.1
    lines = ledger(book, account)
    assert lines["EUR"].cash == 500.0
    assert lines["JPY"].exchange_rate == YEN
    assert lines["JPY"].options > 0
    assert lines[BASE].net_liquidation == pytest.approx(
        sum(one.net_liquidation * one.exchange_rate for name, one in lines.items() if name != BASE)
    )
    assert told(book, account)["NetLiquidation"] == lines[BASE].net_liquidation
