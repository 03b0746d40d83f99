"""What can be held and quoted: contracts as Interactive Brokers describes them. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

OPTION_TYPES: Final = frozenset({"OPT", "FOP"})
MONTH_CODES: Final = "FGHJKMNQUVXZ"

SPX_CON_ID: Final = 416904
AAPL_CON_ID: Final = 265598
SPY_CON_ID: Final = 756733


@dataclass(frozen=True, slots=True)
class Contract:
    """One contract, in the TWS API's terms.

    `multiplier` is None where Interactive Brokers sends none (stocks, indices). `expiry` is
    YYYYMMDD, `right` C or P; both are empty where they have no meaning. `under_con_id` is 0 when
    there is no underlying.
    """

    con_id: int
    symbol: str
    sec_type: str
    exchange: str
    currency: str = "USD"
    local_symbol: str = ""
    trading_class: str = ""
    primary_exchange: str = ""
    expiry: str = ""
    strike: float = 0.0
    right: str = ""
    multiplier: float | None = None
    under_con_id: int = 0
    under_symbol: str = ""
    long_name: str = ""
    min_tick: float = 0.01
    price_magnifier: int = 1
    """Prices, and with them vega and theta, are quoted in this many parts of the currency: 100 for
    grains, whose options are quoted in cents."""
    last_trade_time: str = ""
    """HH:MM in `time_zone` on the day `expiry`; empty where the gateway says only the day."""
    time_zone: str = "US/Eastern"
    real_expiry: str = ""
    """YYYYMMDD, where it is another day than `expiry`: of options that are settled in the morning
    after their last day of trading."""
    beta: float | None = None
    """Against the S&P 500, as field 7718 of the portal says it; None where it says nothing."""

    @property
    def is_option(self) -> bool:
        """Whether the contract has a model value and Greeks."""
        return self.sec_type in OPTION_TYPES


def stock(con_id: int, symbol: str, exchange: str, long_name: str) -> Contract:
    """A share."""
    return Contract(
        con_id=con_id,
        symbol=symbol,
        sec_type="STK",
        exchange=exchange,
        primary_exchange=exchange,
        local_symbol=symbol,
        trading_class=symbol,
        long_name=long_name,
    )


def spx_index() -> Contract:
    """The S&P 500 index: quoted, never held."""
    return Contract(
        con_id=SPX_CON_ID,
        symbol="SPX",
        sec_type="IND",
        exchange="CBOE",
        local_symbol="SPX",
        trading_class="SPX",
        long_name="S&P 500 Stock Index",
    )


def es_future(con_id: int, expiry: date) -> Contract:
    """An E-mini S&P 500 future."""
    return Contract(
        con_id=con_id,
        symbol="ES",
        sec_type="FUT",
        exchange="CME",
        local_symbol=f"ES{MONTH_CODES[expiry.month - 1]}{expiry.year % 10}",
        trading_class="ES",
        expiry=f"{expiry:%Y%m%d}",
        multiplier=50.0,
        long_name="E-mini S&P 500",
        min_tick=0.25,
    )


def spx_option(con_id: int, expiry: date, strike: float, right: str) -> Contract:
    """A weekly option on the S&P 500 index, with its 21-character OSI name."""
    return Contract(
        con_id=con_id,
        symbol="SPX",
        sec_type="OPT",
        exchange="CBOE",
        local_symbol=f"SPXW  {expiry:%y%m%d}{right}{round(strike * 1000):08d}",
        trading_class="SPXW",
        expiry=f"{expiry:%Y%m%d}",
        strike=strike,
        right=right,
        multiplier=100.0,
        under_con_id=SPX_CON_ID,
        under_symbol="SPX",
        long_name="S&P 500 Stock Index",
        min_tick=0.05,
    )


def es_option(con_id: int, expiry: date, strike: float, right: str, future: Contract) -> Contract:
    """A weekly option on an E-mini S&P 500 future."""
    week = (expiry.day - 1) // 7 + 1
    trading_class = f"EW{week}"
    month = f"{MONTH_CODES[expiry.month - 1]}{expiry.year % 10}"
    return Contract(
        con_id=con_id,
        symbol="ES",
        sec_type="FOP",
        exchange="CME",
        local_symbol=f"{trading_class}{month} {right}{strike:g}",
        trading_class=trading_class,
        expiry=f"{expiry:%Y%m%d}",
        strike=strike,
        right=right,
        multiplier=50.0,
        under_con_id=future.con_id,
        under_symbol=future.local_symbol,
        long_name="E-mini S&P 500",
        min_tick=0.05,
    )


def friday_on_or_after(day: date) -> date:
    """Options expire on Fridays."""
    return day + timedelta(days=(4 - day.weekday()) % 7)


def quarter_end_on_or_after(day: date) -> date:
    """Index futures expire on the third Friday of March, June, September and December."""
    month = day.replace(day=1)
    while True:
        expiry = friday_on_or_after(month.replace(day=15))
        if month.month % 3 == 0 and expiry >= day:
            return expiry
        month = (month + timedelta(days=31)).replace(day=1)
