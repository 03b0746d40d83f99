"""A whole SOCKET session on a virtual clock; a script stands for the gateway and its socket."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import MockClock

from tests.gateways.socket.support import make_settings
from trio_bridge.errors import BridgeError
from trio_bridge.gateways.base import discard_event
from trio_bridge.gateways.socket.bridge import SocketBridge
from trio_bridge.gateways.socket.connection import Connection
from trio_bridge.gateways.socket.details import Details
from trio_bridge.gateways.socket.market_data.lines import MarketLines
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

VERSION = 178
BOOK = make_book(options=3)
VALUES = b"".join(
    [
        *(
            wire.account_summary(0, account, key, "0.00", "USD")
            for account in BOOK.accounts
            for key in ("GrossPositionValue", "InitMarginReq", "MaintMarginReq")
        ),
        wire.account_summary_end(0),
    ]
)
"""What an account without positions is worth: the script's positions come as they may."""


def framed(fields: Sequence[object]) -> bytes:
    """A message of any fields."""
    return wire.framed("".join(f"{field}\0" for field in fields).encode())


def run_session(
    download: Iterable[bytes],
    serving: Sequence[tuple[float, bytes]],
    judge: Callable[[SocketBridge], None],
    *,
    described: bool = False,
) -> list[tuple[str, ...]]:
    """Live through one session; return the messages that the bridge sent.

    Args:
        download: what answers the request for positions.
        serving: what comes then, each with the seconds until the next; `judge` looks at the bridge
            before and after each, and when they have passed.
        described: whether an earlier session has learned the details of all options.

    Raises:
        Exception: what would have ended the service.
    """
    return trio.run(
        _live, b"".join(download), serving, judge, described, clock=MockClock(autojump_threshold=0)
    )


class _Transport:
    def __init__(self, lost: Callable[[], object]) -> None:
        self._lost = lost
        self.sent: list[tuple[str, ...]] = []

    def write(self, data: bytes) -> None:
        self.sent.append(tuple(data[4:].decode().removesuffix("\0").split("\0")))

    def write_eof(self) -> None: ...

    def close(self) -> None:
        asyncio.get_event_loop().call_soon(self._lost)

    def abort(self) -> None:
        self.close()


async def _live(
    download: bytes,
    serving: Sequence[tuple[float, bytes]],
    judge: Callable[[SocketBridge], None],
    described: bool,
) -> list[tuple[str, ...]]:
    settings = make_settings(4001)
    bridge = SocketBridge(settings, emit=discard_event)
    details = {
        one.con_id: Details(one.exchange, one.multiplier, "", magnifier=1.0)
        for one in (BOOK.market.options() if described else ())
    }
    session = Connection(
        settings, discard_event, readiness=bridge._begin(), lines=MarketLines(90), details=details
    )
    bridge._connection = session
    client = session.client.ib.client
    connection: Any = client.conn
    transport = _Transport(lambda: connection.connection_lost(None))

    async def shake_hands(addresses: list[str]) -> None:
        connection.transport = transport
        client.connState, client.clientId = client.CONNECTING, settings.ib_client_id
        connection.data_received(wire.handshake(VERSION, "now"))
        connection.data_received(wire.managed_accounts(BOOK.accounts))
        # The account values are the first request; the others count from 1.
        connection.data_received(wire.next_valid_id(0))
        answer = download + VALUES
        asyncio.get_event_loop().call_later(0.1, connection.data_received, answer)

    async def read() -> None:
        for delay, data in serving:
            judge(bridge)
            session.client._receive(data)
            judge(bridge)
            await trio.sleep(delay)
            judge(bridge)
        session.end()

    session._shake_hands = shake_hands  # type: ignore[method-assign]
    session.client.read = read  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        try:
            await nursery.start(session.run)
            await session.wait_lost()
        except BridgeError:
            pass  # the end of a connection, not of the service
    return transport.sent
