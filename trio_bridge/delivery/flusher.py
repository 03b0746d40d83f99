"""Brings the spool into the database: at once after the start, then on a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_bridge.policy.schedule import Grid

if TYPE_CHECKING:
    from trio_bridge.delivery.delivery import Delivery


async def run_flusher(delivery: Delivery, interval_s: float) -> None:
    """Flush every `interval_s` seconds, until it is cancelled.

    A flush that takes longer than the interval loses the slots that it covers. It may be cancelled
    at any time: what it was replaying is replayed again, harmlessly.
    """
    grid = Grid(trio.current_time(), interval_s)
    slot = 0
    while True:
        await trio.sleep_until(grid.at(slot))
        await delivery.flush()
        slot = grid.next_slot(slot, trio.current_time()).slot
