"""What the gateway says of each account: margin, values, cash by currency. Pure.

Made up, but of one piece: every figure follows from the positions held, so that an account with
positions never has a gross position value or margin of zero, and one without them has no others.
Keys are those of the TWS API (https://interactivebrokers.github.io/tws-api/account_values.html).
`Money.set_figures` replaces or leaves out single figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from trio_bridge.simulator.book import Book, Holding

BASE: Final = "BASE"
SECURITIES, COMMODITIES = "-S", "-C"
"""Suffixes of the keys that exist for each segment, too."""
FUTURES_MARGIN: Final = 0.06
OTHER_MARGIN: Final = 0.25
"""Of the notional value, and of the market value: made up."""
NEXT_CHANGE: Final = "1700000000"
"""LookAheadNextChange: seconds since 1970."""

Amount: TypeAlias = float | str
"""A number, or a word ("true", "INDIVIDUAL")."""


class Figure(NamedTuple):
    """One value of an account; `currency` is empty where the amount is not money."""

    key: str
    amount: Amount
    currency: str


class LedgerLine(NamedTuple):
    """One currency's part of an account, in that currency; `exchange_rate` to the base currency."""

    currency: str
    cash: float
    stocks: float
    options: float
    futures_pnl: float
    exchange_rate: float

    @property
    def net_liquidation(self) -> float:
        return self.cash + self.stocks + self.options + self.futures_pnl


def figures(book: Book, account: str) -> list[Figure]:
    """All values of an account but its ledger; KeyError when there is no such account."""
    base = book.money.base_currency
    net = ledger(book, account)[BASE].net_liquidation
    segments = {suffix: _segment(book, account, suffix) for suffix in (SECURITIES, COMMODITIES)}
    gross = segments[SECURITIES][0]
    margin = sum(one for _, one in segments.values())
    known: dict[str, Amount] = {
        "AccountCode": account,
        "AccountType": "INDIVIDUAL",
        "AccountReady": "true",
        "NetLiquidation": net,
        "EquityWithLoanValue": net,
        "GrossPositionValue": gross,
        "InitMarginReq": margin * 1.1,
        "MaintMarginReq": margin,
        "FullInitMarginReq": margin * 1.1,
        "FullMaintMarginReq": margin,
        "LookAheadInitMarginReq": margin * 1.1,
        "LookAheadMaintMarginReq": margin,
        "LookAheadExcessLiquidity": net - margin,
        "LookAheadAvailableFunds": net - margin * 1.1,
        "LookAheadNextChange": NEXT_CHANGE,
        "ExcessLiquidity": net - margin,
        "AvailableFunds": net - margin * 1.1,
        "PostExpirationExcess": net - margin,
        "PostExpirationMargin": margin,
        "BuyingPower": max(0.0, net - margin) * 4,
        "SMA": net,
        "Cushion": (net - margin) / net if net else 0.0,
    }
    known |= {f"MaintMarginReq{suffix}": one for suffix, (_, one) in segments.items()}
    changes = book.money.changes(account)
    known |= {key: value for key, value in changes.items() if value is not None}
    return [
        Figure(key, amount, base if isinstance(amount, float) and key != "Cushion" else "")
        for key, amount in known.items()
        if changes.get(key, amount) is not None
    ]


def ledger(book: Book, account: str) -> dict[str, LedgerLine]:
    """An account's money by currency, and all of it in the base currency under `BASE`.

    A currency whose rate is not known (`Money.rates` lacks it) has no line.
    """
    rates = book.money.rates
    held = [one.contract.currency for one in book.positions(account)]
    lines = [
        _line(book, account, currency, rates[currency])
        for currency in dict.fromkeys([*book.money.currencies(account), *held])
        if currency in rates
    ]
    everything = LedgerLine(
        BASE,
        cash=sum(one.cash * one.exchange_rate for one in lines),
        stocks=sum(one.stocks * one.exchange_rate for one in lines),
        options=sum(one.options * one.exchange_rate for one in lines),
        futures_pnl=sum(one.futures_pnl * one.exchange_rate for one in lines),
        exchange_rate=1.0,
    )
    return {one.currency: one for one in (*lines, everything)}


def _line(book: Book, account: str, currency: str, rate: float) -> LedgerLine:
    stocks = options = futures = 0.0
    for held in book.positions(account):
        if held.contract.currency != currency:
            continue
        value = _value(book, held)
        if held.contract.is_option:
            options += value
        elif held.contract.sec_type == "FUT":
            futures += value - held.average_cost * held.quantity
        else:
            stocks += value
    return LedgerLine(currency, book.money.cash(account, currency), stocks, options, futures, rate)


def _segment(book: Book, account: str, suffix: str) -> tuple[float, float]:
    """Gross value and margin in the base currency, of securities or of commodities."""
    gross = margin = 0.0
    for held in book.positions(account):
        commodity = held.contract.sec_type in ("FUT", "FOP")
        if commodity is not (suffix == COMMODITIES):
            continue
        rate = book.money.rates.get(held.contract.currency, 0.0)
        value = abs(_value(book, held)) * rate
        future = held.contract.sec_type == "FUT"
        gross += 0.0 if future else value
        margin += value * (FUTURES_MARGIN if future else OTHER_MARGIN)
    return gross, margin


def _value(book: Book, held: Holding) -> float:
    contract = held.contract
    price = book.quote(contract.con_id).last / contract.price_magnifier
    return price * held.quantity * (contract.multiplier or 1.0)
