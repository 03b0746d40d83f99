"""SOCKET mode: TWS or IB Gateway through ib_async.

Read-only by construction: it requests positions, account values, contract details, market data and
the time, and nothing that involves orders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import trio

from trio_bridge.errors import GatewayError
from trio_bridge.gateways.base import IBridgeBase, RiskInputs, Usage, discard_event
from trio_bridge.gateways.readiness import Reason
from trio_bridge.gateways.socket.connection import Connection
from trio_bridge.gateways.socket.market_data.lines import MarketLines
from trio_bridge.model import ApiMode, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from trio_bridge.config import Settings
    from trio_bridge.gateways.base import EventSink
    from trio_bridge.gateways.socket.details import Details

DISCONNECT_TIMEOUT_S = 2.0


class SocketBridge(IBridgeBase):
    """The account seen through the TWS API; see `IBridgeBase` for what each method promises."""

    mode: ClassVar[ApiMode] = ApiMode.SOCKET

    def __init__(
        self,
        settings: Settings,
        *,
        emit: EventSink = discard_event,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(settings, emit=emit, now=now)
        self._connection: Connection | None = None
        # Of the connections before this one:
        self._received = self._sent = 0
        self._details: dict[int, Details] = {}
        self._lines = MarketLines(self.settings.ib_market_data_lines)

    @property
    def endpoint(self) -> str:
        return f"{self.settings.ib_socket_host}:{self.settings.ib_socket_port}"

    async def connect(self) -> None:
        if self._connection is not None and not self._connection.done.is_set():
            if not self._connection.ending:
                raise RuntimeError("already connected: disconnect first")
            # A process that stood still has given up waiting for the end before it came.
            with trio.move_on_after(DISCONNECT_TIMEOUT_S):
                await self._connection.done.wait()
            if not self._connection.done.is_set():
                raise GatewayError("the last connection has not ended yet")
        nursery, before = self.nursery, self.usage()
        self._received, self._sent = before.received, before.sent
        self._connection = None
        self._leftovers.clear_away()
        self._connection = Connection(
            self.settings,
            self.emit,
            readiness=self._begin(),
            lines=self._lines,
            details=self._details,
            now=self._now,
        )
        await nursery.start(self._connection.run)

    async def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.end()
            with trio.move_on_after(DISCONNECT_TIMEOUT_S, shield=True):
                await self._connection.done.wait()

    def rest(self, because: str | None) -> None:
        super().rest(because)
        if self._connection is not None:
            self._connection.rest_or_wake()

    async def wait_lost(self) -> str:
        if self._connection is None:
            return Reason.NOT_CONNECTED.value
        return await self._connection.wait_lost()

    async def probe(self) -> None:
        if self._connection is None or not self.is_connected():
            raise GatewayError(Reason.NOT_CONNECTED.value)
        await self._connection.heartbeat.probe()

    def usage(self) -> Usage:
        connection = self._connection
        return Usage(
            self._received + (connection.client.received if connection else 0),
            self._sent + (connection.client.sent if connection else 0),
            self._lines.lines_used if self.is_connected() else 0,
            self._lines.budget,
        )

    def inputs(self) -> RiskInputs:
        assert self._connection is not None
        connection = self._connection
        held = connection.holdings.view
        return RiskInputs(
            connection.accounts.chosen,
            held.positions,
            connection.subscriptions.feed.greeks(),
            connection.subscriptions.troubles(held),
            connection.account.rates(),
        )
