"""The ticker: exact grid, no bunching, no row that is not true."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.time import WallClock, eastern
from trio_bridge.config import load_settings
from trio_bridge.events.rows import RowsMissed, RowsResumed, SlotsSkipped
from trio_bridge.events.service import ClockStepped
from trio_bridge.gateways.base import RiskInputs
from trio_bridge.gateways.fake import FakeBridge
from trio_bridge.gateways.readiness import Reason
from trio_bridge.model import AccountSet, Position, Snapshot
from trio_bridge.policy.recorders import Recorders
from trio_bridge.tasks.ticker import CATCH_UP_S, TAKEN, Ticker

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_bridge.events.event import Event

STOCK = Position("DU1", 1, "STK", "SPY", 100.0, None)
START = eastern(2026, 3, 2, 10, 0, 1)


class Rig:
    """A ticker on a connected fake bridge, with everything it gave."""

    def __init__(self, interval_s: float = 5.0, *, recorders: Recorders | None = None) -> None:
        self.wall = WallClock(START)
        self.events: list[Event] = []
        self.bridge = FakeBridge(load_settings(), emit=self.events.append, now=self.wall)
        self.bridge.positions = [STOCK]
        self.rows: list[Snapshot] = []
        self.stored: list[Snapshot | AccountSet] = []
        """Rows and names of accounts, in their order."""
        self.ticker = Ticker(
            self.bridge,
            self.put,
            interval_s=interval_s,
            emit=self.events.append,
            put_accounts=self.stored.append,
            recorders=recorders,
        )

    def put(self, row: Snapshot) -> None:
        self.rows.append(row)
        self.stored.append(row)

    async def run_for(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.ticker.run()


async def test_rows_stand_on_the_grid_of_the_wall_clock(autojump_clock: MockClock) -> None:
    rig = Rig()
    await rig.bridge.connect()
    await rig.run_for(3600)
    seconds = [row.timestamp.timestamp() for row in rig.rows]
    assert len(rig.rows) == 720
    assert all(one % 5 == 0 for one in seconds)
    assert {later - earlier for earlier, later in pairwise(seconds)} == {5.0}
    assert all(abs(row.late_s) < 1e-5 for row in rig.rows)


async def test_a_row_is_of_its_slot_and_says_how_late_it_was_read(mock_clock: MockClock) -> None:
    rig = Rig()
    await rig.bridge.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.ticker.run)
        await _jump(mock_clock, 4.0)
        await _jump(mock_clock, 7.5)  # half an interval late
        nursery.cancel_scope.cancel()
    slots = [START + timedelta(seconds=4), START + timedelta(seconds=9)]
    assert [row.timestamp for row in rig.rows] == slots
    assert [row.late_s for row in rig.rows] == pytest.approx([0.0, 2.5], abs=1e-5)
    assert rig.events == []


async def test_the_names_behind_a_key_come_before_the_first_row_with_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig()
    many, more = (tuple(f"DU{number:07}" for number in range(size)) for size in (20, 21))
    accounts: tuple[str, ...] = many
    monkeypatch.setattr(
        rig.bridge, "inputs", lambda: RiskInputs(accounts, tuple(rig.bridge.positions), {})
    )
    await rig.bridge.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.ticker.run)
        await trio.sleep(12)  # two rows
        accounts = more
        await trio.sleep(10)
        accounts = ("DU1",)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    first, one, *_, second, other = [rig.stored[at] for at in (0, 1, 3, 4)]
    assert isinstance(first, AccountSet)
    assert isinstance(second, AccountSet)
    assert [type(item) for item in rig.stored].count(AccountSet) == 2
    assert (first.timestamp, first.key) == (one.timestamp, rig.rows[0].account)
    assert (second.timestamp, second.key) == (other.timestamp, rig.rows[2].account)
    assert [first.accounts, second.accounts] == [",".join(many), ",".join(more)]
    assert rig.rows[-1].account == "DU1"
    assert rig.ticker.status.accounts == ("DU1",)


async def test_a_clock_set_forward_skips_slots_and_says_so(autojump_clock: MockClock) -> None:
    rig = Rig(interval_s=3600.0)
    await rig.bridge.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.ticker.run)
        await trio.sleep(600)
        rig.wall.jump(timedelta(hours=3))
        await trio.sleep(10)  # noticed between two slots
        nursery.cancel_scope.cancel()
    stepped, skipped = rig.events
    assert isinstance(stepped, ClockStepped)
    assert isinstance(skipped, SlotsSkipped)
    assert skipped == SlotsSkipped(2, 0.0, skipped.set_s)  # 11:00 and 12:00; it is 13:10
    assert skipped.set_s == pytest.approx(3 * 3600)
    assert rig.ticker.status.skipped == 2


async def test_a_clock_set_back_gives_no_time_a_second_row(autojump_clock: MockClock) -> None:
    rig = Rig()
    await rig.bridge.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.ticker.run)
        await trio.sleep(602)
        rig.wall.jump(timedelta(seconds=-300))
        await trio.sleep(150)
        now = trio.current_time()
        assert rig.ticker.status.silent_because == TAKEN.format(until="2026-03-02 15:10:05 UTC")
        assert rig.ticker.status.last_slot_s is not None
        assert now - rig.ticker.status.last_slot_s < 6  # the ticker is alive
        await trio.sleep(250)
        nursery.cancel_scope.cancel()
    names = [row.timestamp for row in rig.rows]
    assert names == sorted({*names})
    assert {later - earlier for earlier, later in pairwise(names)} == {timedelta(seconds=5)}
    stepped, missed, resumed = rig.events
    assert isinstance(stepped, ClockStepped)
    assert missed == RowsMissed(TAKEN.format(until="2026-03-02 15:10:05 UTC"))
    assert isinstance(resumed, RowsResumed)
    assert resumed.slots == pytest.approx(60, abs=1)


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


# Handing over


async def test_a_standbys_row_is_handed_over_late_but_is_of_its_slot(
    mock_clock: MockClock,
) -> None:
    rig = Rig(recorders=Recorders("pi:1-0000", 5.0, stands_by=True))
    await rig.bridge.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.ticker.run)
        await _jump(mock_clock, 4.0)
        await _jump(mock_clock, 2.4)
        assert rig.rows == []
        await _jump(mock_clock, 0.2)
        assert [row.timestamp for row in rig.rows] == [START + timedelta(seconds=4)]
        assert rig.rows[0].recorder == "pi:1-0000 (standby)"
        assert rig.rows[0].late_s == pytest.approx(0.0, abs=1e-5)
        nursery.cancel_scope.cancel()


async def test_a_row_in_hand_is_not_lost_at_the_end(mock_clock: MockClock) -> None:
    rig = Rig(recorders=Recorders("pi:1-0000", 5.0, stands_by=True))
    await rig.bridge.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.ticker.run)
        await _jump(mock_clock, 4.0)
        assert rig.rows == []
        nursery.cancel_scope.cancel()
    assert [row.timestamp for row in rig.rows] == [START + timedelta(seconds=4)]


async def test_while_it_rests_nothing_is_missed_and_nothing_skipped(
    mock_clock: MockClock,
) -> None:
    rig = Rig()
    await rig.bridge.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.ticker.run)
        await _jump(mock_clock, 4.0)
        rig.bridge.rest("nas:1-0000 records")
        for _ in range(5):
            await _jump(mock_clock, 5.0)
        await _jump(mock_clock, 60.0)
        await _jump(mock_clock, CATCH_UP_S)
        assert rig.ticker.status.silent_because == "standby: nas:1-0000 records"
        nursery.cancel_scope.cancel()
    assert rig.ticker.status.skipped == 0
    assert len(rig.rows) == 1
    assert rig.events == []


async def _jump(clock: MockClock, seconds: float) -> None:
    await trio.testing.wait_all_tasks_blocked()
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()
