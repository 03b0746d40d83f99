"""Positions × model Greeks → one Snapshot. Pure; every row's numbers are decided here.

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
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from trio_bridge.model import DataType, Greeks, Position, Snapshot
from trio_bridge.risk.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

OPTION_TYPES = frozenset({"OPT", "FOP", "WAR", "IOPT"})
SHARE_TYPES = frozenset({"STK", "ETF", "FUND", "CFD", "CRYPTO"})
FUTURE_TYPES = frozenset({"FUT", "CONTFUT"})
SILENT_TYPES = frozenset({"CASH", "BOND", "BILL", "CMDTY"})
KNOWN_TYPES = OPTION_TYPES | SHARE_TYPES | FUTURE_TYPES | SILENT_TYPES

NOT_COMPUTED = -2.0
"""The gateway's "not computed" for each of the four Greeks (TWS API, tickOptionComputation)."""

LARGEST_CREDIBLE = 1e15
LOWEST_CREDIBLE = -LARGEST_CREDIBLE
"""No Greek and no price is this large: the limit rejects DBL_MAX and the like."""

Contribution: TypeAlias = tuple[float, float, float, float]
"""What one position adds to the portfolio: delta, gamma, vega, theta."""

NOTHING: Contribution = (0.0, 0.0, 0.0, 0.0)


def valid_greek(value: float | None) -> TypeGuard[float]:
    """Whether the gateway computed this value (no sentinel, NaN, infinity or DBL_MAX)."""
    return (
        value is not None and value != NOT_COMPUTED and LOWEST_CREDIBLE < value < LARGEST_CREDIBLE
    )


def valid_price(value: float | None) -> float | None:
    """The price of an underlying if it is a price, else None.

    Negative prices have occurred (crude oil, April 2020); -1 is the gateway's "not computed", and
    0 means "no price" wherever a gateway sends it.
    """
    if value is None or value in (-1.0, 0.0) or not abs(value) < LARGEST_CREDIBLE:
        return None
    return value


class Portfolio:
    """What follows from the positions alone: computed once for as long as they stay the same.

    Positions of quantity 0 are ignored.
    """

    def __init__(self, positions: Iterable[Position] = ()) -> None:
        self.positions = 0
        """How many are held."""
        self.deltas: list[float] = []
        """The deltas of those that need no Greeks."""
        self.options: list[tuple[int, float | None]] = []
        """The options: contract id and units (quantity × multiplier; None if unknown)."""
        underlyings: dict[str, list[int]] = defaultdict(list)
        for position in positions:
            if position.quantity == 0:
                continue
            self.positions += 1
            if position.sec_type in OPTION_TYPES:
                underlyings[position.underlying].append(len(self.options))
                self.options.append((position.con_id, _units(position)))
            elif (delta := _delta(position)) is not None:
                self.deltas.append(delta)
        most = max(map(len, underlyings.values()), default=0)
        self.leaders = {name: at for name, at in underlyings.items() if len(at) == most}
        """The underlyings with the most option positions, and their indices in `options`."""


def _units(position: Position) -> float | None:
    multiplier = position.multiplier
    if multiplier is None or not 0 < multiplier < LARGEST_CREDIBLE:
        return None
    if not LOWEST_CREDIBLE < position.quantity < LARGEST_CREDIBLE:
        return None
    return position.quantity * multiplier


def _delta(position: Position) -> float | None:
    """The delta of a position that needs no Greeks; None if unknown (unpriced)."""
    if position.sec_type in FUTURE_TYPES:
        return _units(position)
    if not LOWEST_CREDIBLE < position.quantity < LARGEST_CREDIBLE:
        return None
    return position.quantity if position.sec_type in SHARE_TYPES else 0.0


def aggregate(
    portfolio: Portfolio,
    greeks: Mapping[int, Greeks],
    *,
    timestamp: datetime,
    now: float,
    max_age_s: float,
    interval_s: float,
    account: str = "",
) -> Snapshot:
    """Net the positions' Greeks into one row.

    Args:
        portfolio: the holdings of the selected accounts.
        greeks: the last model Greeks by contract id.
        timestamp: the instant, UTC, at which both were read.
        now: the same instant on the monotonic clock, in seconds.
        max_age_s: an option whose Greeks are older than this is unpriced.
        interval_s: how far apart rows are, for the verdict.
        account: the value of the row's `account` column.
    """
    oldest = 0.0
    worst = DataType.LIVE
    contributions: list[Contribution | None] = []
    for con_id, units in portfolio.options:
        part, quote = None, greeks.get(con_id)
        if quote is not None and units is not None:
            age = _age(quote, now)
            if age <= max_age_s and (part := _scaled(quote, units)) is not None:
                if age > oldest:
                    oldest = age
                if quote.data_type > worst:
                    worst = quote.data_type
        contributions.append(part)

    priced = list(filter(None, contributions))
    counted = len(priced) + len(portfolio.deltas)
    sums: tuple[float, ...] | tuple[None, ...] = (None,) * len(NOTHING)
    if priced or counted == portfolio.positions:
        deltas, *others = zip(NOTHING, *priced, strict=True)
        sums = tuple(map(math.fsum, (chain(deltas, portfolio.deltas), *others)))
    delta, gamma, vega, theta = sums
    main = _main_underlying(portfolio, contributions)
    places = portfolio.leaders[main] if main else ()
    on_main = [greeks.get(portfolio.options[at][0]) for at in places]
    return Snapshot(
        timestamp=timestamp,
        account=account,
        delta=delta,
        gamma=gamma,
        vega=vega,
        theta=theta,
        underlying_price=_price(on_main, now, max_age_s),
        positions=portfolio.positions,
        priced=counted,
        greeks_age_s=oldest if priced else None,
        data_type=worst if priced else None,
        verdict=judge(
            positions=portfolio.positions, priced=counted, age_s=oldest, interval_s=interval_s
        ),
    )


def _age(quote: Greeks, now: float) -> float:
    until = quote.current_until
    return 0.0 if until is None else max(0.0, now - until)


def _scaled(quote: Greeks, units: float) -> Contribution | None:
    """All four or none: the four sums of a row always cover the same positions."""
    delta, gamma, vega, theta, _, _, _ = quote
    # `valid_greek` inlined: with a thousand options its four calls are a fifth of a row's cost.
    if delta is None or gamma is None or vega is None or theta is None:
        return None
    if not (
        LOWEST_CREDIBLE < delta < LARGEST_CREDIBLE
        and LOWEST_CREDIBLE < gamma < LARGEST_CREDIBLE
        and LOWEST_CREDIBLE < vega < LARGEST_CREDIBLE
        and LOWEST_CREDIBLE < theta < LARGEST_CREDIBLE
    ):
        return None
    if NOT_COMPUTED in (delta, gamma, vega, theta):
        return None
    return (units * delta, units * gamma, units * vega, units * theta)


def _main_underlying(portfolio: Portfolio, contributions: Sequence[Contribution | None]) -> str:
    """The underlying with the most option positions; ties: the largest absolute delta.

    Empty if most options are on an unknown underlying: they need not share one.
    """

    def weight(name: str) -> tuple[float, str]:
        parts = filter(None, [contributions[at] for at in portfolio.leaders[name]])
        return (abs(math.fsum([delta for delta, _, _, _ in parts])), name)

    return max(portfolio.leaders, key=weight, default="")


def _price(options: Iterable[Greeks | None], now: float, max_age_s: float) -> float | None:
    """The price of the underlying that these options share.

    They are computed at slightly different instants, so their prices differ a little: the median of
    the freshest prices represents them all, whatever their order.
    """
    known: dict[float, list[float]] = defaultdict(list)
    for quote in options:
        if quote is None or (age := _age(quote, now)) > max_age_s:
            continue
        if (price := valid_price(quote.underlying_price)) is not None:
            known[age].append(price)
    if not known:
        return None
    prices = sorted(known[min(known)])
    return prices[len(prices) // 2]
