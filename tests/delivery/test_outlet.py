"""One channel, one order: nothing that was put is overtaken, and nothing is lost unsaid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing
from structlog.testing import capture_logs

from tests.support.rows import snapshot
from trio_bridge.delivery.outlet import CHANNEL_SIZE, Outlet
from trio_bridge.events.rows import RowsSafe

if TYPE_CHECKING:
    from trio_bridge.model import Item


async def test_what_is_put_after_the_close_stays_behind_what_is_on_its_way() -> None:
    outlet = Outlet()
    rows = [snapshot(number) for number in range(5)]
    accepted: list[Item] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outlet.receive_all, accepted.append)
        await trio.testing.wait_all_tasks_blocked()
        outlet.put(rows[0])  # is in the receiver's hand now, which has not run yet
        outlet.put(rows[1])  # lies in the channel
        outlet.close()
        outlet.put(rows[2])
        assert accepted == []
    outlet.put(rows[3])
    outlet.end(accepted.append)
    outlet.put(rows[4])
    assert accepted == rows


async def test_an_end_without_a_receiver_hands_over_everything() -> None:
    outlet = Outlet()
    rows = [snapshot(number) for number in range(3)]
    accepted: list[Item] = []
    for row in rows:
        outlet.put(row)
    outlet.end(accepted.append)
    outlet.end(accepted.append)
    assert accepted == rows


async def test_a_channel_that_nobody_empties_drops_loudly_and_counts() -> None:
    outlet = Outlet()
    with capture_logs() as logs:
        for number in range(CHANNEL_SIZE + 2):
            outlet.put(snapshot(number))
        outlet.emit(RowsSafe())  # an event is dropped as a row is
    assert outlet.dropped == 3
    assert [one["log_level"] for one in logs] == ["error", "error", "info", "error"]
