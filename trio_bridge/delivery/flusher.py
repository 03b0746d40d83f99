"""The flusher: replays the spool into the database at the start and then on a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_bridge.policy.schedule import Grid

if TYPE_CHECKING:
    from trio_bridge.delivery.delivery import Delivery


async def run_flusher(delivery: Delivery, interval_s: float) -> None:
    """Flush every `interval_s` seconds, until cancelled.

    A flush that takes longer than the interval skips the slots that it covers. Cancelling it is
    safe at any time: what it was replaying is replayed again, which is harmless.
    """
    grid = Grid(trio.current_time(), interval_s)
    slot = 0
    while True:
        await trio.sleep_until(grid.at(slot))
        await delivery.flush()
        slot = grid.next_slot(slot, trio.current_time()).slot
