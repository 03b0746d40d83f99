"""The simulated gateway's WebSocket: quotes as they change, until a subscription expires."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import orjson
import trio
from starlette.responses import HTMLResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_bridge.simulator.book import Book
    from trio_bridge.simulator.portal.answers import Streams
    from trio_bridge.simulator.portal.rules import Refusal, Rules, SimulatedLogin
    from trio_bridge.simulator.portal.upstream import Upstream

SUBSCRIPTION_LIFE_S: Final = 600.0
HEARTBEAT_S: Final = 10.0
STEP_S: Final = 0.25
FORBIDDEN_TOPICS: Final = ("sor", "uor")

_COOKIE: Final = re.compile(r'api=\{"session":"(\w*)"\}')
_SUBSCRIBE: Final = re.compile(r"smd\+(\d+)\+(\{.*\})", re.DOTALL)
_UNSUBSCRIBE: Final = re.compile(r"umd\+(\d+)\+\{\}")


class Topic:
    """One contract's topic on one WebSocket."""

    def __init__(self, fields: tuple[str, ...], ends_at: float) -> None:
        self.fields = fields
        self.ends_at = ends_at
        self.sent: dict[str, Any] = {}


class StreamServer:
    """Serves a simulator's WebSockets. Tests set the switches."""

    def __init__(
        self,
        book: Book,
        rules: Rules,
        login: SimulatedLogin,
        streams: Streams,
        upstream: Upstream,
        clock: Callable[[], float],
    ) -> None:
        self.refused = False
        """Reject the handshake with an error."""
        self.refusal: Refusal | None = None
        """Reject the handshake with this: its status, page (a str) and headers."""
        self.binary = False
        """Send binary frames, as the real gateway does, instead of text."""
        self.deaf = False
        """Accept subscriptions and send nothing for them."""
        self.mute = False
        """Send nothing at all."""
        self.ignores_cookies = False
        """Ask for the session even if the cookie names it."""
        self.subscription_life_s = SUBSCRIPTION_LIFE_S
        self.opened = 0
        self.messages: list[str] = []
        """Every message from a client."""
        self._book = book
        self._rules = rules
        self._login = login
        self._streams = streams
        self._upstream = upstream
        self._clock = clock
        self._scopes: set[trio.CancelScope] = set()

    def drop(self) -> None:
        """End every connection without notice."""
        for scope in tuple(self._scopes):
            scope.cancel()

    async def serve(self, socket: WebSocket) -> None:
        """Serve one WebSocket to its end."""
        if not self._upstream.is_well:
            # The real gateway is quick to accept, whoever is behind it.
            await socket.accept()
            await self._upstream.well()
        refusal = self._rules.judge("GET", "/ws", {}, None)
        if refusal is None and self.refusal is not None:
            denial = self.refusal
            await socket.send_denial_response(
                HTMLResponse(denial.body, denial.status, dict(denial.headers))
            )
            return
        if refusal is not None or self.refused:
            await socket.close(1008)
            return
        if socket.application_state is WebSocketState.CONNECTING:
            await socket.accept()
        self.opened += 1
        subscriptions: dict[int, Topic] = {}
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                await self._introduce(socket)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._publish, socket, subscriptions)
                    nursery.start_soon(self._beat, socket)
                    await self._listen(socket, subscriptions)
                    nursery.cancel_scope.cancel()
            except* WebSocketDisconnect:
                pass
            finally:
                self._scopes.discard(scope)

    async def _introduce(self, socket: WebSocket) -> None:
        """Identify the client by its cookie, or by the session it sends when asked."""
        cookie = _COOKIE.search(socket.headers.get("cookie", ""))
        token = cookie[1] if cookie and not self.ignores_cookies else ""
        while token != self._login.token:
            await self._send(socket, {"message": "waiting for session"})
            reply = _object(await socket.receive_text())
            token = str(reply.get("session", ""))
        await self._send(socket, {"topic": "system", "success": "simulated", "isFT": False})
        await self._send(socket, {"topic": "act", "args": {"accounts": list(self._book.accounts)}})
        await self._send(socket, {"topic": "sts", "args": self._standing()})

    def _standing(self) -> dict[str, bool]:
        login = self._login
        return {"authenticated": login.authenticated, "competing": login.competing}

    async def _listen(self, socket: WebSocket, subscriptions: dict[int, Topic]) -> None:
        while True:
            try:
                message = await socket.receive_text()
            except WebSocketDisconnect:
                return
            self.messages.append(message)
            if message.startswith(FORBIDDEN_TOPICS):
                self._rules.violate(f"the WebSocket topic {message} must never be sent")
            elif (found := _SUBSCRIBE.fullmatch(message)) is not None:
                fields = tuple(_object(found[2]).get("fields", ()))
                con_id = int(found[1])
                self._streams.start(con_id)
                ends_at = self._clock() + self.subscription_life_s
                subscriptions[con_id] = Topic(fields, ends_at)
            elif (found := _UNSUBSCRIBE.fullmatch(message)) is not None:
                subscriptions.pop(int(found[1]), None)
                self._streams.end(int(found[1]))
            elif message in ("tic", "ech+hb"):
                await self._send(socket, {"topic": "tic", "alive": True, "id": "simulated"})

    async def _publish(self, socket: WebSocket, subscriptions: dict[int, Topic]) -> None:
        """Send each subscription what has changed since its last message."""
        reported = {"authenticated": True, "competing": False}
        while True:
            if reported != self._standing():
                reported = self._standing()
                await self._send(socket, {"topic": "sts", "args": reported})
            for con_id, subscription in tuple(subscriptions.items()):
                if self._clock() >= subscription.ends_at:
                    del subscriptions[con_id]
                elif reported["authenticated"] and not self.deaf:
                    await self._publish_one(socket, con_id, subscription)
            await trio.sleep(STEP_S)

    async def _publish_one(self, socket: WebSocket, con_id: int, subscription: Topic) -> None:
        if con_id not in self._book.contracts:
            return
        known = self._streams.fields(con_id, subscription.fields)
        changed = {
            name: value for name, value in known.items() if subscription.sent.get(name) != value
        }
        if not changed:
            return
        subscription.sent |= changed
        await self._send(
            socket,
            {
                "topic": f"smd+{con_id}",
                "conid": con_id,
                "conidEx": str(con_id),
                "server_id": f"q{con_id % 10}",
                "_updated": int(self._book.now() * 1000),
                **changed,
            },
        )

    async def _beat(self, socket: WebSocket) -> None:
        while True:
            await trio.sleep(HEARTBEAT_S)
            await self._send(socket, {"topic": "system", "hb": int(self._clock() * 1000)})

    async def _send(self, socket: WebSocket, message: dict[str, Any]) -> None:
        if self.mute:
            return
        if self.binary:
            await socket.send_bytes(orjson.dumps(message))
        else:
            await socket.send_text(orjson.dumps(message).decode())


def _object(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
