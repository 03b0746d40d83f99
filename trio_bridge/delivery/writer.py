"""Makes rows safe from their first moment on, and never leaves one behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trio_bridge.delivery.delivery import Delivery


async def run_writer(delivery: Delivery) -> None:
    """Take rows at once, whatever the database does; return when the outlet is closed and all
    rows are safe.

    Sending therefore never waits, and a row's time is counted from its sending. When this is
    cancelled, or anything in it crashes, every row that it holds or that was put into the outlet is
    fsynced first, shielded, for at most `RESCUE_TIMEOUT_S`.
    """
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delivery.receive_all)
            await delivery.deliver_all()
    finally:
        delivery.end()
        await delivery.rescue()
