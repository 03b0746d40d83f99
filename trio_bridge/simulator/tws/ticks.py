"""The ticks of a contract at one instant, encoded once for all subscribers. Pure.

Tick types: https://interactivebrokers.github.io/tws-api/tick_types.html. Live and frozen data share
their numbers; delayed data has its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from trio_bridge.simulator.market import DELAYED, DELAYED_FROZEN, FROZEN, LIVE
from trio_bridge.simulator.tws.wire import (
    Tick,
    option_computation,
    tick_parameters,
    tick_price,
    tick_size,
)

if TYPE_CHECKING:
    from trio_bridge.simulator.book import Book, Moment


class TickTypes(NamedTuple):
    """The tick type numbers of one kind of data."""

    bid: int
    ask: int
    last: int
    bid_size: int
    ask_size: int
    last_size: int
    volume: int
    close: int
    bid_greeks: int
    ask_greeks: int
    last_greeks: int
    model: int


LIVE_TICKS: Final = TickTypes(1, 2, 4, 0, 3, 5, 8, 9, 10, 11, 12, 13)
DELAYED_TICKS: Final = TickTypes(66, 67, 68, 69, 70, 71, 74, 75, 80, 81, 82, 83)


class DataService(NamedTuple):
    """What a subscription gets: the announced kind of data, and whether it ticks at all."""

    data_type: int
    ticks: bool


def service(best: int, wanted: int) -> DataService | None:
    """What a client that asked for type `wanted` gets for a contract; None: it is refused.

    Args:
        best: the best available for the contract: live, frozen (its market is closed), delayed (the
            owner has no subscription) or delayed-frozen.
        wanted: the client's reqMarketDataType.

    On a closed market, a client that did not ask for frozen data gets a silent subscription.
    """
    if best == LIVE:
        return DataService(LIVE, True)
    if best == FROZEN:
        frozen = wanted in (FROZEN, DELAYED_FROZEN)
        return DataService(FROZEN if frozen else LIVE, frozen)
    if wanted not in (DELAYED, DELAYED_FROZEN):
        return None
    if best == DELAYED:
        return DataService(DELAYED, True)
    frozen = wanted == DELAYED_FROZEN
    return DataService(DELAYED_FROZEN if frozen else DELAYED, frozen)


class TickFeed:
    """Encodes the book's ticks, each at most once per moment, for any number of requests."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._moment: Moment | None = None
        self._updates: dict[tuple[int, bool], list[Tick]] = {}

    def opening(self, con_id: int, data_type: int) -> list[Tick]:
        """What is sent once, at the start of a subscription, before the first update."""
        quote = self._book.quote(con_id)
        kinds = _kinds(data_type)
        return [
            tick_parameters(self._book.contracts[con_id].min_tick),
            tick_price(kinds.close, quote.close),
            tick_size(kinds.volume, quote.volume),
        ]

    def update(self, con_id: int, data_type: int) -> list[Tick]:
        """The current prices, sizes and computations; the model's comes last."""
        moment = self._book.moment
        if moment is not self._moment:
            self._moment = moment
            self._updates.clear()
        kinds = _kinds(data_type)
        key = (con_id, kinds is DELAYED_TICKS)
        ticks = self._updates.get(key)
        if ticks is None:
            ticks = self._updates[key] = self._encode(con_id, kinds)
        return ticks

    def _encode(self, con_id: int, kinds: TickTypes) -> list[Tick]:
        quote = self._book.quote(con_id)
        ticks = [
            tick_price(kinds.bid, quote.bid, quote.bid_size),
            tick_price(kinds.ask, quote.ask, quote.ask_size),
            tick_price(kinds.last, quote.last, quote.last_size),
            tick_size(kinds.bid_size, quote.bid_size),
            tick_size(kinds.ask_size, quote.ask_size),
            tick_size(kinds.last_size, quote.last_size),
        ]
        ticks += [
            option_computation(kind, value)
            for kind, value in (
                (kinds.bid_greeks, quote.bid_greeks),
                (kinds.ask_greeks, quote.ask_greeks),
                (kinds.last_greeks, quote.last_greeks),
                (kinds.model, quote.model),
            )
            if value is not None
        ]
        return ticks


def _kinds(data_type: int) -> TickTypes:
    return DELAYED_TICKS if data_type in (DELAYED, DELAYED_FROZEN) else LIVE_TICKS
