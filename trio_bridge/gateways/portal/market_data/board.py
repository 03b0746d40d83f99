"""What the portal has said about each contract, merged field by field, each with its age. Pure.

The portal answers piecemeal: the first request only starts a contract's stream, computed fields
come later and one by one, the WebSocket sends only what changed. So every field keeps the instant
of the last answer that held it, and the Greeks are as old as the oldest of the four. It keeps its
kind, too: a delayed value stays delayed although the data are live by now.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from trio_bridge.gateways.portal.values import (
    ASK,
    AVAILABILITY,
    BID,
    GAMMA,
    GREEK_FIELDS,
    LAST,
    MARK,
    NUMBER_FIELDS,
    PRICE_FIELDS,
    UNDERLYING_CON_ID,
    Lack,
    is_allowed,
    read_availability,
    read_con_id,
    read_lack,
    read_number,
)
from trio_bridge.gateways.readiness import SETTLE_S
from trio_bridge.model import DataType, Greeks, PositionState, Trouble
from trio_bridge.risk.greeks import NOT_COMPUTED, valid_four, valid_price

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

THETA_OF_MINUS_2: Final = math.nextafter(NOT_COMPUTED, 0.0)
"""A theta written `-2.000` is read as this, the number next to the one that says "not computed".

The portal rounds Greeks to few decimals, so every theta from -2.0005 to -1.9995 a day is written
so. Options on large indices have such thetas, and must not drop out of a row. Should the portal
write -2 for "not computed", as the TWS API does, the other three show it: none of them can be -2,
and an option counts with all four or not at all.
"""

PRICE_BEHIND_S: Final = 30.0
"""How much older an underlying's price may be than the Greeks: several polls."""


class _Said(NamedTuple):
    """One field as last answered; `value` is None when the answer held no usable number."""

    value: float | None
    at: float
    kind: DataType | None
    """As it was known then, at best; None when the portal named none that we know."""
    error: float = 0.0
    """By how much the portal's rounding may have changed the value."""


@dataclass(slots=True)
class _Quote:
    fields: dict[str, _Said] = field(default_factory=dict)
    kind: DataType | None = None
    kind_at: float = -math.inf
    lack: Lack | None = None
    """Why the current kind may not count."""
    first_at: float = math.inf
    """When the first answer was asked for."""
    underlying_con_id: int | None = None

    def merge(self, answer: Mapping[str, object], at: float, market_data_type: DataType) -> None:
        self.first_at = min(self.first_at, at)
        kind = self.kind if self.kind_at > -math.inf else DataType.LIVE
        if AVAILABILITY in answer:
            kind = read_availability(answer[AVAILABILITY])
            if at >= self.kind_at:
                self.kind, self.kind_at = kind, at
                self.lack = read_lack(answer[AVAILABILITY], market_data_type)
        for name in NUMBER_FIELDS:
            if name in answer:
                self._say(name, answer[name], at, kind)
        if (underlying := read_con_id(answer.get(UNDERLYING_CON_ID))) is not None:
            self.underlying_con_id = underlying

    def _say(self, name: str, raw: object, at: float, kind: DataType | None) -> None:
        before = self.fields.get(name)
        if before is not None and before.at > at:
            return  # a streamed value has overtaken this answer
        reading = read_number(raw)
        if reading is None or (reading.percent and name in GREEK_FIELDS):
            # A Greek in percent has no known unit.
            self.fields[name] = _Said(None, at, kind)
            return
        if reading.prior_close and kind is not None:
            # The previous day's value is at best the last of a closed market.
            kind = max(kind, DataType.FROZEN)
        self.fields[name] = _Said(reading.value, at, kind, reading.error)

    def said(self, name: str) -> _Said | None:
        found = self.fields.get(name)
        return None if found is None or found.value is None else found

    def kind_of(self, values: Iterable[_Said], *, since: float = -math.inf) -> DataType | None:
        """The worst kind of these and the current one; None when it is not known.

        The current one, too: it is documented nowhere whether a change of kind is announced before
        the first data of the new kind.
        """
        worst = self.kind if self.kind_at >= since else None
        for said in values:
            if worst is None or said.kind is None:
                return None
            worst = max(worst, said.kind)
        return worst

    def greeks_said(self) -> list[_Said]:
        return [found for name in GREEK_FIELDS if (found := self.said(name)) is not None]

    def four(self) -> tuple[float | None, float | None, float | None, float | None]:
        """Delta, gamma, vega and theta as the portal wrote them, whether they can be or not."""
        delta, gamma, vega, theta = map(self.said, GREEK_FIELDS)
        return (
            delta.value if delta else None,
            gamma.value if gamma else None,
            vega.value if vega else None,
            THETA_OF_MINUS_2 if theta and theta.value == NOT_COMPUTED else theta and theta.value,
        )


class QuoteBoard:
    """All contracts' quotes. Times are instants of the monotonic clock, in seconds."""

    def __init__(self, market_data_type: DataType) -> None:
        self._market_data_type = market_data_type
        self._quotes: dict[int, _Quote] = {}

    def merge(self, con_id: int, answer: Mapping[str, object], at: float) -> None:
        """Take one contract's part of a snapshot or of the stream.

        Args:
            con_id: the contract.
            answer: field id → value, as the portal wrote it; other keys are ignored.
            at: for an answer the instant of its request, so that it never looks younger than it is,
                nor replaces what was streamed since; for the stream the instant of arrival.
        """
        quote = self._quotes.setdefault(con_id, _Quote())
        quote.merge(answer, at, self._market_data_type)

    def keep(self, con_ids: Collection[int]) -> None:
        """Forget every other contract."""
        for con_id in self._quotes.keys() - con_ids:
            del self._quotes[con_id]

    def clear(self) -> None:
        self._quotes.clear()

    def has_greeks(self, con_id: int) -> bool:
        """Whether the contract has answered in full: four valid Greeks of a known kind."""
        quote = self._quotes.get(con_id)
        return (
            quote is not None
            and quote.kind_of(quote.greeks_said()) is not None
            and valid_four(*quote.four()) is not None
        )

    def lack(self, con_id: int) -> Lack | None:
        """Why the contract's market data may not count; None if they may, or nothing is known."""
        quote = self._quotes.get(con_id)
        return None if quote is None else quote.lack

    def trouble(self, con_id: int, now: float) -> Trouble:
        """Why a contract without Greeks has none."""
        quote = self._quotes.get(con_id)
        if quote is not None and quote.lack is not None:
            return Trouble(PositionState.REFUSED, f"{quote.lack.value}; {quote.lack.remedy}")
        if quote is None or now < quote.first_at + SETTLE_S:
            return Trouble(PositionState.WAITING)
        return Trouble(PositionState.NO_DATA, "the gateway computes no Greeks for it")

    def greeks_at(self, con_id: int) -> float:
        """When the oldest of the contract's four Greeks came; -inf if one is missing."""
        quote = self._quotes.get(con_id)
        if quote is None or not self.has_greeks(con_id):
            return -math.inf
        return min(found.at for found in quote.greeks_said())

    def underlying_of(self, con_id: int) -> int | None:
        """The underlying that the market data names."""
        quote = self._quotes.get(con_id)
        return None if quote is None else quote.underlying_con_id

    def greeks(
        self,
        con_id: int,
        underlying_con_id: int | None,
        *,
        since: float,
        until: float = math.inf,
    ) -> Greeks | None:
        """The contract's model Greeks; None if it has none, or of a kind that may not count.

        A kind and an underlying's price from before `since` are no longer known; nothing counts as
        younger than `until`.
        """
        quote = self._quotes.get(con_id)
        if quote is None:
            return None
        said = quote.greeks_said()
        kind = quote.kind_of(said, since=since)
        if kind is None or not said or not is_allowed(kind, self._market_data_type):
            return None
        oldest = min(found.at for found in said)
        price_since = max(since, oldest - PRICE_BEHIND_S)
        gamma = quote.said(GAMMA)
        return Greeks(
            *quote.four(),
            underlying_price=self._price(underlying_con_id or quote.underlying_con_id, price_since),
            data_type=kind,
            current_until=min(oldest, until),
            gamma_error=0.0 if gamma is None else gamma.error,
        )

    def _price(self, con_id: int | None, since: float) -> float | None:
        """A contract's mark, last, or middle of bid and ask, of a kind that may count."""
        quote = self._quotes.get(con_id) if con_id is not None else None
        if quote is None:
            return None
        prices = {
            name: price
            for name in PRICE_FIELDS
            if (found := quote.said(name)) is not None
            and found.at >= since
            and is_allowed(quote.kind_of([found]), self._market_data_type)
            and (price := valid_price(found.value)) is not None
        }
        for name in (MARK, LAST):
            if name in prices:
                return prices[name]
        return (prices[BID] + prices[ASK]) / 2 if BID in prices and ASK in prices else None
