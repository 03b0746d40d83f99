"""An endpoint to knock at: over raw sockets, so that clients can be as bad as they like."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import httpx
import trio

from trio_bridge.web.connections import prepare, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp

PATIENCE_S = 20.0


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


def get(path: str, *headers: str, host: str = "localhost") -> bytes:
    """A request as bytes."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
