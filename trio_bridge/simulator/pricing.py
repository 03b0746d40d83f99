"""Option values and Greeks in closed form, in the units of the TWS API. Pure.

Black-Scholes with a cost of carry (Haug, "The Complete Guide to Option Pricing Formulas",
section 1.1): the carry is rate - dividend yield for a spot underlying, and 0 for a future, which
gives Black's formula of 1976.
"""

from __future__ import annotations

import math
from typing import NamedTuple

DAYS_A_YEAR = 365.0
SECONDS_A_DAY = 86_400.0
SHORTEST_LIFE_YEARS = 60 / (DAYS_A_YEAR * SECONDS_A_DAY)
"""Options are valued at least a minute before expiry: the formulas divide by time."""


class OptionValue(NamedTuple):
    """One option's model values, per single unit of the contract.

    Delta per 1-point move of the underlying, gamma per 1 point squared, vega per volatility point
    (1 %), theta per calendar day; `iv` as a fraction (0.18 = 18 %).
    """

    price: float
    delta: float
    gamma: float
    vega: float
    theta: float
    iv: float
    underlying_price: float


def option_value(
    underlying_price: float,
    strike: float,
    years: float,
    iv: float,
    right: str,
    *,
    rate: float,
    carry: float,
) -> OptionValue:
    """Value a European option; `right` is "C" or "P", `rate` and `carry` are per year, compounded
    continuously."""
    years = max(years, SHORTEST_LIFE_YEARS)
    root = math.sqrt(years)
    d1 = (math.log(underlying_price / strike) + (carry + iv * iv / 2) * years) / (iv * root)
    d2 = d1 - iv * root
    growth = math.exp((carry - rate) * years)
    discount = math.exp(-rate * years)
    density = math.exp(-d1 * d1 / 2) / math.sqrt(2 * math.pi)
    sign = 1.0 if right == "C" else -1.0
    n1, n2 = _normal(sign * d1), _normal(sign * d2)
    a_year = (
        -underlying_price * growth * density * iv / (2 * root)
        - sign * (carry - rate) * underlying_price * growth * n1
        - sign * rate * strike * discount * n2
    )
    return OptionValue(
        price=sign * (underlying_price * growth * n1 - strike * discount * n2),
        delta=sign * growth * n1,
        gamma=growth * density / (underlying_price * iv * root),
        vega=underlying_price * growth * density * root / 100,
        theta=a_year / DAYS_A_YEAR,
        iv=iv,
        underlying_price=underlying_price,
    )


def _normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2
