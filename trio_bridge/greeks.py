"""Positions × model Greeks → one Snapshot. Pure; the truth of every row is decided here.

What each security type contributes:

=====================================  =========================================================
OPT, FOP, WAR, IOPT                    quantity × multiplier × model Greek, for all four
STK, ETF, FUND, CFD, CRYPTO            delta = quantity
FUT, CONTFUT                           delta = quantity × multiplier (the unit of options on it)
CASH, BOND, BILL, CMDTY, anything else nothing
=====================================  =========================================================

Sums are correctly rounded (`math.fsum`), so the order of positions cannot change a row.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from trio_bridge.model import DataType, Greeks, Position, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

OPTION_TYPES = frozenset({"OPT", "FOP", "WAR", "IOPT"})
SHARE_TYPES = frozenset({"STK", "ETF", "FUND", "CFD", "CRYPTO"})
FUTURE_TYPES = frozenset({"FUT", "CONTFUT"})
SILENT_TYPES = frozenset({"CASH", "BOND", "BILL", "CMDTY"})
KNOWN_TYPES = OPTION_TYPES | SHARE_TYPES | FUTURE_TYPES | SILENT_TYPES

NOT_COMPUTED = -2.0
"""The gateway's "not computed" for each of the four (TWS API, tickOptionComputation)."""

LARGEST_CREDIBLE = 1e15
"""No Greek and no price is this large: it keeps DBL_MAX and its kin out."""


class Contribution(NamedTuple):
    """What one position adds to the portfolio."""

    delta: float
    gamma: float = 0.0
    vega: float = 0.0
    theta: float = 0.0


NOTHING = Contribution(0.0)


def valid_greek(value: float | None) -> TypeGuard[float]:
    """Whether the gateway computed this value (no sentinel, NaN, infinity or DBL_MAX)."""
    return (
        value is not None and value != NOT_COMPUTED and -LARGEST_CREDIBLE < value < LARGEST_CREDIBLE
    )


def valid_price(value: float | None) -> float | None:
    """The price of an underlying if there is one, else None.

    Negative prices have happened (crude oil, April 2020); -1 is the gateway's "not computed", and
    0 stands for "no price" wherever a gateway sends it.
    """
    if value is None or value in (-1.0, 0.0) or not abs(value) < LARGEST_CREDIBLE:
        return None
    return value


def contribution(position: Position, greeks: Greeks | None) -> Contribution | None:
    """What the position adds, or None when that is not known (unpriced)."""
    quantity, sec_type = position.quantity, position.sec_type
    if not -LARGEST_CREDIBLE < quantity < LARGEST_CREDIBLE:
        return None
    if sec_type in OPTION_TYPES or sec_type in FUTURE_TYPES:
        multiplier = position.multiplier
        if multiplier is None or not 0 < multiplier < LARGEST_CREDIBLE:
            return None
        units = quantity * multiplier
        if sec_type in FUTURE_TYPES:
            return Contribution(units)
        return None if greeks is None else _scaled(greeks, units)
    return Contribution(quantity) if sec_type in SHARE_TYPES else NOTHING


def _scaled(greeks: Greeks, units: float) -> Contribution | None:
    """All four or none: the four sums of a row always cover the same positions."""
    delta, gamma, vega, theta, *_ = greeks
    if valid_greek(delta) and valid_greek(gamma) and valid_greek(vega) and valid_greek(theta):
        return Contribution(units * delta, units * gamma, units * vega, units * theta)
    return None


def aggregate(
    positions: Iterable[Position],
    greeks: Mapping[int, Greeks],
    *,
    timestamp: datetime,
    now: float,
    max_age_s: float,
    account: str = "",
) -> Snapshot:
    """Net the positions' Greeks into one row.

    Args:
        positions: the holdings of the selected accounts; those of quantity 0 don't count.
        greeks: the last model Greeks by contract id.
        timestamp: the instant, UTC, at which both were read.
        now: the same instant on the monotonic clock, in seconds.
        max_age_s: an option whose Greeks are older than this is unpriced.
        account: what goes into the row's `account` column.
    """
    held = 0
    options_priced = 0
    unpriced = 0
    contributions: list[Contribution] = []
    oldest = 0.0
    worst = DataType.LIVE
    underlyings: defaultdict[str, _Underlying] = defaultdict(_Underlying)

    for position in positions:
        if position.quantity == 0:
            continue
        held += 1
        is_option = position.sec_type in OPTION_TYPES
        quote = greeks.get(position.con_id) if is_option else None
        age = 0.0
        if quote is not None and quote.current_until is not None:
            age = max(0.0, now - quote.current_until)
            if age > max_age_s:
                quote = None
        part = contribution(position, quote)
        if part is None:
            unpriced += 1
        else:
            contributions.append(part)
        if is_option:
            underlyings[position.underlying].add(part, quote, age)
            if part is not None and quote is not None:
                options_priced += 1
                if age > oldest:
                    oldest = age
                if quote.data_type > worst:
                    worst = quote.data_type

    sums: tuple[float, ...] | tuple[None, ...] = (None,) * len(Contribution._fields)
    if options_priced or not unpriced:
        sums = tuple(map(math.fsum, zip(NOTHING, *contributions, strict=True)))
    delta, gamma, vega, theta = sums
    return Snapshot(
        timestamp=timestamp,
        account=account,
        delta=delta,
        gamma=gamma,
        vega=vega,
        theta=theta,
        underlying_price=_main_underlying_price(underlyings),
        positions=held,
        priced=held - unpriced,
        greeks_age_s=oldest if options_priced else None,
        data_type=worst if options_priced else None,
    )


class _Underlying:
    """What is known of one underlying while a row is being summed."""

    __slots__ = ("deltas", "options", "prices")

    def __init__(self) -> None:
        self.options = 0
        self.deltas: list[float] = []
        self.prices: list[tuple[float, float]] = []

    def add(self, part: Contribution | None, quote: Greeks | None, age: float) -> None:
        self.options += 1
        if part is not None:
            self.deltas.append(part.delta)
        price = valid_price(quote.underlying_price) if quote is not None else None
        if price is not None:
            self.prices.append((age, price))


def _main_underlying_price(underlyings: Mapping[str, _Underlying]) -> float | None:
    """The price of the underlying with most option positions; ties: the largest absolute delta.

    Options on one underlying are computed at slightly different instants, so their underlying
    prices differ a little: the median of the freshest ones stands for all, whatever their order.
    Unknown when most options are on an unknown underlying: they need not share one.
    """
    if not underlyings:
        return None
    _, _, name, main = max(
        (one.options, abs(math.fsum(one.deltas)), key, one) for key, one in underlyings.items()
    )
    if not name or not main.prices:
        return None
    freshest = min(age for age, _ in main.prices)
    prices = sorted(price for age, price in main.prices if age == freshest)
    return prices[len(prices) // 2]
