"""The Client Portal's WebSocket: what changes, as it changes. Polling stays underneath.

The stream only makes rows fresher: every quote is asked for now and then even while it streams, so
a subscription that ended unnoticed costs seconds, not truth.

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
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)

from trio_bridge.errors import GatewayError
from trio_bridge.events.portal import StreamBack, StreamLost
from trio_bridge.gateways.portal.client import API_PATH, members_of
from trio_bridge.gateways.portal.pacing import STREAM
from trio_bridge.gateways.portal.values import REQUESTED_FIELDS, read_con_id
from trio_bridge.policy.backoff import Backoff

if TYPE_CHECKING:
    from trio_bridge.gateways.portal.client import PortalClient, Shared
    from trio_bridge.gateways.portal.holdings import Memory
    from trio_bridge.gateways.portal.login import Login

OPEN_TIMEOUT_S: Final = 10.0
MESSAGES_A_SECOND: Final = 20
WELCOME_S: Final = 5.0
"""So long the gateway may take to say that we are known, before we subscribe regardless."""

ROUND_S: Final = 1.0
"""Between two looks at what should be subscribed."""

TROUBLE_AFTER_ATTEMPTS: Final = 3
"""So many attempts in vain are told; a stream that comes back sooner is nobody's concern."""

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
    """Keeps one WebSocket open while it runs, and everything subscribed that a row needs."""

    def __init__(self, client: PortalClient, shared: Shared, memory: Memory, login: Login) -> None:
        parts = urlsplit(shared.settings.ibkr_gateway_url)
        self.is_streaming = False
        """Whether it brings the changes now: then polling only looks after it."""
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

    async def run(self) -> NoReturn:
        """Stream until cancelled; when it breaks, try again, ever more patiently."""
        backoff = Backoff(self._timing.backoff_s)
        await self._memory.wait_download()
        while True:
            await trio.sleep(self._pacing.pause_s)
            reason = await self._stream_once()
            if self.is_streaming:
                self.is_streaming = False
                backoff = backoff.restarted()
            if backoff.attempt >= TROUBLE_AFTER_ATTEMPTS:
                self._troubles.begin("stream", StreamLost(reason))
            await trio.sleep(backoff.delay_s)
            backoff = backoff.attempted()

    async def _stream_once(self) -> str:
        """Open the WebSocket and follow it to its end; return why it ended."""
        reason = "ended"
        stream = None
        try:
            await self._login.tickle()  # it tells the token that the WebSocket asks for
            async with self._pacing.turn(STREAM):
                stream = await self._open_stream()
            async with trio.open_nursery() as nursery:
                reason = await self._follow(await self._shake_hands(nursery, stream))
                nursery.cancel_scope.cancel()
        except* STREAM_ERRORS as group:
            said = (str(one) or type(one).__name__ for one in members_of(group))
            reason = "; ".join(dict.fromkeys(said))
        finally:
            if stream is not None:
                # Not left to the library, which forgets it when the handshake is refused.
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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_subscribed, socket)
            nursery.start_soon(self._keep_alive, socket)
            reason = await self._receive(socket)
            nursery.cancel_scope.cancel()
        return reason

    async def _receive(self, socket: WebSocketConnection) -> str:
        while True:
            with trio.move_on_after(self._timing.stream_silent_s) as waiting:
                try:
                    message = await socket.get_message()
                except ConnectionClosed as error:
                    return f"closed: {error}"
            if waiting.cancelled_caught:
                return f"nothing was heard for {self._timing.stream_silent_s:.0f} s"
            await self._take(message, socket)

    async def _take(self, message: str | bytes, socket: WebSocketConnection) -> None:
        try:
            told = orjson.loads(message)
        except orjson.JSONDecodeError:
            return
        if not isinstance(told, dict):
            return
        topic = told.get("topic")
        if not isinstance(topic, str):
            if told.get("message") == "waiting for session":
                await _send(socket, self._token().decode())
        elif topic.startswith(QUOTES_TOPIC):
            con_id = read_con_id(told.get("conid", topic.removeprefix(QUOTES_TOPIC)))
            if con_id in self._subscribed_at:
                self._memory.take_quotes([(con_id, told)], trio.current_time())
        elif topic == "sts" and isinstance(told.get("args"), dict):
            if told["args"].get("authenticated") is True:
                self._welcome.set()
            self._login.take_hint(told["args"])

    async def _keep_subscribed(self, socket: WebSocketConnection) -> None:
        """Subscribe what a row needs, again before it ends by itself, and end what is not."""
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
            if not self.is_streaming:
                self.is_streaming = True
                self._troubles.end("stream", StreamBack)
            await trio.sleep(ROUND_S)

    async def _keep_alive(self, socket: WebSocketConnection) -> NoReturn:
        while True:
            await trio.sleep(self._timing.stream_tic_s)
            await _send(socket, "tic")

    def _token(self) -> bytes:
        return orjson.dumps({"session": self._login.token})


async def _send(socket: WebSocketConnection, message: str) -> None:
    """Send; that the connection is gone, its receiver notices."""
    with suppress(ConnectionClosed):
        await socket.send_message(message)
