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
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from trio_bridge.model import DataType, Greeks, Position, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
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


Contribution: TypeAlias = tuple[float, float, float, float]
"""What one position adds to the portfolio: delta, gamma, vega, theta."""

NOTHING: Contribution = (0.0, 0.0, 0.0, 0.0)


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
            return (units, 0.0, 0.0, 0.0)
        return None if greeks is None else _scaled(greeks, units)
    return (quantity, 0.0, 0.0, 0.0) if sec_type in SHARE_TYPES else NOTHING


def _scaled(greeks: Greeks, units: float) -> Contribution | None:
    """All four or none: the four sums of a row always cover the same positions."""
    delta, gamma, vega, theta, _, _, _ = greeks
    # `valid_greek` spelled out: with a thousand options its four calls are a fifth of a row's cost.
    if delta is None or gamma is None or vega is None or theta is None:
        return None
    if not (
        -LARGEST_CREDIBLE < delta < LARGEST_CREDIBLE
        and -LARGEST_CREDIBLE < gamma < LARGEST_CREDIBLE
        and -LARGEST_CREDIBLE < vega < LARGEST_CREDIBLE
        and -LARGEST_CREDIBLE < theta < LARGEST_CREDIBLE
    ):
        return None
    if NOT_COMPUTED in (delta, gamma, vega, theta):
        return None
    return (units * delta, units * gamma, units * vega, units * theta)


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
    unpriced = 0
    options_priced = 0
    oldest = 0.0
    worst = DataType.LIVE
    contributions: list[Contribution] = []
    options: list[_Option] = []

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
            options.append((position.underlying, part, quote, age))
            if part is not None and quote is not None:
                options_priced += 1
                if age > oldest:
                    oldest = age
                if quote.data_type > worst:
                    worst = quote.data_type

    sums: tuple[float, ...] | tuple[None, ...] = (None,) * len(NOTHING)
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
        underlying_price=_main_underlying_price(options),
        positions=held,
        priced=held - unpriced,
        greeks_age_s=oldest if options_priced else None,
        data_type=worst if options_priced else None,
    )


_Option: TypeAlias = tuple[str, Contribution | None, Greeks | None, float]
"""An option held: its underlying, what it adds, its Greeks (unless too old) and their age."""


def _main_underlying_price(options: Sequence[_Option]) -> float | None:
    """The price of the underlying with most option positions; ties: the largest absolute delta.

    Options on one underlying are computed at slightly different instants, so their underlying
    prices differ a little: the median of the freshest ones stands for all, whatever their order.
    Unknown when most options are on an unknown underlying: they need not share one.
    """
    counts = Counter([name for name, _, _, _ in options])
    most = max(counts.values(), default=0)
    leaders = [name for name, count in counts.items() if count == most]
    main = leaders[0] if len(leaders) == 1 else _largest_delta(options, leaders)
    if not main:
        return None
    known = [
        (age, price)
        for name, _, quote, age in options
        if name == main and quote is not None
        if (price := valid_price(quote.underlying_price)) is not None
    ]
    if not known:
        return None
    freshest = min(age for age, _ in known)
    prices = sorted(price for age, price in known if age == freshest)
    return prices[len(prices) // 2]


def _largest_delta(options: Sequence[_Option], underlyings: Iterable[str]) -> str:
    deltas: dict[str, list[float]] = {name: [] for name in underlyings}
    for name, part, _, _ in options:
        if part is not None and name in deltas:
            deltas[name].append(part[0])
    return max(deltas, key=lambda name: (abs(math.fsum(deltas[name])), name), default="")
