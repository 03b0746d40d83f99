"""HTTP connections: hypercorn's protocol and Trio worker, with every wait and number bounded.

hypercorn sends to a client within a shield and without a limit, so a client that does not read
would hold up the end of the whole process; and it takes as many connections as come, so a flood of
them would use up the descriptors that the recording needs. Both are bounded here, on the streams
that it is given: a send gets `SEND_TIMEOUT_S`, and when there are more than `MOST_CONNECTIONS` the
one is closed that has been given nothing for the longest time. So a health probe gets in at once,
however many clients hold on to connections that they don't use. When `serve` is cancelled all of
them are closed on the spot.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from trio_bridge.logs import Log

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
"""For connections that no other limit covers, such as HTTP/2 without a request, or a request that
comes in drips. Longer than any answer takes to begin; a live stream is never this quiet."""

LOOK_EVERY = 0.25
"""How often to check for quiet connections, as a part of that time."""

SEND_BUFFER_BYTES = 128 * 1024
"""The kernel's buffer of a connection: more would only hide that a client does not read."""

COMPLAIN_EVERY_S = 60.0
LARGEST_HEAD_BYTES = 16 * 1024
BACKLOG = 64

log = Log()


class PatientStream(trio.abc.HalfCloseableStream):
    """A connection whose peer must read, and that can be closed during a send."""

    def __init__(
        self, stream: trio.SocketStream, on_close: Callable[[PatientStream], None]
    ) -> None:
        self._stream = stream
        self.served_s = trio.current_time()
        """When its peer last took something; at first when it came."""
        self._on_close: Callable[[PatientStream], None] | None = on_close

    @property
    def socket(self) -> trio.socket.SocketType:
        """hypercorn asks it for both ends' addresses."""
        return self._stream.socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Raises trio.BrokenResourceError too when the peer does not take it in time."""
        with trio.move_on_after(SEND_TIMEOUT_S):
            await self._stream.send_all(data)
            self.served_s = trio.current_time()
            return
        self.close()
        raise trio.BrokenResourceError("the client does not read")

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

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


class Lobby:
    """All open connections, whichever listener they came by."""

    def __init__(self) -> None:
        self._streams: set[PatientStream] = set()

    def admit(self, accepted: trio.SocketStream) -> PatientStream:
        """Take a connection in; one that is over the limit takes the place of the idlest."""
        if len(self._streams) >= MOST_CONNECTIONS:
            min(self._streams, key=lambda one: one.served_s).close()
        stream = PatientStream(accepted, self._streams.discard)
        self._streams.add(stream)
        return stream

    def close(self, *, unserved_since_s: float = math.inf) -> None:
        """Close those whose peer has taken nothing since."""
        for stream in tuple(self._streams):
            if stream.served_s <= unserved_since_s:
                stream.close()


class Door(trio.abc.Listener[PatientStream]):
    """A listener whose connections are in a lobby."""

    def __init__(self, listener: trio.SocketListener, lobby: Lobby) -> None:
        self._listener = listener
        self._lobby = lobby

    async def accept(self) -> PatientStream:
        return self._lobby.admit(await self._listener.accept())

    async def aclose(self) -> None:
        """Stays open: the listener's owner closes it."""
        await trio.lowlevel.checkpoint()


def prepare(listener: trio.SocketListener) -> None:
    """Accepted connections inherit this."""
    listener.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, SEND_BUFFER_BYTES)


async def serve(app: ASGIApp, listeners: Sequence[trio.SocketListener]) -> None:
    """Answer requests until cancelled. The listeners stay open."""
    config = _config()
    context = WorkerContext(None)
    wrapped = ASGIWrapper(cast("Any", app))  # it has types of its own for the same thing
    lobby = Lobby()
    doors = [Door(listener, lobby) for listener in listeners]
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
        connections.start_soon(_close_quiet, lobby)
        try:
            await trio.serve_listeners(handle, doors, handler_nursery=connections)
        finally:
            # The nursery waits for its tasks, and they may be within hypercorn's shield.
            await context.terminated.set()
            lobby.close()


async def _close_quiet(lobby: Lobby) -> None:
    while True:
        await trio.sleep(QUIET_TIMEOUT_S * LOOK_EVERY)
        lobby.close(unserved_since_s=trio.current_time() - QUIET_TIMEOUT_S)


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
