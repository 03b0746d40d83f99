"""A network on this machine that can be cut: it then forwards nothing and closes nothing."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Network:
    """Between whoever connects to `port` and a server of this machine.

    What is sent while it is cut arrives when it is mended, as TCP has it.
    """

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self._server_port = server_port
        self._whole = trio.Event()
        self._whole.set()

    def cut(self) -> None:
        self._whole = trio.Event()

    def mend(self) -> None:
        self._whole.set()

    async def connect(self, near: trio.SocketStream) -> None:
        """Serve one connection to its end."""
        await self._whole.wait()
        async with near:
            with suppress(OSError):
                far = await trio.open_tcp_stream("127.0.0.1", self._server_port)
                async with far, trio.open_nursery() as both:
                    both.start_soon(self._pass_on, near, far)
                    both.start_soon(self._pass_on, far, near)

    async def _pass_on(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while piece := await source.receive_some(65_536):
                await self._whole.wait()
                await sink.send_all(piece)
            await self._whole.wait()
            await sink.send_eof()


@asynccontextmanager
async def open_network(server_port: int) -> AsyncIterator[Network]:
    """A network to a port of this machine."""
    network = Network(server_port)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    network.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, network.connect, listeners)
        yield network
        nursery.cancel_scope.cancel()
