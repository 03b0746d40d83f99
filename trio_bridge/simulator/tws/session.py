"""One client's connection: handshake, pacing, dispatch, orderly and disorderly ends."""

from __future__ import annotations

import logging
import socket
import struct
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_bridge.simulator.tws import wire
from trio_bridge.simulator.tws.codes import ERRORS, FORBIDDEN, NOTICES
from trio_bridge.simulator.tws.market_data import MarketData
from trio_bridge.simulator.tws.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_bridge.simulator.tws.state import GatewayState

MESSAGES_A_SECOND: Final = 50
BURST_WINDOW_S: Final = 0.7
"""More than 50 messages this close together are too many however they travelled: a client that
keeps to 50 a second cannot cause this even if its packets are held up for 0.3 s."""
BACKLOG: Final = 95.0
"""A client that keeps to 45 a second never gets this far ahead of 50 a second."""

GOODBYE_S: Final = 1.0
"""How long the client may take to read the last messages."""
LARGEST_BACKLOG_BYTES: Final = 64 * 1024 * 1024
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

_log = logging.getLogger(__name__)


class ClientSession:
    """A client from its first byte to its last."""

    def __init__(self, state: GatewayState, stream: trio.SocketStream) -> None:
        self._state = state
        self._stream = stream
        self._incoming = wire.ClientStream()
        self._outgoing = bytearray()
        self._something_to_send = trio.Event()
        self._something_due = trio.Event()
        self._finishing = False
        self._nursery: trio.Nursery | None = None
        self._pacing = MessageRate()
        self.version = 0
        self.client_id: int | None = None
        self.market_data = MarketData(state, self.send, self.send_error)
        self.requests = Requests(state, self)

    @property
    def started(self) -> bool:
        """Whether the client has completed the handshake and startApi."""
        return self.client_id is not None

    @property
    def peak_rate(self) -> int:
        """The most messages from the client within any one second."""
        return self._pacing.peak

    # Life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the client until either side ends it."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._write)
                nursery.start_soon(self._tick)
                await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self.requests.close()
            self._stream.socket.close()

    def start(self, function: Callable[[], Awaitable[Any]]) -> None:
        """Run a task alongside reading, for as long as the session lives."""
        assert self._nursery is not None
        self._nursery.start_soon(function)

    def finish(self) -> None:
        """Send what is queued, then close."""
        assert self._nursery is not None
        self._finishing = True
        self._nursery.cancel_scope.deadline = trio.current_time() + GOODBYE_S
        self._something_to_send.set()

    def drop(self, *, reset: bool) -> None:
        """Close now and send nothing more; with a RST or a FIN."""
        with suppress(OSError):
            if reset:
                self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                self._stream.socket.close()
            else:
                self._stream.socket.shutdown(socket.SHUT_WR)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _read(self) -> None:
        while True:
            await self._state.flowing()
            try:
                data = await self._stream.receive_some(65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            # What arrived while the gateway hung is read once it wakes up.
            await self._state.flowing()
            if not data:
                return
            try:
                for fields in self._incoming.feed(data):
                    if self._finishing:
                        break
                    self._receive(fields)
            except (wire.WireError, ValueError, IndexError) as bad:
                _log.warning("client %s sent a malformed message: %s", self.client_id, bad)
                self.send_error(-1, 320, str(bad))
                self.finish()

    async def _write(self) -> None:
        try:
            while True:
                await self._something_to_send.wait()
                await self._state.flowing()
                self._something_to_send = trio.Event()
                data, self._outgoing = self._outgoing, bytearray()
                await self._stream.send_all(data)
                if self._finishing and not self._outgoing:
                    await self._stream.send_eof()
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            assert self._nursery is not None
            self._nursery.cancel_scope.cancel()

    async def _tick(self) -> None:
        interval = self._state.tick_interval_s
        next_round = trio.current_time() + interval
        while True:
            with trio.move_on_at(min(next_round, self.market_data.next_due())):
                await self._something_due.wait()
            await self._state.flowing()
            self._something_due = trio.Event()
            now = trio.current_time()
            self.market_data.run_due(now)
            if now >= next_round:
                next_round = now + interval
                self.market_data.tick()

    # Sending ---------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """Queue a complete message."""
        if self._finishing:
            return
        self._outgoing += message
        self._something_to_send.set()
        if len(self._outgoing) > LARGEST_BACKLOG_BYTES:
            _log.warning("client %s does not read: dropped", self.client_id)
            self.drop(reset=True)

    def send_error(self, req_id: int, code: int, detail: str = "") -> None:
        """Queue an error or notice, its text completed with `detail`."""
        words = self._state.quirks.texts.get(code)
        if words is None:
            words = (ERRORS.get(code) or NOTICES.get(code) or "{}").format(detail)
        _log.debug("client %s, request %s: %s %s", self.client_id, req_id, code, words)
        self.send(wire.error(self.version, req_id, code, words))

    # Receiving -------------------------------------------------------------------------------

    def _receive(self, fields: list[str]) -> None:
        if not self.version:
            self.version = wire.agree_version(fields[0], self._state.server_version)
            clock = datetime.now(UTC).strftime("%Y%m%d %H:%M:%S UTC")
            self.send(wire.handshake(self.version, clock))
            return
        kind = int(fields[0])
        self._state.record(self.client_id, kind, fields)
        if not self.started:
            self._start_api(kind, fields)
            return
        self._count(trio.current_time())
        if kind in FORBIDDEN:
            self._violate(f"{FORBIDDEN[kind]} (message {kind})")
        elif kind == 1:
            self.market_data.request(fields, trio.current_time())
            self._something_due.set()
        elif kind == 2:
            self.market_data.cancel(fields)
        elif kind == 59:
            self.market_data.want_type(fields)
        elif handler := self.requests.handlers.get(kind):
            handler(fields)
        else:
            self.send_error(-1, 320, f"message {kind} is not served by this simulator")

    def _start_api(self, kind: int, fields: list[str]) -> None:
        if kind != 71:
            raise wire.WireError(f"message {kind} before startApi")
        client_id = int(fields[2])
        if client_id == 0:
            self._violate("client id 0 is the owner's own")
        elif self._state.client_id_in_use(client_id):
            self.send_error(-1, 326)
            self.finish()
        else:
            self.client_id = client_id
            self.send(wire.managed_accounts(self._state.listed_accounts()))
            self.send(wire.next_valid_id(1))
            for code, detail in self._state.opening_notices():
                self.send_error(-1, code, detail)

    def _violate(self, what: str) -> None:
        self._state.violate(self.client_id, what)
        self.send_error(-1, 321, "The API interface is currently in Read-Only mode.")
        self.finish()

    def _count(self, now: float) -> None:
        excess = self._pacing.count(now)
        if excess:
            self._state.violate(self.client_id, f"pacing: {excess} messages in a second")
            self.send_error(-1, 100, str(excess))


class MessageRate:
    """Counts a client's messages against 50 a second, allowing for delayed packets."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._ahead = 0.0
        self._last = float("-inf")
        self._silent_until = float("-inf")
        self.peak = 0

    def count(self, now: float) -> int:
        """Count one message.

        Returns:
            How many arrived in the last second if that is too many (at most once a second), else 0.
        """
        self._times.append(now)
        while self._times[0] <= now - 1:
            self._times.popleft()
        self.peak = max(self.peak, len(self._times))
        self._ahead = max(0.0, self._ahead - (now - self._last) * MESSAGES_A_SECOND) + 1
        self._last = now
        burst = sum(1 for at in self._times if at > now - BURST_WINDOW_S)
        too_many = burst > MESSAGES_A_SECOND or self._ahead > BACKLOG
        if not too_many or now < self._silent_until:
            return 0
        self._silent_until = now + 1
        return len(self._times)
