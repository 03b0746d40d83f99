"""The only place that sends requests to the Client Portal Gateway: paced, timed out, understood."""

from __future__ import annotations

import math
import os
import ssl
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import orjson
import trio

from trio_bridge.errors import GatewayError, leaves
from trio_bridge.events.portal import PaceUnshared
from trio_bridge.gateways.ongoing import Ongoing
from trio_bridge.gateways.portal.health import (
    AnswerError,
    Answers,
    LoggedOutError,
    NoAnswerError,
    PausedError,
)
from trio_bridge.gateways.portal.values import ShapeError
from trio_bridge.gateways.portal.wire.pace_file import PaceFile
from trio_bridge.gateways.portal.wire.pacing import MARGIN_S, Pacing
from trio_bridge.text import clean
from trio_bridge.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    import httpcore

    from trio_bridge.config import Settings
    from trio_bridge.gateways.base import EventSink
    from trio_bridge.gateways.portal.health import Health
    from trio_bridge.gateways.portal.wire.pacing import EndpointLimit, Progress, Rate, Timing

API_PATH: Final = "/v1/api"
PENALTY_S: Final = 600.0
"""A 429 without Retry-After: as long as the penalty box lasts."""

LONGEST_PAUSE_S: Final = 1_800.0
CLOSE_TIMEOUT_S: Final = 1.0
LARGEST_ANSWER: Final = 16 * 2**20
HTTP_OK: Final = 200
HTTP_TOO_MANY: Final = 429
LOGGED_OUT_CODES: Final = frozenset({401, 302, 303, 307})
"""Unauthorized, or redirected to the login page. Not 403: that gateway refuses our host."""

TEXT_SHOWN: Final = 80
UNTRUSTED_REMEDY: Final = "set IBKR_CA_FILE to the PEM file of its issuer, or of itself"

LIMITS: Final = httpx.Limits(max_connections=10, keepalive_expiry=4.0)
"""Idle connections are closed before the server closes them, commonly after five seconds."""

T = TypeVar("T")


class Shared:
    """What the parts of a connection need and its successors take over: a reconnect must neither
    ask too soon nor report things twice. `now` is the wall clock; `pace_file` is shared with other
    processes (`pace_file`)."""

    def __init__(
        self,
        settings: Settings,
        emit: EventSink,
        now: Callable[[], datetime],
        timing: Timing,
        pace_file: Path | None = None,
    ) -> None:
        self.settings = settings
        self.emit = emit
        self.now = now
        self.timing = timing
        self.troubles = Ongoing(emit, trio.current_time)
        self.pacing = Pacing(None if pace_file is None else partial(self._share_pace, pace_file))
        self.answers = Answers(
            self.troubles, trio.current_time, is_paused=lambda: self.pacing.pause_s > 0
        )

    def _share_pace(self, pace_file: Path, endpoint: str, rate: Rate) -> PaceFile:
        return PaceFile(
            pace_file.with_name(pace_file.name + endpoint.replace("/", "_")),
            rate.requests,
            rate.period_s + MARGIN_S,
            say=lambda reason: self.troubles.once("pace", PaceUnshared(reason)),
        )


class Answer(NamedTuple, Generic[T]):
    """What the gateway said, and when (monotonic clock) it was asked."""

    value: T
    asked_at: float


def as_is(payload: object) -> Any:
    """Any JSON will do."""
    return payload


class PortalClient:
    """Requests over one HTTP connection pool; close it with `aclose`.

    `Timing` limits the time from a request's first byte to the last byte of its answer; waiting for
    a turn comes on top. `health` takes note of how each request ends.
    """

    def __init__(self, shared: Shared, context: ssl.SSLContext, health: Health) -> None:
        url = shared.settings.ibkr_gateway_url
        self.context = context
        self.health = health
        self.pacing = shared.pacing
        self._parts = urlsplit(url)
        self._timing = shared.timing
        self._now = shared.now
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/") + API_PATH,
            verify=context,
            limits=LIMITS,
            # Neither a proxy nor ~/.netrc may redirect a brokerage session.
            trust_env=False,
            follow_redirects=False,
            timeout=None,  # every request has a deadline over all of it
            headers={"User-Agent": f"trio_bridge/{__version__}", "Accept": "application/json"},
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def ask(
        self,
        endpoint: EndpointLimit,
        *,
        read: Callable[[object], T] = as_is,
        query: Mapping[str, str] | None = None,
        slow: bool = False,
        **path: object,
    ) -> Answer[T]:
        """Make one request, when its turn comes, and return what `read` makes of the JSON.

        Args:
            endpoint: what to ask.
            read: turns the decoded JSON into a value, or raises ShapeError.
            query: the URL's parameters.
            slow: whether the answer may take `Timing.slow_answer_s`.
            path: replaces the braces in the endpoint's path.

        Raises:
            NoAnswerError: no answer came in time.
            LoggedOutError: the gateway has no login.
            PausedError: the gateway wants a pause; until it ends nothing is sent.
            AnswerError: any other answer than the expected document with status 200.
        """
        url = endpoint.path.format(**path)
        account = str(path.get("account", ""))
        timeout_s = self._timing.slow_answer_s if slow else self._timing.answer_s
        asked_at = math.inf
        try:
            async with self.pacing.turn(endpoint, patience_s=timeout_s) as progress:
                if self.pacing.pause_s > 0:
                    raise PausedError(
                        f"the gateway wants no requests for {self.pacing.pause_s:.0f} s"
                    )
                asked_at = trio.current_time()
                value = read(await self._send(endpoint, url, query, timeout_s, progress))
        except trio.TooSlowError:
            silence = await self._nobody_answers()
            self.health.note(endpoint, silence, account)
            raise silence from None
        except GatewayError as error:
            if asked_at < math.inf:
                self.health.note(endpoint, error, account)
            raise
        except ShapeError as error:
            useless = AnswerError(f"{endpoint.method} {url}: {error}")
            self.health.note(endpoint, useless, account)
            raise useless from error
        self.health.note(endpoint, None, account)
        return Answer(value, asked_at)

    async def knock(self) -> None:
        """Check, without a request, that the gateway's port is open.

        Raises:
            NoAnswerError: it is not.
        """
        host, port = self._parts.hostname or "", self._parts.port or 443
        try:
            with trio.fail_after(self._timing.answer_s):
                stream = await trio.open_tcp_stream(host, port)
        except (OSError, UnicodeError, trio.TooSlowError) as error:
            self._note_refusal(error)
            raise NoAnswerError(f"{host}:{port} does not take connections: {error}") from error
        await trio.aclose_forcefully(stream)

    async def _nobody_answers(self) -> NoAnswerError:
        """Nothing could be sent, for earlier requests are unanswered; or nobody is there."""
        try:
            await self.knock()
        except NoAnswerError as error:
            return error
        return NoAnswerError("earlier requests are still unanswered")

    def _note_refusal(self, error: BaseException) -> None:
        """A port where nobody listens: the gateway has ended, and with it all that it owed."""
        if any(isinstance(one, ConnectionRefusedError) for one in _causes(error)):
            self.pacing.unanswered.forget()

    async def _send(
        self,
        endpoint: EndpointLimit,
        path: str,
        query: Mapping[str, str] | None,
        timeout_s: float,
        progress: Progress,
    ) -> object:
        where = f"{endpoint.method} {path}"
        self.pacing.requests += 1
        body = orjson.dumps(endpoint.body) if endpoint.method == "POST" else b""
        headers = {"Content-Type": "application/json"} if body else None
        opened = _Opened(progress)
        try:
            with trio.fail_after(timeout_s):
                request = self._http.build_request(
                    endpoint.method,
                    path,
                    params=query,
                    content=body or None,
                    headers=headers,
                    extensions={"trace": opened.note},
                )
                request.stream = _Body(body)
                try:
                    response = await self._http.send(request, stream=True)
                except trio.Cancelled:
                    await opened.aclose()
                    raise
                try:
                    content = await _read_all(response, where)
                finally:
                    with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                        await response.aclose()
        except trio.TooSlowError:
            raise NoAnswerError(f"{where}: no answer within {timeout_s:g} s") from None
        except httpx.ConnectError as error:
            self._note_refusal(error)
            remedy = UNTRUSTED_REMEDY if _is_untrusted(error) else ""
            raise NoAnswerError(f"cannot connect: {reason_of(error)}", remedy=remedy) from error
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            progress.closed()
            raise NoAnswerError(f"{where}: {reason_of(error)}") from error
        self.pacing.answers += 1
        return self._understand(where, response, content)

    def _understand(self, where: str, response: httpx.Response, content: bytes) -> object:
        status = response.status_code
        if status == HTTP_TOO_MANY:
            pause_s = self._retry_after_s(response.headers.get("Retry-After"))
            self.pacing.pause(pause_s)
            raise PausedError(f"{where}: HTTP 429, the gateway wants a pause of {pause_s:.0f} s")
        if status in LOGGED_OUT_CODES:
            raise LoggedOutError(f"{where}: HTTP {status}, not logged in", status)
        if status != HTTP_OK:
            raise AnswerError(f"{where}: HTTP {status}{_shown(content)}", status)
        try:
            return orjson.loads(content)
        except orjson.JSONDecodeError:
            raise AnswerError(f"{where}: not JSON{_shown(content)}") from None

    def _retry_after_s(self, header: str | None) -> float:
        """Seconds of a Retry-After header, which holds a number or a date (RFC 9110)."""
        seconds = PENALTY_S
        if header is not None:
            try:
                seconds = float(header)
            except ValueError:
                try:
                    seconds = (parsedate_to_datetime(header) - self._now()).total_seconds()
                except (ValueError, TypeError):
                    return PENALTY_S
        return min(max(seconds, 1.0), LONGEST_PAUSE_S) if seconds == seconds else PENALTY_S


class _Body(httpx.AsyncByteStream):
    """A request's body. httpx's own is an async generator, which an abandoned request would leave
    to the garbage collector."""

    def __init__(self, content: bytes) -> None:
        self._parts = [content] if content else []

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


class _Opened:
    """The TCP connection that a request has opened, if it did not reuse one. Notes the request's
    progress.

    httpcore (1.0) leaks it when the request is cancelled during the TLS handshake: it closes after
    an `Exception`, which trio.Cancelled is not. Left to the garbage collector, a gateway that hangs
    there costs about 90 descriptors (measured), and their warnings appear anywhere.
    https://www.encode.io/httpcore/extensions/#trace
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def note(self, event: str, info: Mapping[str, Any]) -> None:
        match event:
            case "connection.connect_tcp.complete":
                self._stream = info["return_value"]
            case "http11.send_request_headers.started":
                self._progress.sent()
            case "http11.receive_response_headers.complete":
                self._progress.answered()

    async def aclose(self) -> None:
        if self._stream is not None:
            with trio.CancelScope(shield=True):  # closing a plain socket never waits
                await self._stream.aclose()


async def _read_all(response: httpx.Response, where: str) -> bytes:
    content = bytearray()
    # Always to its end: an unfinished iterator of httpx would be left to the garbage collector.
    async for chunk in response.aiter_bytes():
        if len(content) <= LARGEST_ANSWER:
            content += chunk
    if len(content) > LARGEST_ANSWER:
        raise AnswerError(f"{where}: the answer is larger than {LARGEST_ANSWER >> 20} MiB")
    return bytes(content)


def reason_of(error: BaseException) -> str:
    """Why a connection failed: the innermost cause with a text, for each address that failed."""
    cause: BaseException | None = error
    innermost = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            return "; ".join(dict.fromkeys(map(reason_of, leaves(cause))))
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the gateway's certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError) and cause.errno:
            # Unknown host names have numbers and texts of their own.
            return (os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)).lower()
        innermost = cause if str(cause) else innermost
        cause = cause.__cause__ or cause.__context__
    return str(innermost) or type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and everything that led to it, at each of several addresses."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _causes(one)
    elif (cause := error.__cause__ or error.__context__) is not None:
        yield from _causes(cause)


def _is_untrusted(error: BaseException) -> bool:
    """Whether the certificate was refused, be it at one of several addresses."""
    return any(isinstance(one, ssl.SSLCertVerificationError) for one in _causes(error))


def _shown(content: bytes) -> str:
    """The beginning of an unusable answer."""
    text = clean(content[: 4 * TEXT_SHOWN].decode("utf-8", "replace"), TEXT_SHOWN)
    return f": {text}" if text else ""
