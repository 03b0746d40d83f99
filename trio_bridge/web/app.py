"""The answers: one method for each path."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import orjson
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from trio_bridge.errors import StoreError
from trio_bridge.web.chart import PAGE_PATIENCE_S, chart_json, event_json
from trio_bridge.web.guard import LARGEST_BODY, Guard
from trio_bridge.web.query import BadQueryError, events_wanted, window_of
from trio_bridge.web.streams import KEEP_ALIVE, KEEP_ALIVE_S, OPENING, TooManyStreamsError, encode

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from trio_bridge.model import ApiEvent
    from trio_bridge.stores.reading.history import History
    from trio_bridge.stores.reading.landing import LandedEvent
    from trio_bridge.web.access import Access
    from trio_bridge.web.files import PageFile
    from trio_bridge.web.metrics import Metrics
    from trio_bridge.web.observer import Observer
    from trio_bridge.web.spool_count import SpoolCount
    from trio_bridge.web.streams import Hub

STREAM_LIFETIME_S = 3_600.0
RECENT_S = PAGE_PATIENCE_S + 10.0
"""More than a page may wait for its stream."""

RETRY_AFTER_S = "5"
HOME = "index.html"
LOGIN = "login.html"


class Json(Response):
    """Anything that orjson takes."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, **headers: str) -> None:
        super().__init__(content, status_code, {"cache-control": "no-store", **headers})

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


@dataclasses.dataclass
class Site:
    """The parts that answers are made of."""

    observer: Observer
    metrics: Metrics
    hub: Hub
    history: History
    spool_count: SpoolCount
    access: Access
    files: dict[str, PageFile]

    # Health

    async def alive(self, request: Request) -> Response:
        reason = self.observer.stalled_because()
        return Json({"alive": reason is None}, 200 if reason is None else 503)

    async def ready(self, request: Request) -> Response:
        reason = self.observer.not_ready_because()
        answer = {"ready": reason is None, "reason": reason or self.observer.stands_by_because()}
        return Json(answer, 200 if reason is None else 503)

    async def expose(self, request: Request) -> Response:
        rows = await self._spool_rows()
        exposition = self.metrics.expose(request.headers.get("accept", ""), spool_rows=rows)
        headers = {"content-type": exposition.content_type, "cache-control": "no-store"}
        return Response(exposition.content, headers=headers)

    # Data

    async def status(self, request: Request) -> Response:
        return Json(await self.status_json())

    async def rows(self, request: Request) -> Response:
        window = window_of(
            request.query_params,
            now=self.observer.service.now(),
            interval_s=self.observer.interval_s,
        )
        spooled = self.observer.service.delivery.backlog_bytes > 0
        return Json(chart_json(await self.history.chart(window)) | {"spooled": spooled})

    async def recent(self, request: Request) -> Response:
        """The last rows from memory: they may still be on their way into the database."""
        content = self.observer.recent_json()
        headers = {"cache-control": "no-store"}
        return Response(content, headers=headers, media_type="application/json")

    async def events(self, request: Request) -> Response:
        """The latest events, with those that are still on their way into the database: a page gets
        later ones from its stream, and must not miss any in between."""
        limit = events_wanted(request.query_params)
        try:
            stored = await self.history.events(limit)
        except StoreError as error:
            status = self.observer.status()
            return Json({"from": "memory", "because": str(error), "events": status.events[-limit:]})
        known = {(event.timestamp, event.message) for event in stored}
        on_their_way = [
            event
            for event in self.observer.service.events
            if (event.timestamp, event.message) not in known
            and not (stored and event.timestamp <= stored[0].timestamp)
        ]
        events: list[LandedEvent | ApiEvent] = [*stored, *on_their_way]
        return Json({"from": "database", "events": list(map(event_json, events[-limit:]))})

    async def status_json(self) -> dict[str, Any]:
        """The service's status and, beside it, what only this endpoint knows."""
        status = self.observer.status()
        fields = {one.name: getattr(status, one.name) for one in dataclasses.fields(status)}
        return fields | {
            "not_ready_because": self.observer.not_ready_because(),
            "spool_rows": await self._spool_rows(),
        }

    async def _spool_rows(self) -> int | None:
        return await self.spool_count.rows(self.observer.service.delivery.backlog_bytes)

    # The page

    async def home(self, request: Request) -> Response:
        """The page; with `?token=` a redirect with the cookie: the token leaves the address."""
        if "token" in request.query_params:
            return self._let_in()
        return self._file(HOME, request)

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.files or name in (HOME, LOGIN):
            raise HTTPException(404)
        return self._file(name, request)

    async def log_in(self, request: Request) -> Response:
        body = await request.body()
        if len(body) > LARGEST_BODY:
            raise HTTPException(413)
        form = parse_qs(body.decode("utf-8", "replace"))
        if self.access.is_token(form.get("token", [""])[0].strip()):
            return self._let_in()
        return self._ask_for_token()

    def _let_in(self) -> Response:
        answer = RedirectResponse("/", 303, {"cache-control": "no-store"})
        if self.access.needs_token:
            answer.headers["set-cookie"] = self.access.set_cookie
        return answer

    def _ask_for_token(self) -> Response:
        file = self.files[LOGIN]
        headers = {"cache-control": "no-store", "www-authenticate": "Bearer"}
        return Response(file.content, 401, headers, file.media_type)

    def _file(self, name: str, request: Request) -> Response:
        file = self.files[name]
        headers = {"etag": file.etag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.media_type)

    async def turn_away(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request without the token; one with the token in its address is let in."""
        answer: Response
        if scope["path"] == "/" and scope["method"] in {"GET", "HEAD"}:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            known = self.access.is_token(query.get("token", [""])[0])
            answer = self._let_in() if known else self._ask_for_token()
        else:
            text = "the token is missing or wrong: send Authorization: Bearer TOKEN"
            answer = Json({"error": text}, 401, **{"www-authenticate": "Bearer"})
        await answer(scope, receive, send)


class Stream:
    """`/events`, an ASGI application: the status and the latest rows at once, then news.

    A page asks for its history and for its stream at the same time, and either may come first: rows
    that become safe in between would be in neither.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with self._site.hub.listen() as messages:
                recent = self._site.observer.recent_json(RECENT_S)  # of this moment
                await self._send_all(encode("recent", recent), messages, send)
        except TooManyStreamsError:
            answer = Json({"error": "too many live streams"}, 503, **{"retry-after": RETRY_AFTER_S})
            await answer(scope, receive, send)

    async def _send_all(
        self, recent: bytes, messages: trio.MemoryReceiveChannel[bytes], send: Send
    ) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        status = encode("status", orjson.dumps(await self._site.status_json()))
        message = OPENING + status + recent
        ends_s = trio.current_time() + STREAM_LIFETIME_S
        more = True
        while more:
            await send({"type": "http.response.body", "body": message, "more_body": True})
            message = KEEP_ALIVE
            with trio.move_on_after(KEEP_ALIVE_S):
                try:
                    message = await messages.receive()
                except trio.EndOfChannel:
                    more = False
            more = more and trio.current_time() < ends_s
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def build_app(site: Site) -> Guard:
    """The whole application, as ASGI."""
    routes = [
        Route("/healthz", site.alive),
        Route("/readyz", site.ready),
        Route("/metrics", site.expose),
        Route("/api/status", site.status),
        Route("/api/rows", site.rows),
        Route("/api/recent", site.recent),
        Route("/api/events", site.events),
        Route("/events", Stream(site), methods=["GET"]),
        Route("/", site.home),
        Route("/login", site.log_in, methods=["POST"]),
        Route("/static/{name}", site.static),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            BadQueryError: _bad_query,
            StoreError: _no_database,
            HTTPException: _refused,
        },
    )
    app.router.redirect_slashes = False
    return Guard(app, site.access, turn_away=site.turn_away)


def _bad_query(request: Request, error: Exception) -> Response:
    return Json({"error": str(error)}, 400)


def _no_database(request: Request, error: Exception) -> Response:
    return Json({"error": str(error)}, 503, **{"retry-after": RETRY_AFTER_S})


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Json({"error": error.detail}, error.status_code, **dict(error.headers or {}))
