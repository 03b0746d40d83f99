"""The made-up market's quote for each contract at any instant. Pure.

Every value is a function of the seed and the book's time in seconds. Contracts can be made to
misbehave (`override`, `silence_greeks`, `set_data_type`) as real ones do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from trio_bridge.simulator.pricing import DAYS_A_YEAR, SECONDS_A_DAY, OptionValue, option_value

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping
    from datetime import date

    from trio_bridge.simulator.contracts import Contract

RATE: Final = 0.04
DIVIDEND_YIELD: Final = 0.013

LIVE, FROZEN, DELAYED, DELAYED_FROZEN = 1, 2, 3, 4
"""The kinds of market data, as reqMarketDataType numbers them."""

GREEK_FIELDS: Final = frozenset({"delta", "gamma", "vega", "theta"})
VALUE_FIELDS: Final = frozenset(OptionValue._fields)

BID_FACTOR, ASK_FACTOR, LAST_FACTOR = 0.97, 0.98, 0.99
"""The Greeks of bid, ask and last as fractions of the model's. Real ones differ through their
volatilities, hardly at all at the money; these differ visibly, so that reading the wrong ones is
caught."""


class Quote(NamedTuple):
    """One contract's market at one instant.

    `model` is the computation that counts; each Greek of bid, ask and last differs from it. All
    four computations are None for anything but an option, and where Greeks are silenced. Overridden
    fields show in `model` only.
    """

    con_id: int
    last: float
    bid: float
    ask: float
    close: float
    bid_size: int
    ask_size: int
    last_size: int
    volume: int
    underlying_price: float | None = None
    model: OptionValue | None = None
    bid_greeks: OptionValue | None = None
    ask_greeks: OptionValue | None = None
    last_greeks: OptionValue | None = None


@dataclass(frozen=True, slots=True)
class Path:
    """A price that wanders around its start: seeded sine waves, so every instant costs the same."""

    start: float
    waves: tuple[tuple[float, float, float], ...] = ()
    """Each wave: relative height, period in seconds, phase in periods."""

    @classmethod
    def seeded(cls, start: float, rng: random.Random, height: float = 0.004) -> Path:
        """A path that depends only on the generator's state; `height` is relative to `start`."""
        periods = (23.0, 61.0, 307.0, 1_801.0, 7_213.0)
        return cls(
            start,
            tuple(
                (
                    height * rng.uniform(0.3, 1.0) * math.sqrt(period / periods[-1]),
                    period,
                    rng.random(),
                )
                for period in periods
            ),
        )

    def at(self, t: float) -> float:
        """The price at the book's time `t` in seconds."""
        return self.start * (
            1
            + sum(
                h * math.sin(2 * math.pi * (t / period + phase)) for h, period, phase in self.waves
            )
        )


@dataclass(frozen=True, slots=True)
class OptionTerms:
    """What valuing an option needs besides its contract."""

    life_days: float
    """Calendar days from the book's time 0 to the expiry."""
    iv: float
    carry: float
    """Rate minus dividend yield of a spot underlying; 0 for a future."""


@dataclass(frozen=True, slots=True)
class Quirk:
    """How one contract misbehaves."""

    override: tuple[tuple[str, float], ...] = ()
    silent: bool = False
    data_type: int = LIVE
    expired: bool = False

    @property
    def hides_greeks(self) -> bool:
        """Whether a gateway sends no usable set of the four Greeks."""
        return self.silent or self.expired or any(name in GREEK_FIELDS for name, _ in self.override)


NO_QUIRK: Final = Quirk()


class Market:
    """The listed contracts and what they are worth."""

    def __init__(self) -> None:
        self._contracts: dict[int, Contract] = {}
        self._paths: dict[int, Path] = {}
        self._terms: dict[int, OptionTerms] = {}
        self._quirks: dict[int, Quirk] = {}
        self.revision = 0
        """Grows with every change except the passing of time."""

    @property
    def contracts(self) -> Mapping[int, Contract]:
        """Every listed contract, by contract id."""
        return self._contracts

    def contract(self, con_id: int) -> Contract:
        """One contract; KeyError when there is no such contract."""
        return self._contracts[con_id]

    def options(self) -> list[Contract]:
        """The options, in the order in which they were listed."""
        return [contract for contract in self._contracts.values() if contract.is_option]

    def list_priced(self, contract: Contract, path: Path) -> Contract:
        """Add a contract with its own price: a stock, an index, a future, a bond."""
        self._contracts[contract.con_id] = contract
        self._paths[contract.con_id] = path
        return contract

    def list_option(self, contract: Contract, terms: OptionTerms) -> Contract:
        """Add an option; KeyError unless its underlying is listed already."""
        if contract.under_con_id not in self._paths:
            raise KeyError(contract.under_con_id)
        self._contracts[contract.con_id] = contract
        self._terms[contract.con_id] = terms
        return contract

    def change_contract(self, con_id: int, **changes: object) -> Contract:
        """Change a contract's description from now on, for instance `multiplier=None`."""
        contract = replace(self._contracts[con_id], **changes)  # type: ignore[arg-type]
        self._contracts[con_id] = contract
        self.revision += 1
        return contract

    # Quirks ----------------------------------------------------------------------------------

    def end_trading(self, con_id: int, at: datetime, *, settled_on: date | None = None) -> Contract:
        """Let an option's last trading instant be `at`; its line lives on and computes.

        It counts as unpriced in a book's `net_greeks` when the instant has passed.

        Args:
            con_id: the option.
            at: with a ZoneInfo, whose key becomes the contract's time zone.
            settled_on: the day on which it is settled when that is another one (AM-settled).

        Raises:
            ValueError: the instant has no time zone.
        """
        if at.tzinfo is None:
            raise ValueError("a last trading instant needs a time zone")
        self._set_quirk(con_id, expired=at <= datetime.now(at.tzinfo))
        return self.change_contract(
            con_id,
            expiry=f"{at:%Y%m%d}",
            last_trade_time=f"{at:%H:%M}",
            time_zone=str(at.tzinfo),
            real_expiry="" if settled_on is None else f"{settled_on:%Y%m%d}",
        )

    def quirk(self, con_id: int) -> Quirk:
        """How the contract misbehaves."""
        return self._quirks.get(con_id, NO_QUIRK)

    def override(self, con_id: int, **values: float) -> None:
        """Report these values in the option's model computation; call without values to undo.

        Meant for what is not a value: -2, -1, DBL_MAX and NaN, and numbers outside of what the
        quantity can be (2147483647, a delta of 40, a negative gamma). With an overridden delta,
        gamma, vega or theta the option counts as unpriced in a book's `net_greeks`.
        """
        if unknown := values.keys() - VALUE_FIELDS:
            raise ValueError(f"not fields of a computation: {sorted(unknown)}")
        self._set_quirk(con_id, override=tuple(values.items()))

    def silence_greeks(self, con_id: int, silent: bool = True) -> None:
        """Send no computations for this option from now on (or, with False, send them again)."""
        self._set_quirk(con_id, silent=silent)

    def set_data_type(self, con_id: int, data_type: int) -> None:
        """Set the best data available for the contract: live 1, frozen 2, delayed 3, both 4."""
        if data_type not in (LIVE, FROZEN, DELAYED, DELAYED_FROZEN):
            raise ValueError(f"market data type {data_type} is not one of 1, 2, 3, 4")
        self._set_quirk(con_id, data_type=data_type)

    def clear_quirks(self) -> None:
        """Every contract behaves normally again."""
        self._quirks.clear()
        self.revision += 1

    def _set_quirk(self, con_id: int, **changes: object) -> None:
        self._contracts[con_id]  # KeyError for a contract that does not exist
        self._quirks[con_id] = replace(self.quirk(con_id), **changes)  # type: ignore[arg-type]
        self.revision += 1

    # Values ----------------------------------------------------------------------------------

    def price(self, con_id: int, t: float) -> float:
        """The price, rounded to its tick, of a contract that is not an option."""
        return _on_grid(self._paths[con_id].at(t), self._contracts[con_id].min_tick)

    def true_value(self, con_id: int, t: float) -> OptionValue:
        """An option's model value, its quirks ignored."""
        return self._value(self._contracts[con_id], t)

    def quote(self, con_id: int, t: float) -> Quote:
        """The contract's market, quirks included; KeyError when there is no such contract."""
        contract = self._contracts[con_id]
        if not contract.is_option:
            return _quote(contract, self.price(con_id, t), t)
        value = self._value(contract, t)
        quote = _quote(contract, value.price, t)._replace(underlying_price=value.underlying_price)
        quirk = self.quirk(con_id)
        if quirk.silent:
            return quote
        return quote._replace(
            model=value._replace(**dict(quirk.override)),
            bid_greeks=_scaled(value, quote.bid, BID_FACTOR),
            ask_greeks=_scaled(value, quote.ask, ASK_FACTOR),
            last_greeks=_scaled(value, quote.last, LAST_FACTOR),
        )

    def _value(self, contract: Contract, t: float) -> OptionValue:
        terms = self._terms[contract.con_id]
        # Volatility moves too, slowly, and differently for each strike.
        breath = 0.02 * math.sin(2 * math.pi * (t / 97.0 + contract.strike / 1000))
        return option_value(
            self.price(contract.under_con_id, t),
            contract.strike,
            (terms.life_days - t / SECONDS_A_DAY) / DAYS_A_YEAR,
            terms.iv * (1 + breath),
            contract.right,
            rate=RATE,
            carry=terms.carry,
        )


def _quote(contract: Contract, price: float, t: float) -> Quote:
    tick = contract.min_tick
    middle = max(_on_grid(price, tick), 2 * tick)
    return Quote(
        con_id=contract.con_id,
        last=middle,
        bid=_on_grid(middle - tick, tick),
        ask=_on_grid(middle + tick, tick),
        close=_on_grid(middle * 0.99, tick),
        bid_size=1 + contract.con_id % 37,
        ask_size=1 + contract.con_id % 41,
        last_size=1 + contract.con_id % 5,
        volume=1 + contract.con_id % 1000 + int(t),
    )


def _scaled(value: OptionValue, price: float, factor: float) -> OptionValue:
    return OptionValue(
        price=price,
        delta=value.delta * factor,
        gamma=value.gamma * factor,
        vega=value.vega * factor,
        theta=value.theta * factor,
        iv=value.iv * factor,
        underlying_price=value.underlying_price,
    )


def _on_grid(price: float, tick: float) -> float:
    # Seven decimals: enough for any tick, and 5300.05 instead of 5300.050000000001.
    return round(round(price / tick) * tick, 7)
