"""A bare TWS client on Trio for the simulator's tests: it sends exactly what a test gives it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from trio_bridge.simulator.tws import wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio_bridge.simulator.contracts import Contract
    from trio_bridge.simulator.tws.server import TwsSimulator

PATIENCE_S = 10.0
"""Generous: a loaded machine must not fail a test."""


class Closed(Exception):
    """The simulator closed the connection."""


class RawClient:
    """Sends messages as given; keeps every message received."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.version = 0
        self.seen: list[list[str]] = []
        self._unread: list[list[str]] = []
        self._incoming = wire.ClientStream()
        self._incoming.feed(wire.GREETING)

    async def shake_hands(self, offer: str = "v157..178") -> None:
        await self.stream.send_all(wire.GREETING + wire.framed(offer.encode()))
        version, _ = await self.next()
        self.version = int(version)

    async def start(self, client_id: int = 10) -> None:
        """Handshake, startApi, and everything up to nextValidId."""
        await self.shake_hands()
        await self.send(71, 2, client_id, "")
        await self.expect(9)

    async def send(self, *fields: wire.Field) -> None:
        await self.stream.send_all(wire.message(*fields))

    async def next(self) -> list[str]:
        """The next message; raises Closed if the connection has ended instead."""
        with trio.fail_after(PATIENCE_S):
            while not self._unread:
                try:
                    data = await self.stream.receive_some(65536)
                except trio.BrokenResourceError:
                    raise Closed("with a reset") from None
                if not data:
                    raise Closed("orderly")
                self._unread += self._incoming.feed(data)
        self.seen.append(self._unread.pop(0))
        return self.seen[-1]

    async def expect(
        self, kind: int, where: Callable[[list[str]], bool] = lambda _: True
    ) -> list[str]:
        """The next message of a kind; others are skipped."""
        while True:
            fields = await self.next()
            if fields[0] == str(kind) and where(fields):
                return fields

    async def expect_error(self, code: int, req_id: int = -1) -> str:
        """The text of the next error of this code and request."""
        fields = await self.expect(4, lambda one: one[2:4] == [str(req_id), str(code)])
        return fields[4]

    async def until_closed(self) -> str:
        """Read until the simulator closes the connection; return how."""
        while True:
            try:
                await self.next()
            except Closed as how:
                return str(how)

    async def subscribe(
        self,
        req_id: int,
        contract: Contract,
        *,
        exchange: str | None = None,
        snapshot: bool = False,
    ) -> None:
        await self.send(1, 11, req_id, *described(contract, exchange), 0, "", int(snapshot), 0, "")

    async def model(self, req_id: int) -> list[float]:
        """The next model computation of a request: delta, gamma, vega, theta."""
        fields = await self.expect(21, lambda one: one[1] == str(req_id) and one[2] in ("13", "83"))
        return [float(fields[place]) for place in (5, 8, 9, 10)]

    async def current_time(self) -> None:
        """Ask and wait for the answer: everything sent before has then been processed."""
        await self.send(49, 1)
        await self.expect(49)


def described(contract: Contract, exchange: str | None = None) -> tuple[wire.Field, ...]:
    """The twelve fields of a contract in a request."""
    return (
        contract.con_id,
        contract.symbol,
        contract.sec_type,
        contract.expiry,
        contract.strike,
        contract.right,
        wire.multiplier(contract),
        contract.exchange if exchange is None else exchange,
        contract.primary_exchange,
        contract.currency,
        contract.local_symbol,
        contract.trading_class,
    )


@asynccontextmanager
async def raw_client(sim: TwsSimulator, client_id: int | None = 10) -> AsyncIterator[RawClient]:
    """A connected client, started unless `client_id` is None."""
    async with await trio.open_tcp_stream(sim.host, sim.port) as stream:
        client = RawClient(stream)
        if client_id is not None:
            await client.start(client_id)
        yield client


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait, for a bounded time, until the condition holds."""
    with trio.fail_after(PATIENCE_S):
        while not condition():  # the kernel or another process may have to act
            await trio.sleep(0.005)
