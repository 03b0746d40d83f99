"""An endpoint to knock at: over raw sockets, so that clients can be as bad as they like."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import orjson
import psycopg
import trio

from tests.support.process import PATIENCE_S as START_PATIENCE_S
from tests.support.process import ServiceProcess, free_port, running_service
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import TwsSimulator, open_tws_simulator
from trio_bridge.web.connections import prepare, serve

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator
    from pathlib import Path

    from starlette.types import ASGIApp

    from trio_bridge.simulator.book import Book

PATIENCE_S = 25.0
"""For an answer or a page: less than the endpoint waits for a database (ANSWER_TIMEOUT_S)."""


@dataclass
class Watched:
    """A running service with an endpoint, the gateway it talks to, and how to ask it."""

    service: ServiceProcess
    gateway: TwsSimulator
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def client(self, **headers: str) -> httpx.AsyncClient:
        return client(self.port, **headers)

    async def wait_ready(self, **headers: str) -> None:
        """Until a valid row is safe."""
        async with self.client(**headers) as http:
            with trio.fail_after(START_PATIENCE_S):
                while True:
                    with suppress(httpx.TransportError):
                        if (await http.get("/readyz")).status_code == httpx.codes.OK:
                            return
                    assert self.service.process.returncode is None, self.service.output
                    await trio.sleep(0.05)


async def is_answering(service: ServiceProcess, port: int) -> None:
    """Wait until the endpoint does."""
    async with client(port) as http:
        with trio.fail_after(START_PATIENCE_S):
            while True:
                with suppress(httpx.TransportError):
                    await http.get("/healthz")
                    return
                assert service.process.returncode is None, service.output
                await trio.sleep(0.05)


@asynccontextmanager
async def watched_service(
    home: Path, database: str, *, book: Book | None = None, **settings: object
) -> AsyncIterator[Watched]:
    """The real thing: a service process on a simulated gateway and a real database."""
    port = int(str(settings.get("BRIDGE_STATUS_PORT") or free_port()))
    wanted = {
        "BRIDGE_STATUS_PORT": port,
        "BRIDGE_POLL_INTERVAL": 0.2,
        "BRIDGE_RECONNECT_BACKOFF": "0.2",
        **settings,
    }
    async with (
        open_tws_simulator(book or make_book(accounts=2)) as gateway,
        running_service(
            home,
            IB_SOCKET_PORT=gateway.port,
            DATABASE_URL=database,
            **wanted,
        ) as service,
    ):
        yield Watched(service, gateway, port)


@contextmanager
def in_background(home: Path, database: str, **settings: object) -> Iterator[str]:
    """The same beside the tests, for several of them; gives the page's address."""
    started: SimpleQueue[tuple[str, trio.lowlevel.TrioToken, trio.CancelScope]] = SimpleQueue()

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with watched_service(home, database, book=None, **settings) as here:
                await here.wait_ready()
                started.put((here.url, trio.lowlevel.current_trio_token(), scope))
                await trio.sleep_forever()

    thread = Thread(target=trio.run, args=(main,))
    thread.start()
    url, token, scope = started.get(timeout=2 * START_PATIENCE_S)
    try:
        yield url
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join()


def record_the_quarter_before(conninfo: str, interval_s: float) -> None:
    """Complete rows, as if the service had run for 15 minutes already: charts to look at."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        slots = {"interval_s": interval_s, "rows": round(900 / interval_s)}
        connection.execute(QUARTER, slots)


QUARTER = """
    INSERT INTO portfolio_greeks
        (timestamp, account, delta, gamma, vega, theta, underlying_price, positions, priced)
    SELECT timestamp - n * make_interval(secs => %(interval_s)s), account,
           delta * (1 + sin(n * %(interval_s)s / 90) / 30 + random() / 50),
           gamma * (1 + sin(n * %(interval_s)s / 70) / 40),
           vega * (1 + cos(n * %(interval_s)s / 50) / 50),
           theta * (1 + sin(n * %(interval_s)s / 60) / 60),
           underlying_price + 10 * sin(n * %(interval_s)s / 100), positions, priced
    FROM (SELECT * FROM portfolio_greeks ORDER BY timestamp LIMIT 1) AS first,
         generate_series(1, %(rows)s) AS n
"""


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[int]:
    """Serve an application on this machine; gives the port."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    prepare(listeners[0])
    port: int = listeners[0].socket.getsockname()[1]
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, app, listeners)
            yield port
            nursery.cancel_scope.cancel()
    finally:
        listeners[0].socket.close()


def client(port: int, **headers: str) -> httpx.AsyncClient:
    """With connections of its own."""
    limits = httpx.Limits(max_connections=200)
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers=headers,
        timeout=PATIENCE_S,
        trust_env=False,
        limits=limits,
    )


async def talk(port: int, text: bytes) -> bytes:
    """Send bytes, and return what comes until the other side closes the connection."""
    answer = b""
    with trio.fail_after(PATIENCE_S):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(_send, stream, text)
            with suppress(trio.BrokenResourceError):  # closed with something of ours unread
                while piece := await stream.receive_some(65_536):
                    answer += piece
            nursery.cancel_scope.cancel()
    return answer


async def _send(stream: trio.SocketStream, text: bytes) -> None:
    with suppress(trio.BrokenResourceError):
        await stream.send_all(text)


class Told(NamedTuple):
    """One message of `/events`."""

    kind: str
    data: Any


@asynccontextmanager
async def following(port: int) -> AsyncIterator[AsyncIterator[Told]]:
    """A live stream, opened: what has been told comes out as it arrives."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(get("/events"))
        reader = _messages(stream)
        async with aclosing(reader):
            yield reader


async def _messages(stream: trio.SocketStream) -> AsyncGenerator[Told]:
    """Each message comes whole in one chunk, so lines of the chunks' sizes are in between only."""
    waiting, kind = b"", ""
    while piece := await stream.receive_some(65_536):
        *lines, waiting = (waiting + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"HTTP/1.1 ") and b" 200 " not in line:
                raise AssertionError(line)
            if line.startswith(b"event: "):
                kind = line.removeprefix(b"event: ").decode()
            elif line.startswith(b"data: "):
                yield Told(kind, orjson.loads(line.removeprefix(b"data: ")))


def get(path: str, *headers: str, host: str = "localhost") -> bytes:
    """A request as bytes."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
