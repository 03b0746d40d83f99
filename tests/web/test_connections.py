"""Bad clients over real sockets: whatever they do, it is over in time and nobody else notices."""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
from starlette.responses import PlainTextResponse, Response
from structlog.testing import capture_logs

from tests.web.support import PATIENCE_S, client, get, serving, talk
from trio_bridge.web import connections
from trio_bridge.web.access import Access
from trio_bridge.web.guard import Guard

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LARGE = b"x" * 8_000_000
HELLO = PlainTextResponse("hello")


def guarded(app: ASGIApp) -> Guard:
    return Guard(app, Access(None, 1), turn_away=PlainTextResponse("no", 401))


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(LARGE)(scope, receive, send)


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SEND_TIMEOUT_S", 0.5)
    monkeypatch.setattr(connections, "IDLE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(connections, "QUIET_TIMEOUT_S", 1.0)


async def test_an_answer_arrives_whole() -> None:
    async with serving(guarded(large)) as port, client(port) as http:
        assert (await http.get("/")).content == LARGE


@pytest.mark.usefixtures("short_patience")
async def test_a_client_that_does_not_read_is_let_go() -> None:
    ended = trio.Event()

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await large(scope, receive, send)
        finally:
            ended.set()

    async with serving(guarded(watched)) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(get("/"))
        with trio.fail_after(PATIENCE_S):
            await ended.wait()
            received = 0
            with suppress(trio.BrokenResourceError):
                while piece := await stream.receive_some(1_000_000):
                    received += len(piece)
        assert received < len(LARGE)
        await stream.aclose()


async def test_a_client_that_does_not_read_does_not_hold_up_the_end() -> None:
    """hypercorn sends within a shield: without our own limit this would hang for ever."""
    stream = None
    with trio.fail_after(connections.SEND_TIMEOUT_S - 1):
        async with serving(guarded(large)) as port:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(get("/"))
            assert await stream.receive_some(10)
            await trio.sleep(0.2)
    await stream.aclose()


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize("head", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-"])
async def test_a_request_that_never_ends_is_not_waited_for(head: bytes) -> None:
    async with serving(guarded(HELLO)) as port:
        with trio.fail_after(PATIENCE_S):
            await talk(port, head)


NONSENSE = {
    "zeros": b"\x00\x01\x02\x03\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: other\r\n\r\n",
    "negative length": get("/", "Content-Length: -1"),
    "two lengths": get("/", "Content-Length: 1", "Content-Length: 2"),
    "not ASCII": b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "long path": get("/" + "a" * 200_000),
    "long header": get("/", "X-Large: " + "a" * 200_000),
    "many headers": get("/", *(f"X-{n}: {'a' * 50}" for n in range(4_000))),
    "long word": b"A" * 100_000,
}


@pytest.mark.parametrize("request_bytes", NONSENSE.values(), ids=NONSENSE)
async def test_nonsense_and_giants_are_refused(request_bytes: bytes) -> None:
    async with serving(guarded(HELLO)) as port:
        answer = await talk(port, request_bytes)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
        async with client(port) as http:
            assert (await http.get("/")).text == "hello"


@pytest.mark.parametrize("app", [HELLO, large], ids=["small answer", "large answer"])
async def test_a_body_that_nobody_asked_for_is_not_waited_for(app: ASGIApp) -> None:
    """hypercorn itself would wait for ever for somebody to take it."""
    whole = get("/", f"Content-Length: {len(LARGE)}", "Connection: close") + LARGE
    pieces = b"".join(b"10000\r\n%s\r\n" % LARGE[:65_536] for _ in range(40)) + b"0\r\n\r\n"
    chunked = get("/", "Transfer-Encoding: chunked", "Connection: close") + pieces
    async with serving(guarded(app)) as port, client(port) as http:
        for _ in range(3):
            await talk(port, whole)
            await talk(port, chunked)
            assert (await http.get("/")).status_code == 200


async def test_a_small_one_is_taken_and_forgotten() -> None:
    request = get("/", "Content-Length: 50000", "Connection: close") + b"x" * 50_000
    async with serving(guarded(HELLO)) as port:
        assert b"hello" in await talk(port, request)


async def test_a_body_that_never_comes_does_not_delay_the_answer() -> None:
    async with serving(guarded(HELLO)) as port:
        answer = await talk(port, get("/", "Content-Length: 1000000") + b"some of it")
        assert b"hello" in answer


async def test_requests_may_come_all_at_once() -> None:
    requests = get("/") * 20 + get("/", "Connection: close")
    async with serving(guarded(HELLO)) as port:
        assert (await talk(port, requests)).count(b"hello") == 21


async def test_the_next_request_may_use_the_same_connection() -> None:
    async with serving(guarded(HELLO)) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        for _ in range(3):
            await stream.send_all(get("/"))
            with trio.fail_after(PATIENCE_S):
                answer = b""
                while not answer.endswith(b"hello"):
                    answer += await stream.receive_some(10_000)
        await stream.aclose()


OTHERS = {
    "WebSocket": get(
        "/",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    "HTTP/2 by upgrade": get(
        "/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"
    ),
    "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]),
    "broken HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(200),
}


@pytest.mark.parametrize("request_bytes", OTHERS.values(), ids=OTHERS)
@pytest.mark.usefixtures("short_patience")
async def test_other_protocols_do_no_harm(request_bytes: bytes) -> None:
    async with serving(guarded(HELLO)) as port:
        await talk(port, request_bytes)
        async with client(port) as http:
            assert (await http.get("/")).text == "hello"


async def drip(stream: trio.SocketStream, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    """A request that comes in drips and never ends; until the other side closes."""
    await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    task_status.started()
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while True:
            await stream.send_all(b"x")
            await trio.sleep(0.05)


async def hold(stream: trio.SocketStream, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    task_status.started()


async def watch(stream: trio.SocketStream, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    """A live stream that nobody reads."""
    await stream.send_all(get("/events"))
    task_status.started()


async def live(scope: Scope, receive: Receive, send: Send) -> None:
    """A stream at /events that says something now and then; hello elsewhere."""
    if scope["path"] != "/events":
        await HELLO(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"news", "more_body": True})
        await trio.sleep(0.05)


@pytest.mark.parametrize("client", [hold, drip, watch], ids=["idle", "drips", "unread streams"])
async def test_a_probe_gets_in_at_once_however_many_hold_on_to_their_connections(
    monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    """None of the limits of time helps it: they are as long as ever, and the test is shorter."""
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 5)
    async with serving(guarded(live)) as port, trio.open_nursery() as nursery:
        others = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(12)]
        for stream in others:
            await nursery.start(client, stream)
        with trio.fail_after(connections.IDLE_TIMEOUT_S / 2):
            for _ in range(3):
                assert b"hello" in await talk(port, get("/healthz", "Connection: close"))
        for stream in others:
            await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()


async def test_who_reads_his_stream_keeps_it_while_others_hold_on_to_idle_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 5)
    async with serving(guarded(live)) as port:
        reader = await trio.open_tcp_stream("127.0.0.1", port)
        await reader.send_all(get("/events"))
        with trio.fail_after(PATIENCE_S):
            for _ in range(12):
                idle = await trio.open_tcp_stream("127.0.0.1", port)
                assert b"hello" in await talk(port, get("/", "Connection: close"))
                for _ in range(3):
                    assert await reader.receive_some(65_536)
                await trio.aclose_forcefully(idle)
        await reader.aclose()


async def test_a_client_that_goes_away_ends_what_was_done_for_him() -> None:
    began, cancelled = trio.Event(), trio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        began.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.set()
            raise

    async with serving(guarded(slow)) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(get("/"))
        with trio.fail_after(PATIENCE_S):
            await began.wait()
            await stream.aclose()
            await cancelled.wait()


async def test_a_failing_request_is_logged_and_answered_and_harms_no_other() -> None:
    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("a bug")

    with capture_logs() as logs:
        async with serving(guarded(failing)) as port, client(port) as http:
            for _ in range(3):
                answer = await http.get("/")
                assert answer.status_code == 503
                assert "a bug" not in answer.text
    failures = [entry for entry in logs if entry["event"] == "status endpoint: a request failed"]
    assert len(failures) == 3
    assert isinstance(failures[0]["exc_info"], LookupError)


async def test_nobody_can_fill_the_log() -> None:
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    broken = head + b"Upgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n"  # no Base64
    with capture_logs() as logs:
        async with serving(guarded(HELLO)) as port, client(port) as http:
            for _ in range(5):
                await talk(port, broken)
            assert (await http.get("/")).text == "hello"
    assert [one["event"] for one in logs] == ["status endpoint: a connection failed"]


async def test_an_answer_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_bridge.web.guard.ANSWER_TIMEOUT_S", 0.3)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    async with serving(guarded(slow)) as port, client(port) as http:
        assert (await http.get("/")).status_code == 503


async def test_the_end_waits_for_nobody() -> None:
    async def forever(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begin", "more_body": True})
        await trio.sleep_forever()

    streams = []
    with trio.fail_after(5):
        async with serving(guarded(forever)) as port:
            connect = functools.partial(trio.open_tcp_stream, "127.0.0.1", port)
            for _ in range(20):
                stream = await connect()
                await stream.send_all(get("/"))
                await stream.receive_some(10)
                streams.append(stream)
    for stream in streams:
        await stream.aclose()
