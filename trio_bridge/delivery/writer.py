"""The one receiver of the channel: from here on a row is delivery's, until it is safe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trio_bridge.delivery.delivery import Delivery
    from trio_bridge.model import ApiEvent, Snapshot


async def run_writer(
    receive: trio.MemoryReceiveChannel[Snapshot | ApiEvent], delivery: Delivery
) -> None:
    """Take rows at once, whatever the database does; return when the channel ended and all is safe.

    A sender therefore never waits long, and a row's time is counted from its sending. When this is
    cancelled, or anything in it crashes, what it holds and what the channel still holds is fsynced
    first, shielded, for at most `RESCUE_TIMEOUT_S`.
    """
    delivery.follow(receive)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_receive, receive, delivery)
            await delivery.deliver_all()
    finally:
        _receive_pending(receive, delivery)
        delivery.end()
        await delivery.rescue()


async def _receive(
    receive: trio.MemoryReceiveChannel[Snapshot | ApiEvent], delivery: Delivery
) -> None:
    while _receive_pending(receive, delivery):
        delivery.accept_own()
        try:
            delivery.accept(await receive.receive())
        except trio.EndOfChannel:
            break
    delivery.end()


def _receive_pending(
    receive: trio.MemoryReceiveChannel[Snapshot | ApiEvent], delivery: Delivery
) -> bool:
    """Take what has piled up; False when the channel has ended."""
    try:
        while True:
            delivery.accept(receive.receive_nowait())
    except trio.WouldBlock:
        return True
    except (trio.EndOfChannel, trio.ClosedResourceError):
        return False
