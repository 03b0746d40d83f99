"""Contracts that a book has only on request: quoted in cents, or in other currencies.

options = list_corn(book, account)      # two options, quoted in cents a bushel
options = list_nikkei(book, account)    # two options in yen; the book knows the rate
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from trio_bridge.simulator.contracts import Contract, friday_on_or_after
from trio_bridge.simulator.market import DIVIDEND_YIELD, RATE, OptionTerms, Path

if TYPE_CHECKING:
    from trio_bridge.simulator.book import Book

CORN_CON_ID: Final = 610_000_000
NIKKEI_CON_ID: Final = 620_000_000
"""Of the underlying; the options follow."""
CORN_CENTS: Final = 450.0
NIKKEI_START: Final = 39_000.0
YEN: Final = 0.0066
LIFE_DAYS: Final = 30


def list_corn(book: Book, account: str, *, quantity: float = 2.0) -> list[Contract]:
    """Open positions in a call and a put on corn: 5,000 bushels, quoted in cents (magnifier 100).

    Their future is listed, not held. Its price is in cents, too.
    """
    expiry = f"{_expiry():%Y%m%d}"
    future = Contract(
        con_id=CORN_CON_ID,
        symbol="ZC",
        sec_type="FUT",
        exchange="CBOT",
        local_symbol="ZCZ6",
        trading_class="ZC",
        expiry=expiry,
        multiplier=5000.0,
        long_name="Corn Futures",
        min_tick=0.25,
        price_magnifier=100,
        time_zone="US/Central",
    )
    book.market.list_priced(future, Path(CORN_CENTS))
    options = [
        Contract(
            con_id=CORN_CON_ID + number,
            symbol="ZC",
            sec_type="FOP",
            exchange="CBOT",
            local_symbol=f"OZCZ6 {right}{strike:g}",
            trading_class="OZC",
            expiry=expiry,
            strike=strike,
            right=right,
            multiplier=5000.0,
            under_con_id=future.con_id,
            under_symbol=future.local_symbol,
            long_name="Corn Futures",
            min_tick=0.125,
            price_magnifier=100,
            time_zone="US/Central",
        )
        for number, (right, strike) in enumerate((("C", 460.0), ("P", 440.0)), start=1)
    ]
    return _hold(book, account, options, OptionTerms(LIFE_DAYS, 0.3, 0.0), quantity)


def list_nikkei(book: Book, account: str, *, quantity: float = 2.0) -> list[Contract]:
    """Open positions in a call and a put on the Nikkei 225, in yen, and let the book know the rate.

    `book.money.rates.pop("JPY")` makes the rate unknown.
    """
    index = Contract(
        con_id=NIKKEI_CON_ID,
        symbol="N225",
        sec_type="IND",
        exchange="OSE.JPN",
        currency="JPY",
        local_symbol="N225",
        trading_class="N225",
        long_name="Nikkei 225",
        time_zone="Japan",
    )
    book.market.list_priced(index, Path(NIKKEI_START))
    expiry = _expiry()
    options = [
        Contract(
            con_id=NIKKEI_CON_ID + number,
            symbol="N225",
            sec_type="OPT",
            exchange="OSE.JPN",
            currency="JPY",
            local_symbol=f"{right}{strike:g}",
            trading_class="NK225W",
            expiry=f"{expiry:%Y%m%d}",
            strike=strike,
            right=right,
            multiplier=1000.0,
            under_con_id=index.con_id,
            under_symbol="N225",
            long_name="Nikkei 225",
            min_tick=1.0,
            time_zone="Japan",
        )
        for number, (right, strike) in enumerate((("C", 40_000.0), ("P", 38_000.0)), start=1)
    ]
    book.money.rates["JPY"] = YEN
    return _hold(
        book, account, options, OptionTerms(LIFE_DAYS, 0.2, RATE - DIVIDEND_YIELD), quantity
    )


def _expiry() -> datetime:
    today = datetime.now(UTC)
    return today + (friday_on_or_after(today.date() + timedelta(days=LIFE_DAYS)) - today.date())


def _hold(
    book: Book, account: str, options: list[Contract], terms: OptionTerms, quantity: float
) -> list[Contract]:
    for option in options:
        book.market.list_option(option, terms)
        book.set_position(account, option.con_id, quantity)
    return options
