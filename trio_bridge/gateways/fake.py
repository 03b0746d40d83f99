"""A gateway of plain memory, for driving the tasks through thousands of states in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import trio

from trio_bridge.errors import GatewayError
from trio_bridge.gateways.base import IBridgeBase, RiskInputs
from trio_bridge.model import ApiMode

if TYPE_CHECKING:
    from datetime import datetime

    from trio_bridge.model import Greeks, Position


class FakeBridge(IBridgeBase):
    """Connects while `refusal` is None; everything else is set by the test.

    Attributes:
        refusal: why attempts to connect fail, or None.
        not_ready: why no row can be given although connected, or None.
        silent: whether probes go unanswered.
        attempts: when each attempt to connect was made (wall clock).
        probes: when each probe was made (monotonic clock, seconds).
        positions, greeks: what the portfolio holds.
    """

    mode: ClassVar[ApiMode] = ApiMode.SOCKET
    endpoint = "fake:4001"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.refusal: str | None = None
        self.not_ready: str | None = None
        self.silent = False
        self.attempts: list[datetime] = []
        self.probes: list[float] = []
        self.positions: list[Position] = []
        self.greeks: dict[int, Greeks] = {}
        self.disconnects = 0
        self._connected = False
        self._lost = trio.Event()
        self._reason = ""

    def drop(self, reason: str = "the gateway closed the connection") -> None:
        """Lose the connection, if there is one."""
        if self._connected:
            self._connected = False
            self._reason = reason
            self._lost.set()

    async def connect(self) -> None:
        self.attempts.append(self._now())
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise GatewayError(self.refusal)
        self._lost = trio.Event()
        self._connected = True

    async def disconnect(self) -> None:
        self.disconnects += 1
        self._connected = False

    def is_connected(self) -> bool:
        return self._connected

    async def wait_lost(self) -> str:
        await self._lost.wait()
        return self._reason

    async def probe(self) -> None:
        self.probes.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.silent:
            raise GatewayError("no answer")

    def not_ready_reason(self) -> str | None:
        return self.not_ready if self._connected else "not connected to the gateway"

    def inputs(self) -> RiskInputs:
        return RiskInputs(("DU1",), tuple(self.positions), dict(self.greeks))
