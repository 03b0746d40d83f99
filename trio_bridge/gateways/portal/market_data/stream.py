"""The Client Portal's WebSocket: what changes, as it changes. Polling stays underneath.

The stream only makes rows fresher: every quote is still polled now and then, so a subscription that
ended unnoticed costs seconds, not truth.

Topics: https://interactivebrokers.github.io/cpwebapi/RealtimeSubscription.html; since April 2026 a
subscription ends by itself after ten minutes.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import urlsplit

import orjson
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from trio_bridge.errors import GatewayError, leaves
from trio_bridge.events.portal import StreamBack, StreamBegun, StreamLost
from trio_bridge.gateways.portal.values import REQUESTED_FIELDS, read_con_id
from trio_bridge.gateways.portal.wire.client import API_PATH
from trio_bridge.gateways.portal.wire.pacing import STREAM
from trio_bridge.policy.backoff import Backoff

if TYPE_CHECKING:
    from trio_bridge.gateways.portal.holdings import Memory
    from trio_bridge.gateways.portal.login import Login
    from trio_bridge.gateways.portal.wire.client import PortalClient, Shared

OPEN_TIMEOUT_S: Final = 10.0
MESSAGES_A_SECOND: Final = 20
WELCOME_S: Final = 5.0
"""How long to wait for the gateway to accept our session before we subscribe anyway."""

ROUND_S: Final = 1.0
"""Between two checks of what should be subscribed."""

TROUBLE_AFTER_ATTEMPTS: Final = 3
"""Report the trouble after this many failed attempts."""

MUTE_PAUSE_S: Final = 300.0
"""Before a gateway that accepts subscriptions and brings nothing is given all of them again."""

QUOTES_TOPIC: Final = "smd+"
FIELDS: Final = orjson.dumps({"fields": list(REQUESTED_FIELDS)}).decode()


STREAM_ERRORS: Final = (
    GatewayError,
    HandshakeError,
    ConnectionClosed,
    OSError,
    trio.BrokenResourceError,
    trio.TooSlowError,
)
"""How a WebSocket can fail; anything else is a bug."""


class QuoteStream:
    """Keeps one WebSocket open, and everything subscribed that a row needs."""

    def __init__(self, client: PortalClient, shared: Shared, memory: Memory, login: Login) -> None:
        parts = urlsplit(shared.settings.ibkr_gateway_url)
        self.is_streaming = False
        """Whether it has brought data and is still open: polling then only checks it."""
        self._context = client.context if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (80 if self._context is None else 443)
        self._path = f"{parts.path}{API_PATH}{STREAM.path}"
        self._memory = memory
        self._login = login
        self._pacing = shared.pacing
        self._troubles = shared.troubles
        self._timing = shared.timing
        self._welcome = trio.Event()
        self._subscribed_at: dict[int, float] = {}
        self._is_mute = False

    async def run(self) -> NoReturn:
        """Stream until cancelled; when it breaks, try again after ever longer pauses."""
        backoff = Backoff(self._timing.backoff_s)
        await self._memory.wait_download()
        while True:
            await trio.sleep(self._pacing.pause_s)
            reason = await self._stream_once()
            if self.is_streaming:
                self.is_streaming = False
                backoff = backoff.restarted()
            if self._is_mute or backoff.attempt >= TROUBLE_AFTER_ATTEMPTS:
                self._troubles.begin("stream", StreamLost(reason))
            await trio.sleep(MUTE_PAUSE_S if self._is_mute else backoff.delay_s)
            backoff = backoff.attempted()

    async def _stream_once(self) -> str:
        """Open the WebSocket and follow it to its end; return why it ended."""
        reason = "ended"
        self._is_mute = False
        stream = None
        try:
            await self._login.tickle()  # brings the token that the WebSocket asks for
            async with self._pacing.turn(STREAM):
                stream = await self._open_stream()
            async with trio.open_nursery() as nursery:
                reason = await self._follow(await self._shake_hands(nursery, stream))
                nursery.cancel_scope.cancel()
        except* STREAM_ERRORS as group:
            reason = "; ".join(dict.fromkeys(map(_said, leaves(group))))
        finally:
            if stream is not None:
                # The library leaks it when the handshake is refused.
                await trio.aclose_forcefully(stream)
        return reason

    async def _open_stream(self) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
        with trio.fail_after(OPEN_TIMEOUT_S):
            if self._context is None:
                return await trio.open_tcp_stream(self._host, self._port)
            return await trio.open_ssl_over_tcp_stream(
                self._host, self._port, ssl_context=self._context, https_compatible=True
            )

    async def _shake_hands(
        self,
        nursery: trio.Nursery,
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
    ) -> WebSocketConnection:
        with trio.fail_after(OPEN_TIMEOUT_S):
            return await wrap_client_stream(
                nursery,
                stream,
                f"{self._host}:{self._port}",
                self._path,
                extra_headers=[(b"Cookie", b"api=" + self._token())],
            )

    async def _follow(self, socket: WebSocketConnection) -> str:
        self._welcome = trio.Event()
        self._subscribed_at = {}
        reason = f"no data within {self._timing.stream_mute_s:.0f} s of subscribing"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_subscribed, socket)
            nursery.start_soon(self._keep_alive, socket)
            nursery.start_soon(self._notice_muteness, nursery.cancel_scope)
            reason = await self._receive(socket)
            nursery.cancel_scope.cancel()
        return reason

    async def _notice_muteness(self, scope: trio.CancelScope) -> None:
        """End a connection that accepts subscriptions and brings nothing. A live one answers each
        subscription at once with what is known, also while the market is closed."""
        while not self.is_streaming:
            oldest = min(self._subscribed_at.values(), default=math.inf)
            if trio.current_time() - oldest >= self._timing.stream_mute_s:
                self._is_mute = True
                scope.cancel()
            await trio.sleep(ROUND_S)

    async def _receive(self, socket: WebSocketConnection) -> str:
        while True:
            with trio.move_on_after(self._timing.stream_silent_s) as waiting:
                try:
                    message = await socket.get_message()
                except ConnectionClosed as error:
                    return f"closed: {error}"
            if waiting.cancelled_caught:
                return f"silent for {self._timing.stream_silent_s:.0f} s"
            await self._take(message, socket)

    async def _take(self, message: str | bytes, socket: WebSocketConnection) -> None:
        try:
            content = orjson.loads(message)
        except orjson.JSONDecodeError:
            return
        if not isinstance(content, dict):
            return
        topic = content.get("topic")
        if not isinstance(topic, str):
            if content.get("message") == "waiting for session":
                await _send(socket, self._token().decode())
        elif topic.startswith(QUOTES_TOPIC):
            con_id = read_con_id(content.get("conid", topic.removeprefix(QUOTES_TOPIC)))
            if con_id in self._subscribed_at:
                self._has_brought_data()
                self._memory.take_quotes([(con_id, content)], trio.current_time())
        elif topic == "sts" and isinstance(content.get("args"), dict):
            if content["args"].get("authenticated") is True:
                self._welcome.set()
            self._login.take_hint(content["args"])

    async def _keep_subscribed(self, socket: WebSocketConnection) -> None:
        """Subscribe to what a row needs, again before it ends by itself; end everything else."""
        with trio.move_on_after(WELCOME_S):
            await self._welcome.wait()
        while True:
            wanted = self._memory.wanted_con_ids()
            for con_id in self._subscribed_at.keys() - set(wanted):
                del self._subscribed_at[con_id]
                await _send(socket, f"umd+{con_id}+{{}}")
                await trio.sleep(1 / MESSAGES_A_SECOND)
            oldest = trio.current_time() - self._timing.resubscribe_s
            for con_id in wanted:
                if self._subscribed_at.get(con_id, -math.inf) <= oldest:
                    self._subscribed_at[con_id] = trio.current_time()
                    await _send(socket, f"{QUOTES_TOPIC}{con_id}+{FIELDS}")
                    await trio.sleep(1 / MESSAGES_A_SECOND)
            await trio.sleep(ROUND_S)

    def _has_brought_data(self) -> None:
        if not self.is_streaming:
            self.is_streaming = True
            self._troubles.end("stream", StreamBack)
            self._troubles.once("streaming", StreamBegun())

    async def _keep_alive(self, socket: WebSocketConnection) -> NoReturn:
        while True:
            await trio.sleep(self._timing.stream_tic_s)
            await _send(socket, "tic")

    def _token(self) -> bytes:
        return orjson.dumps({"session": self._login.token})


def _said(error: BaseException) -> str:
    """Why it failed. The library's text for a refusal is the whole response, cookies included."""
    if isinstance(error, ConnectionRejected):
        return f"refused with HTTP {error.status_code}"
    return str(error) or type(error).__name__


async def _send(socket: WebSocketConnection, message: str) -> None:
    """Send; a closed connection is noticed by the receiver and ignored here."""
    with suppress(ConnectionClosed):
        await socket.send_message(message)
