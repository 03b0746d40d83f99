"""PORTAL mode: the Client Portal Gateway through httpx.

Read-only by construction: the client sends only what `pacing` lists, which has no order, no logout
and no competing session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import trio

from trio_bridge.errors import GatewayError
from trio_bridge.gateways.base import EventSink, IBridgeBase, RiskInputs, Usage, discard_event
from trio_bridge.gateways.portal.connection import Connection
from trio_bridge.gateways.portal.wire.certificate import remark_on, trust
from trio_bridge.gateways.portal.wire.client import Shared
from trio_bridge.gateways.portal.wire.pacing import USUAL_TIMING, Timing
from trio_bridge.gateways.readiness import Reason
from trio_bridge.model import ApiMode, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from trio_bridge.config import Settings

DISCONNECT_TIMEOUT_S: Final = 2.0


class PortalBridge(IBridgeBase):
    """The account seen through the Client Portal; see `IBridgeBase` for what each method promises.

    A missing login, a missing brokerage session and the owner's competing session are states of a
    connection, not its end: the bridge reports each once, waits, and gives no row until then.

    Args:
        timing: how often each thing is asked for.
        pace_file: where all processes of this user keep one pace (`pace_file`); None: this bridge
            keeps its own.
    """

    mode: ClassVar[ApiMode] = ApiMode.PORTAL

    def __init__(
        self,
        settings: Settings,
        *,
        emit: EventSink = discard_event,
        now: Callable[[], datetime] = utc_now,
        timing: Timing = USUAL_TIMING,
        pace_file: Path | None = None,
    ) -> None:
        super().__init__(settings, emit=emit, now=now)
        self._shared = Shared(settings, emit, now, timing, pace_file)
        self._connection: Connection | None = None

    @property
    def endpoint(self) -> str:
        return self.settings.ibkr_gateway_url

    async def connect(self) -> None:
        if self.is_connected():
            raise RuntimeError("already connected: disconnect first")
        self._connection = None
        self._leftovers.clear_away()
        readiness = self._begin()
        context = await trust(self.endpoint, self.settings.ibkr_ca_file)
        self._connection = Connection(self._shared, context, readiness)
        await self.nursery.start(self._connection.run)
        if (remark := remark_on(context, self.endpoint)) is not None:
            self._shared.troubles.once("certificate", remark)

    async def disconnect(self) -> None:
        if self._connection is None:
            return
        self._connection.scope.cancel()
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
        await self._connection.probe()

    def usage(self) -> Usage:
        pacing = self._shared.pacing
        return Usage(pacing.answers, pacing.requests)

    def inputs(self) -> RiskInputs:
        assert self._connection is not None
        return self._connection.inputs()
