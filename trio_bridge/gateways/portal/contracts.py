"""A contract as one of the portal's answers describes it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from trio_bridge.gateways.keys import Product
from trio_bridge.gateways.portal.values import (
    read_con_id,
    read_earliest_day,
    read_magnification,
    read_positive,
    read_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class Definition:
    """A contract, as an answer describes it; what the answer lacks is empty or None."""

    sec_type: str = ""
    symbol: str = ""
    name: str = ""
    """What people call the contract, if the answer says more than its symbol."""
    currency: str = ""
    multiplier: float | None = None
    underlying_con_id: int | None = None
    last_day: str = ""
    """The last day of trading, YYYYMMDD; the portal says no time of day."""
    magnification: float | None = None
    """The price magnifier by the contract's display rule; None if that is lacking."""

    @classmethod
    def read(
        cls,
        entry: Mapping[str, object],
        kind: Iterable[str],
        symbol: Iterable[str],
        underlying: str,
    ) -> Self:
        """Read it from an entry whose members have these names, which differ between endpoints."""
        return cls(
            sec_type=read_text(entry, *kind),
            symbol=read_text(entry, *symbol),
            name=_name(read_text(entry, "contractDesc")),
            currency=read_text(entry, "currency"),
            multiplier=read_positive(entry.get("multiplier")),
            underlying_con_id=read_con_id(entry.get(underlying)),
            # The expiry is a day later where the settlement follows the last day of trading.
            last_day=read_earliest_day(entry, "lastTradingDay", "expiry", "maturity_date"),
            magnification=read_magnification(entry.get("displayRule")),
        )

    def completed_by(self, other: Definition) -> Definition:
        return Definition(
            sec_type=self.sec_type or other.sec_type,
            symbol=self.symbol or other.symbol,
            name=self.name or other.name,
            currency=self.currency or other.currency,
            multiplier=self.multiplier or other.multiplier,
            underlying_con_id=self.underlying_con_id or other.underlying_con_id,
            last_day=min(filter(None, (self.last_day, other.last_day)), default=""),
            magnification=self.magnification or other.magnification,
        )

    @property
    def product(self) -> Product:
        return Product(self.sec_type, self.symbol, "", self.currency, self.multiplier)


def _name(description: str) -> str:
    """`SPX 251219C05000000` of `SPX    DEC2025 5000 C [SPX   251219C05000000 100]`: the local
    symbol, as SOCKET mode has it, without the multiplier behind it."""
    _, _, local = description.partition("[")
    return " ".join(local.rstrip("] ").split()[:2]) or description
