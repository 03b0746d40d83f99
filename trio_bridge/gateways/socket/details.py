"""What TWS says of a contract beside a position: in its details, or in the position's own contract.
Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from trio_bridge.gateways.keys import Product, contract_key
from trio_bridge.risk.expiry import last_trade

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from ib_async import Contract, ContractDetails

DEFAULT_EXCHANGE = "SMART"


class LastTrade(NamedTuple):
    """When an option stops trading; `timed` if its time of day was told, too."""

    at: datetime
    timed: bool


class Details(NamedTuple):
    """What only a contract-details request can tell."""

    exchange: str
    multiplier: float | None
    underlying: str
    magnifier: float | None = None
    product: Product | None = None
    last_trade: LastTrade | None = None

    def completed_by(self, known: Details) -> Details:
        """Where these are silent, what was known stays; so does a time of day."""
        ended = known.last_trade
        is_worse = ended is not None and ended.timed and not _is_timed(self.last_trade)
        return self._replace(
            multiplier=self.multiplier or known.multiplier,
            underlying=self.underlying or known.underlying,
            magnifier=self.magnifier or known.magnifier,
            product=self.product or known.product,
            last_trade=ended if is_worse else self.last_trade or ended,
        )


def parse_multiplier(text: str) -> float | None:
    """TWS sends multipliers as text; None for anything that is not a positive number."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if value > 0 and math.isfinite(value) else None


def product_of(contract: Contract) -> Product | None:
    """The contract's product; None if its trading class is not told."""
    if not contract.tradingClass:
        return None
    return Product(
        contract.secType,
        contract.symbol,
        contract.tradingClass,
        contract.currency,
        parse_multiplier(contract.multiplier),
    )


def read_last_trade(contract: Contract, clock: str = "", zone: str = "") -> LastTrade | None:
    """From a contract's last trading day, which may be followed by time and zone.

    Details have them apart: ib_async splits the text, and takes its zone for theirs.
    """
    text = contract.lastTradeDateOrContractMonth
    day, *more = text.split("-" if "-" in text else None, maxsplit=2) or [""]
    if more:
        clock, zone = more[0], more[1] if len(more) > 1 else zone
    at = last_trade(day, clock, zone, currency=contract.currency)
    return None if at is None else LastTrade(at, bool(clock))


def details_from(answer: ContractDetails) -> Details:
    """The useful part of ib_async's ContractDetails."""
    contract = answer.contract
    assert contract is not None
    return Details(
        exchange=contract.exchange or DEFAULT_EXCHANGE,
        multiplier=parse_multiplier(contract.multiplier),
        underlying=contract_key(answer.underConId) if answer.underConId else "",
        magnifier=float(answer.priceMagnifier) if answer.priceMagnifier > 0 else None,
        product=product_of(contract),
        last_trade=read_last_trade(contract, answer.lastTradeTime, answer.timeZoneId),
    )


def by_preference(answers: Iterable[ContractDetails]) -> list[ContractDetails]:
    """Several answers about one contract, the one to believe last: SMART, which routes to all the
    others, and comes before or after them."""

    def is_smart(answer: ContractDetails) -> bool:
        return answer.contract is not None and answer.contract.exchange == DEFAULT_EXCHANGE

    return sorted(answers, key=is_smart)


def _is_timed(ends: LastTrade | None) -> bool:
    return ends is not None and ends.timed
