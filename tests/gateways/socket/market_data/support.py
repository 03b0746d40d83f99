"""What tests of market data share: a faster clock, a book that moves, looks at what was sent."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from tests.gateways.socket.support import CANCEL, SUBSCRIBE, TICK_S, options_of
from trio_bridge.simulator.book import STEP_S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.gateways.socket.support import Rig
    from trio_bridge.simulator.book import Book

EXCHANGE_FIELD = 10
"""Of a request for market data; the contract's id is field 3."""


def exchanges_asked(rig: Rig, con_id: int) -> list[str]:
    """Where market data of the contract were requested, in this order."""
    return [
        one.fields[EXCHANGE_FIELD]
        for one in rig.sim.received(SUBSCRIBE)
        if one.fields[3] == str(con_id)
    ]


def times_asked(rig: Rig, con_id: int) -> list[float]:
    """When market data of the contract were requested."""
    return [one.at for one in rig.sim.received(SUBSCRIBE) if one.fields[3] == str(con_id)]


def messages_about_lines(rig: Rig) -> int:
    return len(rig.sim.received(SUBSCRIBE)) + len(rig.sim.received(CANCEL))


def ids_of(book: Book) -> list[int]:
    return [option.con_id for option in options_of(book)]


def age_of(rig: Rig) -> float:
    row = rig.row()
    assert row is not None
    assert row.greeks_age_s is not None
    return row.greeks_age_s


@asynccontextmanager
async def ticking(book: Book) -> AsyncGenerator[None]:
    """The book moves while the block runs, so that living lines tick."""

    async def move() -> None:
        while True:
            book.advance(STEP_S)
            await trio.sleep(TICK_S)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(move)
        yield
        nursery.cancel_scope.cancel()
