"""One client's market data: its subscriptions, its lines, its ticks. Knows no socket."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from trio_bridge.simulator.market import DELAYED, LIVE
from trio_bridge.simulator.tws import wire
from trio_bridge.simulator.tws.codes import DATA_GOES_ON, LIVE_ONLY_MISSING
from trio_bridge.simulator.tws.contracts import ContractQuery
from trio_bridge.simulator.tws.ticks import DataService, service

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from trio_bridge.simulator.contracts import Contract
    from trio_bridge.simulator.tws.state import GatewayState

FIRST_CONTRACT_FIELD: Final = 3
AFTER_CONTRACT: Final = FIRST_CONTRACT_FIELD + len(ContractQuery._fields)


class Stall(Enum):
    """What a line has stopped sending, without a reason. A new line for its contract works."""

    NOTHING = "nothing"
    COMPUTATIONS = "computations"
    EVERYTHING = "everything"


@dataclass(slots=True)
class Subscription:
    """An accepted reqMktData."""

    req_id: int
    con_id: int
    service: DataService
    ends_at: float
    """When a snapshot is complete; infinity for a subscription."""
    opens_at: float
    """When its first tick is due."""
    opened: bool = False
    dead: bool = False
    """It lost its data to a competing session and will not get it back."""
    stalled: Stall = Stall.NOTHING


class MarketData:
    """Handles one client's reqMktData, cancelMktData and reqMarketDataType.

    Args:
        state: what all sessions share.
        send: takes a complete message.
        error: takes the request id, the code, and what completes the code's text.
    """

    def __init__(
        self,
        state: GatewayState,
        send: Callable[[bytes], None],
        error: Callable[[int, int, str], None],
    ) -> None:
        self._state = state
        self._send = send
        self._error = error
        self._wanted_type = LIVE
        self._last_moment: object = None
        self.subscriptions: dict[int, Subscription] = {}

    def want_type(self, fields: list[str]) -> None:
        """reqMarketDataType: applies to later subscriptions."""
        self._wanted_type = int(fields[2])

    def request(self, fields: list[str], now: float) -> None:
        """reqMktData: subscribe, take a snapshot, or refuse."""
        req_id = int(fields[2])
        query = ContractQuery.parse(fields[FIRST_CONTRACT_FIELD:])
        snapshot = len(fields) > AFTER_CONTRACT + 2 and fields[AFTER_CONTRACT + 2] == "1"
        if req_id in self.subscriptions:
            self._error(req_id, 322, "Duplicate ticker id")
        elif not query.exchange and not self._needs_no_exchange(query.con_id):
            self._error(req_id, 321, "Please enter exchange")
        elif (contract := self._find(query)) is None:
            self._error(req_id, 200, "")
        elif self._state.lines_in_use >= self._state.market_data_lines:
            self._error(req_id, 101, "")
        elif self._state.competing:
            self._error(req_id, 10197, "")
        elif (granted := self._grant(req_id, contract)) is not None:
            self._send(wire.market_data_type(req_id, granted.data_type))
            advice = self._state.quirks.advice.get(contract.con_id)
            for code in advice.codes if advice else ():
                self._error(req_id, code, "")
            self.subscriptions[req_id] = Subscription(
                req_id,
                contract.con_id,
                granted,
                ends_at=now + self._state.snapshot_s if snapshot else float("inf"),
                opens_at=now + self._state.first_tick_delay_s,
            )
            self._open_due(now)

    def cancel(self, fields: list[str]) -> None:
        """cancelMktData: free the line."""
        req_id = int(fields[2])
        if self.subscriptions.pop(req_id, None) is None:
            self._error(req_id, 300, str(req_id))

    def next_due(self) -> float:
        """When the next first tick or end of a snapshot is due; infinity if none is."""
        if self._state.ticks_stopped:
            return float("inf")
        dues = [one.ends_at if one.opened else one.opens_at for one in self.subscriptions.values()]
        return min(dues, default=float("inf"))

    def run_due(self, now: float) -> None:
        """Send what is due by now."""
        self._open_due(now)
        for one in [one for one in self.subscriptions.values() if one.ends_at <= now]:
            self._send(wire.snapshot_end(one.req_id))
            del self.subscriptions[one.req_id]

    def tick(self) -> None:
        """Send every live subscription the current values, if the book has moved."""
        moment = self._state.book.moment
        if moment is self._last_moment or self._state.ticks_stopped:
            return
        self._last_moment = moment
        for one in self.subscriptions.values():
            if one.opened and self._ticking(one):
                self._send_update(one)

    def lose_data(self) -> None:
        """A competing session took the data: every subscription gets 10197 and stays silent."""
        for one in self.subscriptions.values():
            one.dead = True
            self._error(one.req_id, 10197, "")

    def stall(self, con_ids: Collection[int] | None, stall: Stall) -> None:
        """Stop the present lines of these contracts (None: all), or let them go on (NOTHING)."""
        for one in self.subscriptions.values():
            if con_ids is None or one.con_id in con_ids:
                one.stalled = stall
        self.repeat()

    def say(self, con_ids: Collection[int], code: int) -> None:
        """Send a code for the present lines; only the text, nothing else happens."""
        for one in self.subscriptions.values():
            if one.con_id in con_ids:
                self._error(one.req_id, code, "")

    def revive(self) -> None:
        """The competing session has ended and the data flows again by itself."""
        for one in self.subscriptions.values():
            one.dead = False
        self.repeat()

    def repeat(self) -> None:
        """Send the current values in the next round even if they have been sent."""
        self._last_moment = None

    def _find(self, query: ContractQuery) -> Contract | None:
        for contract in self._state.find(query):
            if query.exchange in self._state.data_exchanges(contract):
                return contract
        return None

    def _needs_no_exchange(self, con_id: int) -> bool:
        return "" in self._state.quirks.data_exchanges.get(con_id, ())

    def _grant(self, req_id: int, contract: Contract) -> DataService | None:
        """What the client gets, or None after sending a refusal."""
        if (advice := self._state.quirks.advice.get(contract.con_id)) is not None:
            return DataService(advice.data_type, advice.ticks)
        best = self._state.book.market.quirk(contract.con_id).data_type
        code = self._state.refusals.get(contract.con_id, 0)
        if code in DATA_GOES_ON:
            self._error(req_id, code, "")
            best = DELAYED if code == 10167 else best
            return DataService(best, True)
        if code in LIVE_ONLY_MISSING:
            best = max(best, DELAYED)
        elif code:
            self._error(req_id, code, "")
            return None
        granted = service(best, self._wanted_type)
        if granted is None:
            self._error(req_id, code or 10168, "")
        elif granted.data_type >= DELAYED:
            self._error(req_id, 10167, "")
        return granted

    def _open_due(self, now: float) -> None:
        if self._state.ticks_stopped:
            return
        for one in self.subscriptions.values():
            if not one.opened and one.opens_at <= now:
                one.opened = True
                opening = self._state.feed.opening(one.con_id, one.service.data_type)
                self._send(b"".join(tick.to(one.req_id) for tick in opening))
                if self._ticking(one):
                    self._send_update(one)

    def _ticking(self, one: Subscription) -> bool:
        return (
            one.service.ticks
            and not one.dead
            and one.stalled is not Stall.EVERYTHING
            and not self._state.is_silent(one.con_id)
        )

    def _send_update(self, one: Subscription) -> None:
        ticks = self._state.feed.update(one.con_id, one.service.data_type)
        if one.stalled is Stall.COMPUTATIONS:
            ticks = [tick for tick in ticks if not tick.is_computation]
        self._send(b"".join(tick.to(one.req_id) for tick in ticks))
