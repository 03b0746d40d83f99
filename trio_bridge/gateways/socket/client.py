"""ib_async, restricted to what an observer needs.

What it does otherwise, and not here:

- it requests account figures by itself (after a 1102);
- it logs a message that it cannot read and goes on: a missing position makes every row false;
- it keeps the computation before one that it cannot read, which then looks current for ever;
- it knows the current kind of market data, but not the kind of the data that have come;
- it gives every answer about the time to the latest request;
- it treats any message with a request's number as the answer to that request;
- it keeps the error of the last connection that ended, and everything that waited for an answer;
- through eventkit it swallows what our handlers raise (see `Listener.bug`).
"""

from __future__ import annotations

import functools
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import trio
from ib_async import IB, Position
from ib_async.util import globalErrorEvent

from trio_bridge.gateways.socket.ticks import DELAYED_MODEL_TICK, TickFilter
from trio_bridge.model import DataType

if TYPE_CHECKING:
    from asyncio import Transport
    from collections.abc import Callable

    from ib_async import Contract

CLOSE_TIMEOUT_S = 1.0

READ_BYTES = 256 * 1024

GATHER_S = 0.1
"""Between two reads: a wake-up costs more than a packet, and the gateway itself gathers ticks for
longer than this."""

POSITION_MESSAGE = 61
CURRENT_TIME_MESSAGE = 49
COMPUTATION_MESSAGE = 21
DATA_TYPE_MESSAGE = 58

ACCOUNT_VALUE_MESSAGES = {63: (3, 4, 5, 6), 73: (3, 5, 6, 7)}
"""Of reqAccountSummary and reqAccountUpdatesMulti, and where the account, the key, the value and
the currency stand in them."""

ACCOUNT_VALUES_END_MESSAGES = (64, 74)
ONE_ACCOUNTS_POSITION_MESSAGE = 71
ONE_ACCOUNTS_POSITIONS_END_MESSAGE = 72

READ_MESSAGES = frozenset(
    {4, 9, 10, 15, 18, COMPUTATION_MESSAGE, 52, DATA_TYPE_MESSAGE, POSITION_MESSAGE, 62}
)
"""What ib_async decodes: errors, next request id, contract details (of bonds too), accounts, option
computations, end of details, market data type, positions, end of positions."""


class Listener(Protocol):
    """Handles the gateway's messages, at once and without waiting."""

    def error(self, request_id: int, code: int, text: str, contract: Contract | None) -> None: ...
    def position(self, position: Position) -> None: ...
    def positions_end(self, request_id: int) -> None:
        """The request for one account's positions has been answered."""

    def account_value(
        self, request_id: int, account: str, key: str, value: str, currency: str
    ) -> None: ...
    def account_values_end(self, request_id: int) -> None: ...
    def current_time(self) -> None: ...
    def data_type_changes(self, request_id: int) -> None:
        """What comes for this request from now on is of another kind."""

    def too_old(self, version: int, least: int) -> None:
        """The gateway speaks a version of the protocol below `least`."""

    def closed(self, reason: str) -> None:
        """The connection has ended; `reason` is empty if it ended properly."""

    def unreadable(self, error: Exception) -> None:
        """The gateway sent a message that cannot be read."""

    def bug(self, error: Exception) -> None:
        """One of these methods raised this."""


class GatewayClient:
    """One IB object and its socket: requests go to `ib`, answers come to the listener."""

    def __init__(self, listener: Listener) -> None:
        self.ib = IB()
        self._listener = listener
        self._ticks = TickFilter()
        self._ended = trio.Event()
        self._computations = 0
        self.received = self.sent = 0
        """Messages, as of the last `count`: ib_async forgets them when the connection ends."""
        client = self.ib.client
        self.ib.errorEvent.clear()
        self.ib.errorEvent.connect(listener.error, error=self._on_bug)
        self.ib.positionEvent.connect(listener.position, error=self._on_bug)
        client.conn.disconnected.connect(self._on_disconnected, error=self._on_bug)
        client.conn.hasData.error_event.connect(self._on_unreadable)
        self._digest = client.conn.data_received
        client.conn.data_received = self._receive  # type: ignore[method-assign]
        handlers: dict[int, Callable[[list[str]], None]] = client.decoder.handlers
        for kind in handlers.keys() - READ_MESSAGES:
            handlers[kind] = _ignore
        self._read_accounts(handlers)
        handlers[POSITION_MESSAGE] = self._loudly(handlers[POSITION_MESSAGE])
        handlers[COMPUTATION_MESSAGE] = self._in_full(handlers[COMPUTATION_MESSAGE])
        handlers[DATA_TYPE_MESSAGE] = self._after_notice(handlers[DATA_TYPE_MESSAGE])
        handlers[CURRENT_TIME_MESSAGE] = lambda fields: listener.current_time()

    @property
    def ticks(self) -> int:
        """How many market data messages there have been."""
        return self._ticks.dropped + self._computations

    def count(self) -> None:
        """Note how many messages there were."""
        client = self.ib.client
        self.received = max(self.received, client._numMsgRecv + self._ticks.dropped)
        self.sent = max(self.sent, client.conn.numMsgSent)

    async def read(self) -> None:
        """Read the socket until it ends, at half of asyncio's cost."""
        transport = self.ib.client.conn.transport
        if transport is None:
            return  # closed already, and known to be
        try:
            await read_beside(transport, self._receive)
        except OSError as error:
            self._on_disconnected(str(error))

    async def close(self) -> None:
        """Close the socket; a peer that takes no more bytes is cut off."""
        self.count()
        client = self.ib.client
        with suppress(OSError):  # the peer may have closed it already
            client.disconnect()
        with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            if client.conn.isConnected():
                await self._ended.wait()
        if client.conn.transport is not None:
            client.conn.transport.abort()

    def expect_another(self) -> None:
        """That peer was not a gateway: reset for the next address."""
        self._ticks = TickFilter()
        self._ended = trio.Event()

    def _receive(self, data: bytes) -> None:
        try:
            wanted = self._ticks.feed(data)
        except ValueError as error:
            self._listener.unreadable(error)
            return
        if not wanted:
            return
        client = self.ib.client
        if client.connState == client.CONNECTING:
            version = greeting_version(wanted)
            if version is not None and version < client.MinClientVersion:
                # ib_async would drop the connection and let us wait.
                self._listener.too_old(version, client.MinClientVersion)
                return
        self._digest(wanted)

    def _read_accounts(self, handlers: dict[int, Callable[[list[str]], None]]) -> None:
        listener = self._listener
        for kind, places in ACCOUNT_VALUE_MESSAGES.items():
            handlers[kind] = self._passed_on(listener.account_value, *places)
        for kind in ACCOUNT_VALUES_END_MESSAGES:
            handlers[kind] = self._passed_on(listener.account_values_end)
        handlers[ONE_ACCOUNTS_POSITIONS_END_MESSAGE] = self._passed_on(listener.positions_end)
        decoder = self.ib.client.decoder
        handlers[ONE_ACCOUNTS_POSITION_MESSAGE] = self._loudly(decoder.positionMulti)

        def position(
            _id: int, account: str, _model: str, contract: Contract, size: float, cost: float
        ) -> None:
            listener.position(Position(account, contract, size, cost))

        self.ib.wrapper.positionMulti = position  # type: ignore[method-assign, assignment]

    def _passed_on(self, tell: Callable[..., None], *places: int) -> Callable[[list[str]], None]:
        """Read the request's number and the fields at these places."""

        def read(fields: list[str]) -> None:
            if len(fields) <= max(2, *places, 2) or not fields[2].isdecimal():
                return  # no row depends on it
            try:
                tell(int(fields[2]), *(fields[place] for place in places))
            except Exception as error:
                self._listener.bug(error)

        return read

    def _loudly(self, read: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
        @functools.wraps(read)
        def read_loudly(fields: list[str]) -> None:
            try:
                read(fields)
            except Exception as error:
                self._listener.unreadable(error)

        return read_loudly

    def _in_full(self, read: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
        wrapper = self.ib.wrapper

        @functools.wraps(read)
        def read_in_full(fields: list[str]) -> None:
            self._computations += 1
            ticker = wrapper.reqId2Ticker.get(int(fields[1]))
            try:
                read(fields)
            except Exception:
                if ticker is not None:
                    ticker.modelGreeks = None
                raise
            delayed = fields[2] == DELAYED_MODEL_TICK
            # It is documented nowhere whether the type is announced before the first delayed data.
            if delayed and ticker is not None and ticker.marketDataType < DataType.DELAYED:
                ticker.marketDataType = int(DataType.DELAYED)

        return read_in_full

    def _after_notice(self, read: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
        @functools.wraps(read)
        def read_after_notice(fields: list[str]) -> None:
            self._listener.data_type_changes(int(fields[2]))
            read(fields)

        return read_after_notice

    def _on_disconnected(self, reason: str) -> None:
        globalErrorEvent.emit(None)  # it has reported the error, and would keep it
        self._ended.set()
        self._listener.closed(reason)

    def _on_unreadable(self, _event: object, error: Exception) -> None:
        self._listener.unreadable(error)

    def _on_bug(self, _event: object, error: Exception) -> None:
        self._listener.bug(error)


def greeting_version(data: bytes) -> int | None:
    """The protocol version with which a gateway greets: the first of two fields."""
    fields = data[4:].split(b"\0")
    if len(fields) < 2 or not fields[0].isdigit():
        return None
    return int(fields[0])


def _ignore(fields: list[str]) -> None:
    """We have not asked for it."""


async def read_beside(transport: Transport, take: Callable[[bytes], None]) -> None:
    """Hand what arrives to `take` until the peer has closed; the transport then notices the end.

    asyncio's transport only writes to the socket. If it read, through trio-asyncio, each packet
    would wake a task that waits for the socket, which wakes the loop's task, which calls the
    transport: twice the cost of plain asyncio, for every few ticks. A Trio task reads for less, and
    lets ticks gather, since no row depends on a millisecond.

    After a cancellation the transport reads no more: close it.

    Raises:
        OSError: the connection broke.
    """
    transport.pause_reading()
    # A file descriptor of our own: the transport may close its own at any time.
    owned = socket.socket(fileno=socket.dup(transport.get_extra_info("socket").fileno()))
    with trio.socket.from_stdlib_socket(owned) as ours:
        while data := await ours.recv(READ_BYTES):
            take(data)
            if len(data) < READ_BYTES:
                await trio.sleep(GATHER_S)
    transport.resume_reading()
