"""What every request passes before it reaches the application, and every answer after it.

Requests from elsewhere or without the token are refused. A body is read and all but its first bytes
discarded, because hypercorn waits until it has been read. When the client leaves, its request is
cancelled. Every answer has the headers that keep a browser from using it in any other way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import trio
from starlette.responses import JSONResponse

from trio_bridge.logs import Log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from trio_bridge.web.access import Access

ANSWER_TIMEOUT_S = 30.0
"""Until an answer begins. From then on each piece has its own limit."""

LARGEST_BODY = 4_096
COMPLAIN_EVERY_S = 60.0

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

OPEN_PATHS = frozenset({"/healthz", "/login"})
OPEN_PREFIX = "/static/"
"""They give nothing away but that a bridge is running and what the page is made of."""

log = Log()


class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, access: Access, *, turn_away: ASGIApp) -> None:
        """`turn_away` answers those who do not know the token."""
        self._app = app
        self._access = access
        self._turn_away = turn_away
        self._complained_s = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            raise RuntimeError(f"unknown protocol {scope['type']}")
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        await _Exchange(receive, send).run(self._choose(scope["path"], headers), scope)

    def _choose(self, path: str, headers: Mapping[str, str]) -> ASGIApp:
        if not self._access.host_is_ours(headers):
            return refusal(421, "this name is not this machine's: use localhost")
        if self._access.is_foreign(headers):
            return refusal(403, "requests from another site's page are refused")
        is_open = path in OPEN_PATHS or path.startswith(OPEN_PREFIX)
        if not is_open and not self._access.knows_token(headers):
            if "authorization" in headers:
                self._complain()
            return self._turn_away
        return self._app

    def _complain(self) -> None:
        if trio.current_time() - self._complained_s >= COMPLAIN_EVERY_S:
            self._complained_s = trio.current_time()
            log.warning("status endpoint: a request with a wrong token")


def refusal(status: int, reason: str, headers: Mapping[str, str] | None = None) -> ASGIApp:
    """An application that answers everything like this."""
    return JSONResponse({"error": reason}, status_code=status, headers=headers)


class _Exchange:
    """One request and its answer."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._body = bytearray()
        self._body_ended = trio.Event()
        self._gone = trio.Event()
        self._body_given = False
        self._begun = False
        self._ending = False
        self._scope = trio.CancelScope()

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_body)
            try:
                with self._scope:
                    self._scope.deadline = trio.current_time() + ANSWER_TIMEOUT_S
                    await app(scope, self._receive_for_app, self._send_for_app)
            except Exception as error:
                log.error("status endpoint: a request failed", path=scope["path"], exc_info=error)
            if not self._begun and not self._gone.is_set():
                answer = refusal(503, "no answer in time, or a failure: see the service's log")
                await answer(scope, self._receive_for_app, self._send_for_app)
            nursery.cancel_scope.cancel()

    async def _take_body(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                break
            room = LARGEST_BODY + 1 - len(self._body)
            self._body += message.get("body", b"")[:room]
            if not message.get("more_body", False):
                self._body_ended.set()
        self._gone.set()
        self._body_ended.set()
        # hypercorn sends this after the last piece of an answer, too, while it still cleans up.
        if not self._ending:
            self._scope.cancel()

    async def _receive_for_app(self) -> Message:
        if not self._body_given:
            self._body_given = True
            await self._body_ended.wait()
            return {"type": "http.request", "body": bytes(self._body), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send_for_app(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            self._scope.deadline = math.inf
            message = {**message, "headers": _with_security(message["headers"])}
        elif not message.get("more_body", False):
            self._ending = True
        await self._send(message)


def _with_security(headers: Any) -> list[tuple[bytes, bytes]]:
    return [
        *headers,
        *((name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()),
    ]
