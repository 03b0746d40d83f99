"""Market data of the options we hold: which are subscribed, and how old their Greeks are.

Greeks are current while their subscription lives, however rarely it ticks. Their age counts from
the moment it ended: rotated out, refused, its farm broken, the gateway's upstream lost. They are
current again only when a new model tick has arrived: ib_async then puts a new object into
`ticker.modelGreeks`, so no handler has to run for the many ticks in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trio_bridge.model import DataType, Greeks
from trio_bridge.risk.greeks import valid_four

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ib_async import IB, Contract, OptionComputation, Ticker

OPTION_GREEKS_TICKS = ""
"""No generic ticks: model Greeks (tick 13, delayed 83) come with an empty list."""

DATA_TYPES = {data_type.value: data_type for data_type in DataType}
"""By the gateway's number; any other number counts as the worst."""


@dataclass(slots=True, eq=False)
class MarketLine:
    """One option's market data: its subscription, if any, and the Greeks it brought."""

    contract: Contract
    request_id: int | None = None
    ticker: Ticker | None = None
    current_until: float | None = 0.0
    """As `Greeks.current_until`."""
    seen: OptionComputation | None = None
    """The model computation that was there when the line was last subscribed or went stale."""
    cached: Greeks | None = None
    cached_for: OptionComputation | None = None
    cached_kind: int = 0
    """The model computation and the market data type that `cached` was made of.

    A better type is announced before its first computation comes: the old one keeps its type.
    """

    @property
    def model(self) -> OptionComputation | None:
        return None if self.ticker is None else self.ticker.modelGreeks

    def refresh(self) -> bool:
        """Notice a model tick that came since the line went stale; whether it is current now."""
        if self.current_until is not None and self.request_id is not None:
            model = self.model
            if model is not self.seen and is_complete(model):
                self.current_until = None
        return self.current_until is None

    def mark_stale(self, since: float) -> None:
        """The Greeks age from `since` on, until a new model tick arrives."""
        self.refresh()
        until = self.current_until
        self.current_until = since if until is None else min(until, since)
        self.seen = self.model

    def greeks(self) -> Greeks | None:
        ticker = self.ticker
        if ticker is None or (model := ticker.modelGreeks) is None:
            return None
        kind = ticker.marketDataType
        if (
            model is not self.cached_for
            or kind != self.cached_kind
            or self.current_until is not None
        ):
            self.refresh()
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
                self.current_until,
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
        client.reqMktData(line.request_id, line.contract, OPTION_GREEKS_TICKS, False, False, [])

    def unsubscribe(self, con_id: int, *, tell_gateway: bool = True) -> None:
        """Give the line back; `tell_gateway` is false if the gateway itself has ended it."""
        line = self.lines[con_id]
        if line.request_id is None or line.ticker is None:
            return
        line.mark_stale(self._clock())
        wrapper = self._ib.wrapper
        wrapper.endTicker(line.ticker, "mktData")
        wrapper.reqId2Ticker.pop(line.request_id, None)
        if tell_gateway:
            self._ib.client.cancelMktData(line.request_id)
        line.request_id = None

    def mark_stale(self, since: float) -> None:
        """The subscriptions stay, but nothing has vouched for their data since then."""
        for line in self.lines.values():
            line.mark_stale(since)

    def note(self, request_id: int) -> None:
        """What has come for this request keeps its kind, whatever comes next."""
        ticker = self._ib.wrapper.reqId2Ticker.get(request_id)
        if ticker is not None and ticker.contract is not None:
            self.lines[ticker.contract.conId].greeks()

    def greeks(self) -> dict[int, Greeks]:
        """The last model Greeks by contract id."""
        found = ((con_id, line.greeks()) for con_id, line in self.lines.items())
        return {con_id: greeks for con_id, greeks in found if greeks is not None}
