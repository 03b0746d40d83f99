"""A gateway in memory, for driving the tasks through thousands of states in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import trio

from trio_bridge.errors import GatewayError
from trio_bridge.gateways.base import IBridgeBase, RiskInputs, discard_event
from trio_bridge.gateways.readiness import Reason
from trio_bridge.model import ApiMode, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from trio_bridge.config import Settings
    from trio_bridge.gateways.base import EventSink
    from trio_bridge.model import Greeks, Position


class FakeBridge(IBridgeBase):
    """Connects while `refusal` is None; the test sets everything else, reasons in `readiness`.

    Attributes:
        refusal: why attempts to connect fail, or None.
        connect_s: how long an attempt takes.
        silent: whether probes go unanswered.
        attempts: when each attempt to connect was made (wall clock).
        probes: when each probe was made (monotonic clock, seconds).
        positions, greeks: what the portfolio holds.
    """

    mode: ClassVar[ApiMode] = ApiMode.SOCKET
    endpoint = "fake:4001"

    def __init__(
        self,
        settings: Settings,
        *,
        emit: EventSink = discard_event,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(settings, emit=emit, now=now)
        self.refusal: str | None = None
        self.connect_s = 0.0
        self.silent = False
        self.attempts: list[datetime] = []
        self.probes: list[float] = []
        self.positions: list[Position] = []
        self.greeks: dict[int, Greeks] = {}
        self.disconnects = 0
        self._lost = trio.Event()
        self._reason = ""

    def drop(self, reason: str = "the gateway closed the connection") -> None:
        """Lose the connection, if there is one."""
        if self.is_connected():
            self.readiness.block(Reason.NOT_CONNECTED)
            self._reason = reason
            self._lost.set()

    async def connect(self) -> None:
        self.attempts.append(self._now())
        readiness = self._begin()
        await trio.sleep(self.connect_s)
        if self.refusal is not None:
            raise GatewayError(self.refusal)
        self._lost = trio.Event()
        readiness.clear(Reason.NOT_CONNECTED)

    async def disconnect(self) -> None:
        self.disconnects += 1
        self.readiness.block(Reason.NOT_CONNECTED)

    async def wait_lost(self) -> str:
        await self._lost.wait()
        return self._reason

    async def probe(self) -> None:
        self.probes.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.silent:
            raise GatewayError("no answer")

    def inputs(self) -> RiskInputs:
        return RiskInputs(("DU1",), tuple(self.positions), dict(self.greeks))
