"""Market data of the options we hold: which are subscribed, and since when nothing vouches for
their Greeks.

Greeks are current while their subscription lives, its data farm is well, and it has spoken lately
or is being renewed. Otherwise their age counts: from the moment that ended (rotated out, refused,
its farm broken, the gateway's upstream lost), or from the last computation if a line is silent and
its renewal brings nothing. They are current again only when a new model tick has arrived: ib_async
then puts a new object into `ticker.modelGreeks`, so no handler has to run for the many ticks in
between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trio_bridge.model import DataType, Greeks
from trio_bridge.risk.greeks import valid_four
from trio_bridge.risk.verdict import RENEWAL_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ib_async import IB, Contract, OptionComputation, Ticker

OPTION_GREEKS_TICKS = ""
"""No generic ticks: model Greeks (tick 13, delayed 83) come with an empty list."""

DATA_TYPES = {data_type.value: data_type for data_type in DataType}
"""By the gateway's number; any other number counts as the worst."""

ANSWER_S = 10.0
"""A living line answers its subscription within this time, also frozen, and also if its option
never trades."""


@dataclass(slots=True, eq=False)
class MarketLine:
    """One option's market data: its subscription, if any, and the Greeks it brought.

    All instants are of the feed's clock; -inf is never.
    """

    contract: Contract
    request_id: int | None = None
    ticker: Ticker | None = None
    asked_at: float = -math.inf
    """When it was last subscribed or renewed."""
    answered: bool = False
    """Whether a complete computation has come since."""
    dumb: bool = False
    """Whether an earlier subscription has brought nothing, and none has since."""
    news: bool = False
    """Whether one has come since this was last set to false."""
    heard_at: float = -math.inf
    """When its last complete computation was noticed."""
    unasked_at: float = -math.inf
    """The same, without the computation that answers a subscription."""
    vouched_until: float = -math.inf
    """Without a further word its Greeks are current until then."""
    ended_at: float = -math.inf
    """Since when nothing vouches for the line; inf while its subscription does."""
    doubts: dict[str, float] = field(default_factory=dict)
    """Farms that broke since its last computation, each with the instant."""
    complete: bool = False
    """Whether the newest computation is."""
    seen: OptionComputation | None = None
    """The newest computation that `refresh` has seen."""
    cached: Greeks | None = None
    cached_for: OptionComputation | None = None
    cached_kind: int = 0
    """The model computation and the market data type that `cached` was made of.

    A better type is announced before its first computation comes: the old one keeps its type.
    """

    def refresh(self, now: float) -> None:
        """Notice what has come."""
        model = None if self.ticker is None else self.ticker.modelGreeks
        if model is self.seen:
            return
        self.seen = model
        self.complete = is_complete(model)
        if self.complete and self.request_id is not None:
            if self.answered:
                self.unasked_at = now
            self.answered = self.news = True
            self.dumb = False
            self.heard_at = now
            self.vouched_until = now + RENEWAL_S + ANSWER_S
            self.ended_at = math.inf
            self.doubts.clear()

    def asked(self, now: float) -> None:
        """It was subscribed or renewed: a living line answers."""
        self.dumb = self.dumb or (not self.answered and -math.inf < self.asked_at < now - ANSWER_S)
        self.asked_at = now
        self.answered = False
        self.vouched_until = min(self.vouched_until, now + ANSWER_S)

    def current_until(self, now: float) -> float | None:
        """As `Greeks.current_until`: None while it is current."""
        until = min(self.ended_at, *self.doubts.values()) if self.doubts else self.ended_at
        if now > self.vouched_until:
            until = min(until, self.heard_at)
        return None if until == math.inf else until

    def mark_stale(self, now: float, since: float) -> None:
        """The Greeks age from `since` on, until a new model tick arrives."""
        self.refresh(now)
        self.ended_at = min(self.ended_at, since)

    def greeks(self, now: float) -> Greeks | None:
        """The last computation, with what is known about it now."""
        ticker = self.ticker
        if ticker is None or (model := ticker.modelGreeks) is None:
            return None
        kind = ticker.marketDataType
        if (
            model is not self.cached_for
            or kind != self.cached_kind
            or self.cached is None
            or self.cached.current_until is not None
            or self.ended_at != math.inf
            or self.doubts
            or now > self.vouched_until
        ):
            self.refresh(now)
            data_type = DATA_TYPES.get(kind, DataType.DELAYED_FROZEN)
            if model is self.cached_for and self.cached is not None:
                data_type = max(data_type, self.cached.data_type)
            self.cached_for, self.cached_kind = model, kind
            self.cached = Greeks(
                model.delta,
                model.gamma,
                model.vega,
                model.theta,
                model.undPrice,
                data_type,
                self.current_until(now),
            )
        return self.cached


def is_complete(model: OptionComputation | None) -> bool:
    """Whether all four Greeks of a computation are valid."""
    return (
        model is not None
        and valid_four(model.delta, model.gamma, model.vega, model.theta) is not None
    )


class MarketDataFeed:
    """Subscribes and unsubscribes on one connection. Its calls send at once and never wait; make
    them where asyncio's loop is current."""

    def __init__(self, ib: IB, clock: Callable[[], float]) -> None:
        self._ib = ib
        self._clock = clock
        self.lines: dict[int, MarketLine] = {}

    def follow(self, contracts: Mapping[int, Contract]) -> None:
        """Keep a line for each of these options; drop the others once they are unsubscribed."""
        for con_id in self.lines.keys() - contracts.keys():
            if self.lines[con_id].request_id is None:
                gone = self.lines.pop(con_id)
                self._ib.wrapper.tickers.pop(hash(gone.contract), None)
        for con_id in contracts.keys() - self.lines.keys():
            self.lines[con_id] = MarketLine(contracts[con_id])

    def subscribe(self, contract: Contract) -> None:
        """Subscribe to an option that is followed; its description may have changed."""
        line = self.lines[contract.conId]
        if line.request_id is not None:
            return
        line.contract = contract
        # Not ib.reqMktData: ib.cancelMktData leaves an entry behind for every request, a million
        # a day when subscriptions rotate.
        wrapper, client = self._ib.wrapper, self._ib.client
        line.request_id = client.getReqId()
        line.ticker = wrapper.startTicker(line.request_id, line.contract, "mktData")
        line.seen = line.ticker.modelGreeks
        line.asked(self._clock())
        client.reqMktData(line.request_id, line.contract, OPTION_GREEKS_TICKS, False, False, [])

    def unsubscribe(self, con_id: int, *, tell_gateway: bool = True) -> None:
        """Give the line back; `tell_gateway` is false if the gateway has forgotten it, too."""
        line, now = self.lines[con_id], self._clock()
        if line.request_id is None:
            return
        line.refresh(now)
        line.mark_stale(now, now if line.answered else line.heard_at)
        self._end(line, tell_gateway=tell_gateway)

    def renew(self, contract: Contract) -> None:
        """Cancel and subscribe at once: its Greeks stay current unless no answer comes."""
        line = self.lines[contract.conId]
        line.refresh(self._clock())
        self._end(line, tell_gateway=True)
        self.subscribe(contract)

    def _end(self, line: MarketLine, *, tell_gateway: bool) -> None:
        request_id, line.request_id = line.request_id, None
        if request_id is None or line.ticker is None:
            return
        wrapper = self._ib.wrapper
        wrapper.endTicker(line.ticker, "mktData")
        wrapper.reqId2Ticker.pop(request_id, None)
        if tell_gateway:
            self._ib.client.cancelMktData(request_id)

    def mark_stale(self, since: float) -> None:
        """The subscriptions stay, but nothing has vouched for their data since then."""
        now = self._clock()
        for line in self.lines.values():
            line.mark_stale(now, since)

    def note(self, request_id: int) -> None:
        """What has come for this request keeps its kind, whatever comes next."""
        ticker = self._ib.wrapper.reqId2Ticker.get(request_id)
        if ticker is not None and ticker.contract is not None:
            self.lines[ticker.contract.conId].greeks(self._clock())

    def greeks(self) -> dict[int, Greeks]:
        """The last model Greeks by contract id."""
        now = self._clock()
        found = ((con_id, line.greeks(now)) for con_id, line in self.lines.items())
        return {con_id: greeks for con_id, greeks in found if greeks is not None}
