"""What one position adds to the portfolio's Greeks, or why it adds nothing. Pure.

What each security type contributes:

=====================================  =========================================================
OPT, FOP, WAR, IOPT                    quantity × multiplier × model Greek, for all four; vega and
                                       theta ÷ price magnifier
STK, ETF, FUND, CFD, CRYPTO            delta = quantity
FUT, CONTFUT                           delta = quantity × multiplier (the unit of options on it)
CASH, BOND, BILL, CMDTY                nothing
anything else                          nothing, and it is not priced
=====================================  =========================================================

The price magnifier (TWS API, `ContractDetails.priceMagnifier`) says in how many parts of the
currency prices are quoted: 100 for grains, which are quoted in cents. Vega and theta are changes of
the option's price, so they come in those parts. Delta is a ratio, and gamma is per quoted unit of
the underlying: neither is affected.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from trio_bridge.model import PositionState

if TYPE_CHECKING:
    from trio_bridge.model import Greeks, Position

OPTION_TYPES = frozenset({"OPT", "FOP", "WAR", "IOPT"})
SHARE_TYPES = frozenset({"STK", "ETF", "FUND", "CFD", "CRYPTO"})
FUTURE_TYPES = frozenset({"FUT", "CONTFUT"})
SILENT_TYPES = frozenset({"CASH", "BOND", "BILL", "CMDTY"})
KNOWN_TYPES = OPTION_TYPES | SHARE_TYPES | FUTURE_TYPES | SILENT_TYPES

NOT_COMPUTED = -2.0
"""The gateway's "not computed" for each of the four Greeks (TWS API, tickOptionComputation). Of
these, only a theta can be -2 otherwise."""

LARGEST_CREDIBLE = 1e15
LOWEST_CREDIBLE = -LARGEST_CREDIBLE
"""No quantity and no multiplier is this large: the limit rejects DBL_MAX and the like."""

LARGEST_QUOTED = 1e9
LOWEST_QUOTED = -LARGEST_QUOTED
"""No Greek of a single contract unit and no price is this large: the limit also rejects INT_MAX,
2147483647, which a gateway has sent for a delta."""

LARGEST_DELTA = 1.01
LOWEST_DELTA = -LARGEST_DELTA
"""An option's delta is at most 1. Models of American options on a lattice exceed that a little."""

LOWEST_OF_POSITIVE = -1e-6
"""Gamma and vega of an option are not negative, but differences of nearly equal prices leave a
little noise around zero."""

Contribution: TypeAlias = tuple[float, float, float, float]
"""What one position adds to the portfolio: delta, gamma, vega, theta."""

NOTHING: Contribution = (0.0, 0.0, 0.0, 0.0)


class Option(NamedTuple):
    """What follows from an option's position alone. `units` is quantity × multiplier, `money`
    that ÷ price magnifier; both are None unless both are known. `ends` is its last trading instant
    in POSIX seconds, infinite if unknown."""

    con_id: int
    units: float | None
    money: float | None
    ends: float
    currency: str


def option_of(position: Position) -> Option:
    """The option that this position holds."""
    units, magnifier = _units(position), position.magnifier
    ends = math.inf if position.last_trade is None else position.last_trade.timestamp()
    if units is None or magnifier is None or not 1 <= magnifier < LARGEST_CREDIBLE:
        return Option(position.con_id, None, None, ends, position.currency)
    return Option(position.con_id, units, units / magnifier, ends, position.currency)


def contribution_of(
    option: Option, quote: Greeks | None, at: float, now: float, max_age_s: float
) -> Contribution | PositionState:
    """What an option adds, or why it adds nothing: the one decision behind a row and its words.

    Args:
        option: from `option_of`.
        quote: its last model Greeks, if any.
        at: the instant in POSIX seconds.
        now: the same instant on the monotonic clock of `Greeks.current_until`.
        max_age_s: Greeks older than this do not count.
    """
    _, units, money, ends, _ = option
    if at >= ends:
        return PositionState.EXPIRED
    if units is None or money is None:
        return PositionState.NO_MULTIPLIER
    if quote is None:
        return PositionState.NO_DATA
    delta, gamma, vega, theta, _, _, until, _ = quote
    if until is not None and now - until > max_age_s:
        return PositionState.STALE
    # `valid_four` inlined: with a thousand options, calling it is a tenth of a row's cost.
    if delta is None or gamma is None or vega is None or theta is None:
        return PositionState.NO_DATA
    if (
        LOWEST_DELTA <= delta <= LARGEST_DELTA
        and LOWEST_OF_POSITIVE <= gamma < LARGEST_QUOTED
        and LOWEST_OF_POSITIVE <= vega < LARGEST_QUOTED
        and LOWEST_QUOTED < theta < LARGEST_QUOTED
        and theta != NOT_COMPUTED
    ):
        return units * delta, units * gamma, money * vega, money * theta
    return PositionState.NO_DATA


def valid_four(
    delta: float | None, gamma: float | None, vega: float | None, theta: float | None
) -> tuple[float, float, float, float] | None:
    """The four Greeks of an option if each is a number that it can have, else None: a row's sums
    always cover the same positions, and where one number is impossible, none can be trusted.

    Not numbers: None, NaN, infinities, DBL_MAX, INT_MAX, the gateway's -2.
    """
    if delta is None or gamma is None or vega is None or theta is None:
        return None
    if (
        LOWEST_DELTA <= delta <= LARGEST_DELTA
        and LOWEST_OF_POSITIVE <= gamma < LARGEST_QUOTED
        and LOWEST_OF_POSITIVE <= vega < LARGEST_QUOTED
        and LOWEST_QUOTED < theta < LARGEST_QUOTED
        and theta != NOT_COMPUTED
    ):
        return delta, gamma, vega, theta
    return None


def valid_price(value: float | None) -> float | None:
    """The price of an underlying if it is a price, else None.

    Negative prices have occurred (crude oil, April 2020); -1 is the gateway's "not computed", and
    0 means "no price" wherever a gateway sends it.
    """
    if value is None or value in (-1.0, 0.0) or not abs(value) < LARGEST_QUOTED:
        return None
    return value


def delta_of(position: Position) -> float | PositionState:
    """The delta of a position that is no option, or why it has none."""
    if position.sec_type in FUTURE_TYPES:
        units = _units(position)
        return PositionState.NO_MULTIPLIER if units is None else units
    if position.sec_type not in KNOWN_TYPES:
        return PositionState.UNKNOWN_TYPE
    if not LOWEST_CREDIBLE < position.quantity < LARGEST_CREDIBLE:
        return PositionState.NO_DATA
    return position.quantity if position.sec_type in SHARE_TYPES else 0.0


def age_of(quote: Greeks, now: float) -> float:
    """How old they are, in seconds; 0 while something vouches for them."""
    until = quote.current_until
    return 0.0 if until is None else max(0.0, now - until)


def _units(position: Position) -> float | None:
    multiplier = position.multiplier
    if multiplier is None or not 0 < multiplier < LARGEST_CREDIBLE:
        return None
    if not LOWEST_CREDIBLE < position.quantity < LARGEST_CREDIBLE:
        return None
    return position.quantity * multiplier
