"""The writer: takes rows out of the outlet and makes them safe, also when it is cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from trio_bridge.delivery.delivery import Delivery


async def run_writer(delivery: Delivery) -> None:
    """Accept, append and ship rows as soon as they come, whatever the database does; return when
    the outlet is closed and all rows are safe.

    A row's time limit therefore begins when it is sent. When this is cancelled or crashes, all rows
    in the queue and in the outlet are fsynced first, shielded, within `RESCUE_TIMEOUT_S`.
    """
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delivery.receive_all)
            nursery.start_soon(delivery.ship_all)
            await delivery.append_all()
            nursery.cancel_scope.cancel()
    finally:
        delivery.end()
        await delivery.rescue()
