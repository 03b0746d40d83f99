"""HTTP connections: hypercorn's protocol and Trio worker, with every wait and number bounded.

hypercorn sends to a client within a shield and without a limit, so a client that does not read
would hold up the end of the whole process; and it takes as many connections as come, so a flood of
them would use up the descriptors that the recording needs. Both are bounded here, on the streams
that it is given: a send gets `SEND_TIMEOUT_S`, and no more than `MOST_CONNECTIONS` are accepted at
a time. When `serve` is cancelled all of them are closed on the spot.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import ASGIApp

MOST_CONNECTIONS = 160
"""64 live streams and some more; far below the 1024 descriptors that a process usually has."""

SEND_TIMEOUT_S = 10.0
"""For one piece of an answer: a client that takes nothing for this long is gone."""

IDLE_TIMEOUT_S = 10.0
"""For the head of a request, and for the pause between two of them."""

QUIET_TIMEOUT_S = 60.0
"""For connections that no other limit covers, such as HTTP/2 without a request. A live stream is
never this quiet."""

LOOK_EVERY = 0.25
"""How often to check for quiet connections, as a part of that time."""

SEND_BUFFER_BYTES = 128 * 1024
"""The kernel's buffer of a connection: more would only hide that a client does not read."""

COMPLAIN_EVERY_S = 60.0
LARGEST_HEAD_BYTES = 16 * 1024
BACKLOG = 64

log = structlog.get_logger()


class PatientStream(trio.abc.HalfCloseableStream):
    """A connection whose peer must read, and that can be closed during a send."""

    def __init__(
        self, stream: trio.SocketStream, on_close: Callable[[PatientStream], None]
    ) -> None:
        self._stream = stream
        self.active_s = trio.current_time()
        self._on_close: Callable[[PatientStream], None] | None = on_close

    @property
    def socket(self) -> trio.socket.SocketType:
        """hypercorn asks it for both ends' addresses."""
        return self._stream.socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Raises trio.BrokenResourceError too when the peer does not take it in time."""
        with trio.move_on_after(SEND_TIMEOUT_S):
            await self._stream.send_all(data)
            self.active_s = trio.current_time()
            return
        self.close()
        raise trio.BrokenResourceError("the client does not read")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self.active_s = trio.current_time()
        return data

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """At once; a task that waits for the peer gets trio.ClosedResourceError."""
        self.socket.close()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close(self)


class Door(trio.abc.Listener[PatientStream]):
    """A listener with room for a limited number of connections; further ones wait."""

    def __init__(self, listener: trio.SocketListener, room: trio.Semaphore) -> None:
        self._listener = listener
        self._room = room
        self.streams: set[PatientStream] = set()

    async def accept(self) -> PatientStream:
        await self._room.acquire()
        try:
            accepted = await self._listener.accept()
        except BaseException:
            self._room.release()
            raise
        stream = PatientStream(accepted, self._closed)
        self.streams.add(stream)
        return stream

    async def aclose(self) -> None:
        """Stays open: the listener's owner closes it."""
        await trio.lowlevel.checkpoint()

    def close_streams(self, *, quiet_since_s: float = math.inf) -> None:
        """Those on which nothing has been sent or received since."""
        for stream in tuple(self.streams):
            if stream.active_s <= quiet_since_s:
                stream.close()

    def _closed(self, stream: PatientStream) -> None:
        self.streams.discard(stream)
        self._room.release()


def prepare(listener: trio.SocketListener) -> None:
    """Accepted connections inherit this."""
    listener.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, SEND_BUFFER_BYTES)


async def serve(app: ASGIApp, listeners: Sequence[trio.SocketListener]) -> None:
    """Answer requests until cancelled. The listeners stay open."""
    config = _config()
    context = WorkerContext(None)
    wrapped = ASGIWrapper(cast("Any", app))  # it has types of its own for the same thing
    room = trio.Semaphore(MOST_CONNECTIONS)
    doors = [Door(listener, room) for listener in listeners]
    complained_s = -math.inf

    async def handle(stream: PatientStream) -> None:
        nonlocal complained_s
        # hypercorn names only the TLS stream, but asks what it gets.
        connection = TCPServer(wrapped, config, context, ConnectionState({}), cast("Any", stream))
        try:
            await connection
        except Exception as error:
            # It must not affect the other connections, nor fill the log.
            if trio.current_time() - complained_s >= COMPLAIN_EVERY_S:
                complained_s = trio.current_time()
                log.error("status endpoint: a connection failed", exc_info=error)
        finally:
            stream.close()

    async with trio.open_nursery() as connections:
        connections.start_soon(_close_quiet, doors)
        try:
            await trio.serve_listeners(handle, doors, handler_nursery=connections)
        finally:
            # The nursery waits for its tasks, and they may be within hypercorn's shield.
            await context.terminated.set()
            for door in doors:
                door.close_streams()


async def _close_quiet(doors: Sequence[Door]) -> None:
    while True:
        await trio.sleep(QUIET_TIMEOUT_S * LOOK_EVERY)
        for door in doors:
            door.close_streams(quiet_since_s=trio.current_time() - QUIET_TIMEOUT_S)


def _config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.keep_alive_timeout = IDLE_TIMEOUT_S
    config.h11_max_incomplete_size = LARGEST_HEAD_BYTES
    config.h2_max_concurrent_streams = 8
    config.websocket_max_message_size = LARGEST_HEAD_BYTES
    return config
