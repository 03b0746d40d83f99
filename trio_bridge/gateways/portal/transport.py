"""httpx on Trio without the one hole that a cancelled request can fall through.

httpcore (1.0) forgets the TCP connection when a request is cancelled during the TLS handshake: its
backend closes it after an `Exception`, which trio.Cancelled is not. The socket would stay open
until the garbage collector finds it.
"""

# ruff: noqa: ASYNC109  # the signatures are httpcore's

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpcore
import httpx
import trio

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

MOST_CONNECTIONS = 10
KEEPALIVE_S = 4.0
"""Shorter than the five seconds after which common servers close an idle connection."""


def tidy_transport(context: ssl.SSLContext) -> httpx.AsyncHTTPTransport:
    """httpx's own transport over a pool that closes what it opens."""
    transport = httpx.AsyncHTTPTransport(verify=context, trust_env=False)
    # httpx offers no way to name the network backend.
    transport._pool = httpcore.AsyncConnectionPool(
        ssl_context=context,
        max_connections=MOST_CONNECTIONS,
        keepalive_expiry=KEEPALIVE_S,
        network_backend=_TidyBackend(),
    )
    return transport


class _TidyBackend(httpcore.TrioBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await super().connect_tcp(host, port, timeout, local_address, socket_options)
        return _TidyStream(stream)


class _TidyStream(httpcore.AsyncNetworkStream):
    """A TCP connection that does not outlive a TLS handshake that failed, for whatever reason."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            with trio.CancelScope(shield=True):  # closing a plain socket never waits
                await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
