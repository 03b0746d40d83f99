"""A simulated Client Portal Gateway: one book behind REST over self-signed TLS.

    async with open_portal_simulator(make_book()) as sim:
        ...  # a client talks to sim.url

It holds its clients to the real gateway's rules (`rules`), and when it ends it fails loudly if one
of them did what a read-only bridge must never do. On the command line:

    python -m trio_bridge.simulator.portal --port 5000

What a test can have of it, beside the book (prices, quirks of contracts, `book.money`):

==================  ==============================================================================
everything          faults(Fault(…)): error status, web page, text, hang, drip, late; for a part of
                    the path ("" for all); denies_address; rules.penalize; stop, start
upstream            upstream.hang, upstream.refuse, upstream.come_back, upstream.queued
the login           login.log_out, log_in, brokerage, competing, connected, can_open, established,
                    message; rules.person_logs_in
accounts            account_lists.master (an adviser's login), account_lists.missing (by list),
                    account_lists.refuses_long_list; quirks.null_figures
positions           quirks.multiplier_in_positions, quirks.bare_positions, quirks.zero_strike, …
definitions         quirks.multiplier_in_secdef, quirks.multiplier_in_info, quirks.magnification,
                    quirks.magnifier_in_rules, quirks.hidden_underlyings
market data         quirks.availability (6509), quirks.decimals, quirks.decimals_of,
                    quirks.definition_first, quirks.field_delay_s, quirks.prior_close_prefix
the WebSocket       websocket.refused, refusal (page, cookies), mute, deaf, binary, ignores_cookies,
                    subscription_life_s, drop
TLS                 open_portal_simulator(…, vendor_tls=True): certificate, TLS 1.2, no ALPN, chunks
==================  ==============================================================================
"""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
import trustme
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route, WebSocketRoute

from trio_bridge.simulator.portal.certificate import vendor_certificate
from trio_bridge.simulator.portal.gateway import PortalSimulator, RulesBrokenError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.requests import Request

    from trio_bridge.simulator.book import Book

__all__ = ["RulesBrokenError", "ServedPortal", "open_portal_simulator"]

API_PATH: Final = "/v1/api"
START_TIMEOUT_S: Final = 10.0
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")


class ServedPortal(PortalSimulator):
    """A simulator on a local port; it can go down and come back on the same port."""

    def __init__(
        self,
        book: Book,
        nursery: trio.Nursery,
        *,
        host: str,
        port: int,
        clock: Callable[[], float],
        vendor_tls: bool,
    ) -> None:
        super().__init__(book, clock=clock)
        self.host = host
        self.port = port
        self.chunked = vendor_tls
        self._vendor_tls = vendor_tls
        if vendor_tls:
            self._certificate = vendor_certificate()
            ca_pem = self._certificate.cert_chain_pems[0]
        else:
            authority = trustme.CA(organization_name="trio_bridge simulated portal")
            self._certificate = authority.issue_cert("localhost", host)
            ca_pem = authority.cert_pem
        self.ca_pem = ca_pem
        """The CA that verifies its certificate, or (vendor_tls) the certificate itself."""
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self._app = Starlette(
            routes=[
                WebSocketRoute(API_PATH + "/ws", self.stream),
                Route(API_PATH + "/{path:path}", self.answer, methods=list(METHODS)),
                Route("/", _login_page),
            ]
        )

    @property
    def url(self) -> str:
        """The value for IBKR_GATEWAY_URL."""
        return f"https://{self.host}:{self.port}"

    async def start(self) -> None:
        """Start taking requests."""
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        with trio.fail_after(START_TIMEOUT_S):
            await self._nursery.start(self._serve)

    async def stop(self) -> None:
        """Close the port and every connection, as if the gateway's process had ended."""
        self._scope.cancel()
        await self._stopped.wait()

    async def _serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        config = _MemoryTlsConfig(self._certificate, self.host, self.port, self._vendor_tls)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    binds = await nursery.start(partial(serve, self._app, config, mode="asgi"))  # type: ignore[arg-type]
                    self.port = int(binds[0].rpartition(":")[2])
                    task_status.started()
        finally:
            self._stopped.set()


@asynccontextmanager
async def open_portal_simulator(
    book: Book,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    clock: Callable[[], float] = trio.current_time,
    vendor_tls: bool = False,
) -> AsyncGenerator[ServedPortal]:
    """Serve a book; leaving the block ends it.

    Args:
        book: what is served.
        host: an address of this machine.
        port: 0 for any free port.
        clock: for pacing, sessions and streams.
        vendor_tls: the real gateway's kind of certificate, TLS 1.2 without ALPN, chunked bodies.

    Raises:
        RulesBrokenError: at the end, if a client did something forbidden.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        sim = ServedPortal(book, nursery, host=host, port=port, clock=clock, vendor_tls=vendor_tls)
        await sim.start()
        try:
            yield sim
        except Exception as error:
            # Kept out of the nursery, which would wrap it in a group.
            failure = error
        nursery.cancel_scope.cancel()
    if failure is None:
        sim.check()
    else:
        for violation in sim.rules.violations:
            failure.add_note(f"the simulator saw what a bridge must never do: {violation}")
        raise failure


class _MemoryTlsConfig(Config):
    """Hypercorn's settings, with a certificate that is held in memory."""

    def __init__(
        self, certificate: trustme.LeafCert, host: str, port: int, vendor_tls: bool
    ) -> None:
        super().__init__()
        self._certificate = certificate
        self._vendor_tls = vendor_tls
        self.bind = [f"{host}:{port}"]
        self.errorlog = None
        # Clients that have gone away must not delay the end.
        self.graceful_timeout = 0.1

    @property
    def ssl_enabled(self) -> bool:
        return True

    def create_ssl_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        if self._vendor_tls:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        else:
            context.set_alpn_protocols(["http/1.1"])
        self._certificate.configure_cert(context)
        return context


async def _login_page(request: Request) -> HTMLResponse:
    return HTMLResponse("<html><body>Client login succeeds</body></html>")
