"""Positions × model Greeks → one Snapshot, and a state for each position. Pure; every row's numbers
are decided here and in `greeks`.

Sums are correctly rounded (`math.fsum`), so the order of positions cannot change a row.

Delta and gamma are raw sums. Vega and theta are money: in the options' own currency while all held
options share one, else in the base currency at the ledger's rates, and None where a rate is
missing. The held options decide, not the priced ones: a unit must not change because a line falls
silent.
"""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, assert_never

from trio_bridge.model import (
    OLD,
    DataType,
    Defect,
    ExchangeRates,
    Position,
    PositionState,
    Snapshot,
)
from trio_bridge.risk.greeks import (
    LARGEST_CREDIBLE,
    NOTHING,
    OPTION_TYPES,
    Contribution,
    Option,
    age_of,
    contribution_of,
    delta_of,
    option_of,
    valid_price,
)
from trio_bridge.risk.verdict import judge, stale_after_s
from trio_bridge.text import moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from trio_bridge.model import Greeks, Trouble

NO_RATES = ExchangeRates()

Part: TypeAlias = Option | float | PositionState
"""What follows from a position alone: an option, which needs Greeks, a delta, or why none."""


class Portfolio:
    """What follows from the positions alone: computed once for as long as they stay the same.

    Positions of quantity 0 are ignored.
    """

    def __init__(self, positions: Iterable[Position] = ()) -> None:
        self.held: list[tuple[Position, Part]] = []
        self.deltas: list[float] = []
        """Of the positions that need no Greeks."""
        self.options: list[Option] = []
        self.unknown = 0
        """How many are of a type that is not known."""
        underlyings: dict[str, list[int]] = defaultdict(list)
        for position in positions:
            if position.quantity == 0:
                continue
            part: Part
            if position.sec_type in OPTION_TYPES:
                part = option_of(position)
                underlyings[position.underlying].append(len(self.options))
                self.options.append(part)
            else:
                part = delta_of(position)
                if not isinstance(part, PositionState):
                    self.deltas.append(part)
                elif part is PositionState.UNKNOWN_TYPE:
                    self.unknown += 1
            self.held.append((position, part))
        self.positions = len(self.held)
        """How many are held."""
        self.currencies = frozenset(option.currency for option in self.options)
        most = max(map(len, underlyings.values()), default=0)
        self.leaders = {name: at for name, at in underlyings.items() if len(at) == most}
        """The underlyings with the most option positions, and their indices in `options`."""


def aggregate(
    portfolio: Portfolio,
    greeks: Mapping[int, Greeks],
    *,
    read_at: datetime,
    now: float,
    max_age_s: float,
    interval_s: float,
    slot: datetime | None = None,
    account: str = "",
    rates: ExchangeRates = NO_RATES,
    positions_at: float | None = None,
) -> Snapshot:
    """Net the positions' Greeks into one row.

    Args:
        portfolio: the holdings of the selected accounts.
        greeks: the last model Greeks by contract id.
        read_at: the instant, UTC, at which both were read.
        now: the same instant on the monotonic clock, in seconds.
        max_age_s: an option whose Greeks are older than this is unpriced.
        interval_s: how far apart rows are, for the verdict.
        slot: the instant that the row is for, UTC; None: `read_at`.
        account: the value of the row's `account` column.
        rates: the ledger's.
        positions_at: from when the age of the positions counts; None: they are current.
    """
    at, worst, oldest = read_at.timestamp(), DataType.LIVE, 0.0
    contributions: list[Contribution | None] = []
    errors: list[float] = []
    for option in portfolio.options:
        quote = greeks.get(option.con_id)
        part = contribution_of(option, quote, at, now, max_age_s)
        if quote is None or not isinstance(part, tuple):
            contributions.append(None)
            continue
        contributions.append(part)
        _, _, _, _, _, data_type, until, error = quote
        if until is not None and now - until > oldest:
            oldest = now - until
        if data_type > worst:
            worst = data_type
        if error:
            errors.append(error * abs(option.units or 0.0))

    priced = list(filter(None, contributions))
    counted = len(priced) + len(portfolio.deltas)
    sums: tuple[float | None, ...] = (None,) * len(NOTHING)
    if priced or counted + portfolio.unknown == portfolio.positions:
        deltas, *others = zip(NOTHING, *priced, strict=True)
        sums = tuple(map(math.fsum, (chain(deltas, portfolio.deltas), *others)))
    delta, gamma, vega, theta = sums
    currency = next(iter(portfolio.currencies), "")
    if len(portfolio.currencies) > 1:
        currency = rates.base
        if vega is not None:
            vega, theta = _converted(portfolio, contributions, rates)
    verdict = judge(
        complete=counted == portfolio.positions and (vega is not None or delta is None),
        age_s=oldest,
        interval_s=interval_s,
    )
    if positions_at is not None:
        oldest = max(oldest, now - positions_at)
    main = _main_underlying(portfolio, contributions)
    places = portfolio.leaders[main] if main else ()
    on_main = [greeks.get(portfolio.options[place].con_id) for place in places]
    return Snapshot(
        timestamp=slot or read_at,
        late_s=0.0 if slot is None else (read_at - slot).total_seconds(),
        account=account,
        delta=delta,
        gamma=gamma,
        vega=vega,
        theta=theta,
        underlying_price=_price(on_main, now, max_age_s),
        positions=portfolio.positions,
        priced=counted,
        greeks_age_s=oldest if priced or positions_at is not None else None,
        data_type=worst if priced else None,
        verdict=verdict,
        currency=currency or None,
        gamma_error=None if gamma is None else math.fsum(errors),
    )


def _converted(
    portfolio: Portfolio, contributions: Sequence[Contribution | None], rates: ExchangeRates
) -> tuple[float | None, float | None]:
    """Vega and theta in the base currency; None where a priced option's rate is not known."""
    vegas, thetas = [], []
    for option, part in zip(portfolio.options, contributions, strict=True):
        if part is None:
            continue
        rate = _rate(rates, option.currency)
        if rate is None:
            return None, None
        _, _, vega, theta = part
        vegas.append(vega * rate)
        thetas.append(theta * rate)
    return math.fsum(vegas), math.fsum(thetas)


def _rate(rates: ExchangeRates, currency: str) -> float | None:
    if not rates.base or not currency:
        return None
    rate = 1.0 if currency == rates.base else rates.to_base.get(currency, 0.0)
    return rate if 0 < rate < LARGEST_CREDIBLE else None


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
        if quote is None or (age := age_of(quote, now)) > max_age_s:
            continue
        if (price := valid_price(quote.underlying_price)) is not None:
            known[age].append(price)
    if not known:
        return None
    prices = sorted(known[min(known)])
    return prices[len(prices) // 2]


class Standing(NamedTuple):
    """Whether a position counts in the row, and if not, why, in words for a person. `age_s`: how
    old its Greeks are. PRICED with a reason: not in vega and theta."""

    position: Position
    state: PositionState
    reason: str = ""
    age_s: float = 0.0

    def defect(self, interval_s: float) -> Defect | None:
        """What it makes a row of this interval lack, if anything (`risk.verdict.judge`)."""
        name = self.position.symbol or f"conid {self.position.con_id}"
        if self.state is not PositionState.PRICED or self.reason:
            return Defect(name, self.state, self.reason)
        if self.age_s > stale_after_s(interval_s):
            return Defect(name, OLD, f"{self.age_s:.0f} s")
        return None


def standings(
    portfolio: Portfolio,
    greeks: Mapping[int, Greeks],
    troubles: Mapping[int, Trouble],
    *,
    read_at: datetime,
    now: float,
    max_age_s: float,
    rates: ExchangeRates = NO_RATES,
) -> list[Standing]:
    """The state of each position in the row that `aggregate` makes of the same arguments.

    `troubles` are the gateway's reasons by contract id, for options without current Greeks.
    """
    found = []
    for position, part in portfolio.held:
        quote = greeks.get(position.con_id)
        outcome: Contribution | Part = part
        if isinstance(part, Option):
            outcome = contribution_of(part, quote, read_at.timestamp(), now, max_age_s)
        age_s = 0.0 if quote is None else age_of(quote, now)
        if not isinstance(outcome, PositionState):
            reason = _lacks_rate(portfolio, part, rates)
            found.append(Standing(position, PositionState.PRICED, reason, age_s))
            continue
        trouble = troubles.get(position.con_id)
        found.append(_unpriced(position, outcome, quote is not None, age_s, trouble))
    return found


def _lacks_rate(portfolio: Portfolio, part: Part, rates: ExchangeRates) -> str:
    if len(portfolio.currencies) < 2 or not isinstance(part, Option):
        return ""
    if _rate(rates, part.currency) is not None:
        return ""
    return f"no exchange rate of {part.currency or 'its currency'}, so vega and theta are unknown"


def _unpriced(
    position: Position,
    state: PositionState,
    computed: bool,
    age_s: float,
    trouble: Trouble | None,
) -> Standing:
    match state:
        case PositionState.EXPIRED:
            assert position.last_trade is not None
            reason = f"it stopped trading at {moment(position.last_trade)}"
        case PositionState.NO_MULTIPLIER:
            reason = _lacks(position)
        case PositionState.UNKNOWN_TYPE:
            reason = f"positions of type {position.sec_type!r} add nothing"
        case PositionState.STALE:
            reason = f"its Greeks are {age_s:.0f} s old"
            if trouble is not None and trouble.reason:
                reason = f"{reason}: {trouble.reason}"
        case PositionState.NO_DATA | PositionState.WAITING | PositionState.REFUSED:
            if trouble is not None:
                return Standing(position, *trouble)
            reason = "its Greeks are not all valid" if computed else "no Greeks have come"
        case PositionState.PRICED:
            raise AssertionError(position)
        case _:
            assert_never(state)
    return Standing(position, state, reason)


def _lacks(position: Position) -> str:
    if position.multiplier is None:
        return "its multiplier is not known"
    if position.magnifier is None:
        return "the unit of its prices is not known (price magnifier)"
    return f"{position.quantity:g} × {position.multiplier:g} ÷ {position.magnifier:g} is no number"
