"""Keeps the bridge connected, in both modes: DISCONNECTED → CONNECTING → CONNECTED → (lost) →
HOLDING or BACKING_OFF → CONNECTING.

Inside a reset window it holds until the window's end and then connects at once. Otherwise it waits
5, 10, 20, 20, … s before each attempt; a connection that lasted a minute starts that sequence
again. While connected it probes: after the first unanswered probe no row is written, after the
second in a row the connection is closed, because a dead peer may leave a socket that looks healthy.
It is also closed when the machine has slept: what it has received is no longer current.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import trio

from trio_bridge.errors import ConfigError, GatewayError
from trio_bridge.events.gateway import (
    AccountsAwaited,
    Connected,
    ConnectionLost,
    GatewayAnswers,
    GatewaySilent,
    HoldBegun,
    HoldEnded,
    Reconnecting,
)
from trio_bridge.events.service import ServiceStopped
from trio_bridge.gateways.accounts import UnmanagedAccountError
from trio_bridge.gateways.readiness import Reason
from trio_bridge.model import utc_now
from trio_bridge.policy.backoff import Backoff
from trio_bridge.policy.reset_window import eastern_text, hold_until
from trio_bridge.policy.schedule import STOOD_STILL_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from trio_bridge.gateways.base import EventSink, IBridgeBase
    from trio_bridge.policy.reset_window import ResetWindow

LONGEST_NAP_S = 30.0
"""A hold re-reads the wall clock at least this often: a laptop that slept must not oversleep."""

MISSES_ALLOWED = 1

ACCOUNTS_PATIENCE_S = 180.0
"""How long IB_ACCOUNT may name an account that the gateway does not list: right after a login its
list may be short."""


class State(StrEnum):
    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    HOLDING = "holding"
    BACKING_OFF = "backing off"


@dataclass
class ConnectionStatus:
    """What the supervisor is doing, for other tasks to read."""

    state: State = State.DISCONNECTED
    reason: str = ""
    since: datetime | None = None
    reconnects: int = 0
    probe_latency_s: float | None = None


class Supervisor:
    """One loop around one bridge. `run` ends only by cancellation or by a setting that can't work.

    Every transition is one event. `now` is the wall clock; waits use Trio's.
    """

    def __init__(
        self,
        bridge: IBridgeBase,
        *,
        delays_s: tuple[float, ...],
        windows: Sequence[ResetWindow],
        heartbeat_s: float,
        emit: EventSink,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._bridge = bridge
        self._backoff = Backoff(delays_s)
        self._windows = windows
        self._heartbeat_s = heartbeat_s
        self._emit = emit
        self._now = now
        self._ever_connected = False
        self._unlisted_since: float | None = None
        self.status = ConnectionStatus()

    async def run(self) -> None:
        """Keep the bridge connected until cancelled.

        Raises:
            ConfigError: a setting can't work; or the gateway did not list an account of IB_ACCOUNT
                for minutes, and never did.
        """
        try:
            while True:
                reason = await self._connect()
                if reason is None:
                    reason = await self._stay_connected()
                await self._wait_for_turn(reason)
        finally:
            await self._leave()

    async def _connect(self) -> str | None:
        """One attempt; None when connected, else why not."""
        self._enter(State.CONNECTING)
        try:
            await self._bridge.connect()
        except UnmanagedAccountError as error:
            self._await_accounts(error)
            return str(error)
        except ConfigError as error:
            if not self._ever_connected:
                raise
            return str(error)
        except GatewayError as error:
            return str(error)
        self._ever_connected = True
        self._unlisted_since = None
        return None

    def _await_accounts(self, error: UnmanagedAccountError) -> None:
        """A gateway that is just logging in may not know all accounts yet. If it worked before, it
        is given any time, else some minutes."""
        now = trio.current_time()
        if self._unlisted_since is None:
            self._unlisted_since = now
            if not self._ever_connected:
                self._emit(AccountsAwaited(error.missing, error.listed, ACCOUNTS_PATIENCE_S))
        if not self._ever_connected and now - self._unlisted_since >= ACCOUNTS_PATIENCE_S:
            raise error

    async def _stay_connected(self) -> str:
        """Watch an open connection to its end; return why it ended."""
        self._enter(State.CONNECTED)
        self._emit(Connected(self._bridge.endpoint))
        began = trio.current_time()
        reasons: list[str] = []

        async def first(watch: Callable[[], Awaitable[str]]) -> None:
            reasons.append(await watch())
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first, self._bridge.wait_lost)
            nursery.start_soon(first, self._bridge.sleep.wait_woken)
            nursery.start_soon(first, self._miss_probes)
        await self._bridge.disconnect()
        self._backoff = self._backoff.lost(up_s=trio.current_time() - began)
        self.status.reconnects += 1
        self._emit(ConnectionLost(self._bridge.endpoint, reasons[0]))
        return reasons[0]

    async def _miss_probes(self) -> str:
        """Probe at the heartbeat's pace; return when one probe too many went unanswered."""
        misses = 0
        asked = trio.current_time()
        while True:
            # Counted from the last question, however long its answer took or failed to come.
            due = asked + self._heartbeat_s
            await trio.sleep_until(due)
            asked = trio.current_time()
            if asked - due > STOOD_STILL_S:
                self._bridge.readiness.block(Reason.PROBE_MISSED)
            try:
                await self._bridge.probe()
            except GatewayError as error:
                misses += 1
                self._bridge.readiness.block(Reason.PROBE_MISSED)
                if misses > MISSES_ALLOWED:
                    return f"{misses} probes in a row went unanswered ({error})"
                # Not if the connection has just ended: that is about to be reported.
                if self._bridge.is_connected():
                    self._emit(GatewaySilent(str(error)))
            else:
                if misses:
                    self._emit(GatewayAnswers())
                misses = 0
                self.status.probe_latency_s = trio.current_time() - asked
                self._bridge.readiness.clear(Reason.PROBE_MISSED)

    async def _wait_for_turn(self, reason: str) -> None:
        """Wait until the next attempt is due."""
        if await self._hold(reason):
            return
        delay_s = self._backoff.delay_s
        self._enter(State.BACKING_OFF, reason)
        self._emit(Reconnecting(self._backoff.attempt, delay_s, reason))
        await trio.sleep(delay_s)
        if not await self._hold(reason):
            self._backoff = self._backoff.attempted()

    async def _hold(self, reason: str) -> bool:
        """Wait for the end of a reset window if we are in one; return whether we were."""
        began = self._now()
        end = hold_until(began, self._windows)
        if end is None:
            return False
        self._enter(State.HOLDING, reason)
        self._emit(HoldBegun(eastern_text(end, seen_from=began), reason))
        now = began
        while (end := hold_until(now, self._windows)) is not None:
            # From the same reading of the clock: at a later one the window may be over.
            await trio.sleep(min((end - now).total_seconds(), LONGEST_NAP_S))
            now = self._now()
        self._backoff = self._backoff.restarted()
        self._emit(HoldEnded())
        return True

    def _enter(self, state: State, reason: str = "") -> None:
        self.status.state = state
        self.status.reason = reason
        self.status.since = self._now()

    async def _leave(self) -> None:
        # The bridge may be ending at this very moment, by the same cancellation: don't ask it.
        connected = self.status.state is State.CONNECTED
        await self._bridge.disconnect()
        self._enter(State.DISCONNECTED, "the service is stopping")
        self._emit(ServiceStopped(self._bridge.endpoint if connected else None))
