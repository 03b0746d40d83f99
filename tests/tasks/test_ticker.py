"""The ticker: exact grid, no bunching, no row that is not true."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import trio

from tests.support.time import WallClock, eastern
from trio_bridge.config import load_settings
from trio_bridge.events.rows import RowsMissed, RowsResumed, SlotsSkipped
from trio_bridge.gateways.fake import FakeBridge
from trio_bridge.gateways.readiness import Reason
from trio_bridge.model import Position, Snapshot
from trio_bridge.tasks.ticker import Ticker

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_bridge.events.event import Event

STOCK = Position("DU1", 1, "STK", "SPY", 100.0, None)
START = eastern(2026, 3, 2, 10, 0, 1)


class Rig:
    """A ticker on a connected fake bridge, with everything it gave."""

    def __init__(self, interval_s: float = 5.0) -> None:
        self.wall = WallClock(START)
        self.bridge = FakeBridge(load_settings(), now=self.wall)
        self.bridge.positions = [STOCK]
        self.rows: list[Snapshot] = []
        self.events: list[Event] = []
        self.ticker = Ticker(
            self.bridge,
            self.rows.append,
            interval_s=interval_s,
            emit=self.events.append,
            now=self.wall,
        )

    async def run_for(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.ticker.run()


async def test_rows_stand_on_the_grid_of_the_wall_clock(autojump_clock: MockClock) -> None:
    rig = Rig()
    await rig.bridge.connect()
    await rig.run_for(3600)
    seconds = [row.timestamp.timestamp() for row in rig.rows]
    assert len(rig.rows) == 720
    assert all(abs(one % 5) < 1e-6 or abs(one % 5 - 5) < 1e-6 for one in seconds)
    gaps = {round(b - a, 6) for a, b in pairwise(seconds)}
    assert gaps == {5.0}


async def test_no_row_while_the_bridge_is_not_ready(autojump_clock: MockClock) -> None:
    rig = Rig()
    await rig.bridge.connect()

    async def trouble() -> None:
        await trio.sleep(21)
        rig.bridge.readiness.block(Reason.UPSTREAM_LOST)
        await trio.sleep(30)
        rig.bridge.readiness.clear(Reason.UPSTREAM_LOST)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trouble)
        await rig.run_for(80)
    assert len(rig.rows) == 16 - 6
    why = Reason.UPSTREAM_LOST.value
    assert rig.events == [RowsMissed(why), RowsResumed(6, why)]
    assert rig.ticker.status.skipped == 0


async def test_a_single_slot_is_told_as_one(mock_clock: MockClock) -> None:
    rig = Rig()
    await rig.bridge.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.ticker.run)
        await _jump(mock_clock, 4.0)  # slot 0 is 4 s after START
        await _jump(mock_clock, 10.0)  # slot 1 missed; 2 is served
        rig.bridge.readiness.block(Reason.UPSTREAM_LOST)
        await _jump(mock_clock, 5.0)
        rig.bridge.readiness.clear(Reason.UPSTREAM_LOST)
        await _jump(mock_clock, 5.0)
        nursery.cancel_scope.cancel()
    assert rig.events == [
        SlotsSkipped(1),
        RowsMissed(Reason.UPSTREAM_LOST.value),
        RowsResumed(1, Reason.UPSTREAM_LOST.value),
    ]


async def test_never_a_row_after_the_connection_fell(autojump_clock: MockClock) -> None:
    rig = Rig()
    await rig.bridge.connect()
    await rig.run_for(10)
    before = len(rig.rows)
    rig.bridge.drop()
    await rig.run_for(60)
    assert before == 1 + 1
    assert len(rig.rows) == before


async def test_a_suspended_machine_skips_slots_and_does_not_bunch(mock_clock: MockClock) -> None:
    rig = Rig()
    await rig.bridge.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.ticker.run)
        await _jump(mock_clock, 4.0)  # slot 0 is 4 s after START
        await _jump(mock_clock, 5.0)
        await _jump(mock_clock, 18.0)  # slots 2, 3, 4 missed; 5 is 2 s away
        assert len(rig.rows) == 2
        await _jump(mock_clock, 2.0)
        assert len(rig.rows) == 3
        nursery.cancel_scope.cancel()
    assert rig.ticker.status.skipped == 3
    assert rig.events == [SlotsSkipped(3)]
    assert rig.rows[2].timestamp.timestamp() % 5 == 0


async def _jump(clock: MockClock, seconds: float) -> None:
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()
