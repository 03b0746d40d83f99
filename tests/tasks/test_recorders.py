"""Recorders of one account around one table, in virtual time: each slot is there once, nothing is
missing beyond what all of them missed, and a standby takes over and steps back in time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.time import WallClock
from trio_bridge.config import load_settings
from trio_bridge.errors import OutageError
from trio_bridge.events.service import SteppedBack, TookOver
from trio_bridge.gateways.fake import FakeBridge
from trio_bridge.gateways.readiness import Reason
from trio_bridge.identity import NO_ID
from trio_bridge.model import Greeks, Position, RecentRow, Verdict
from trio_bridge.policy.recorders import FIRST_YIELDED, YIELDED_EVERY, Recorders
from trio_bridge.tasks.recorders import RecorderWatch
from trio_bridge.tasks.ticker import Ticker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock

    from trio_bridge.events.event import Event
    from trio_bridge.model import Snapshot

INTERVAL_S = 5.0
START = datetime(2026, 3, 2, 15, 0, 1, tzinfo=UTC)
STOCK = Position("DU1", 1, "STK", "SPY", 100.0, None)
OPTION = Position("DU1", 2, "OPT", "SPX 260116C05000000", 1.0, 100.0)
GREEKS = Greeks(0.5, 0.01, 1.0, -1.0, 5000.0)


class Table:
    """The database: of the rows with one id the first stays."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, Snapshot]] = []
        """Each with the time since the start at which it was stored."""
        self.is_down = False
        self.is_frozen = False
        self.looking = 0
        """How many are just looking at it."""
        self._ids: set[object] = set()
        self._began = trio.current_time()

    @property
    def now(self) -> float:
        return trio.current_time() - self._began

    def insert(self, row: Snapshot) -> None:
        if row.event_id not in self._ids:
            self._ids.add(row.event_id)
            self.rows.append((self.now, row))

    async def read(self, since: datetime, until: datetime) -> Sequence[RecentRow]:
        found = [RecentRow(row.timestamp, row.account, row.recorder) for _, row in self.rows]
        self.looking += 1
        try:
            await trio.sleep(0.01)
        finally:
            self.looking -= 1
        if self.is_frozen:
            await trio.sleep_forever()
        if self.is_down:
            raise OutageError("connection refused")
        return sorted(row for row in found if since <= row.at <= until)

    @property
    def slots(self) -> list[float]:
        """Of all rows, in seconds since the start."""
        return sorted((row.timestamp - START).total_seconds() for _, row in self.rows)

    def whose(self, since: float, until: float = 1e9) -> set[str]:
        """Who has stored rows in that time."""
        return {row.recorder for at, row in self.rows if since <= at <= until}


class Station:
    """One service: a fake gateway, the real ticker and watch, a spool while the table is down."""

    def __init__(
        self,
        table: Table,
        name: str,
        *,
        standby: bool = False,
        ahead_s: float = 0.0,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.events: list[tuple[float, Event]] = []
        self.taken: set[datetime] = set()
        self._table = table
        self._spool: list[Snapshot] = []
        wall = WallClock(START + timedelta(seconds=table.now + ahead_s))
        wall()
        self.bridge = FakeBridge(load_settings(), emit=self.emit, now=wall)
        self.bridge.positions = [STOCK]
        self.recorders = Recorders(f"{name}:1-0000", interval_s, stands_by=standby)
        self.watch = RecorderWatch(
            self.recorders, self.bridge, interval_s=interval_s, emit=self.emit, now=wall
        )
        self.ticker = Ticker(
            self.bridge,
            self.put,
            interval_s=interval_s,
            emit=self.emit,
            recorders=self.recorders,
        )
        self._life = trio.CancelScope()

    @property
    def name(self) -> str:
        return self.recorders.name

    def emit(self, event: Event) -> None:
        self.events.append((self._table.now, event))

    def told(self, *kinds: type[Event]) -> list[tuple[float, Event]]:
        return [one for one in self.events if isinstance(one[1], kinds or (TookOver, SteppedBack))]

    def put(self, row: Snapshot) -> None:
        self.taken.add(row.timestamp)
        self._spool.append(row)
        self.replay()

    def replay(self) -> None:
        if not (self._table.is_down or self._table.is_frozen):
            for row in self._spool:
                self._table.insert(row)
            self._spool.clear()

    async def run(self) -> None:
        with self._life:
            await self.bridge.connect()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.watch.run, self._table.read)
                nursery.start_soon(self.ticker.run)

    def kill(self) -> None:
        """With what it had in hand."""
        self.ticker._in_hand = None
        self._life.cancel()


class Stage:
    """Run stations for a while; each is at the same time on the same table."""

    def __init__(self) -> None:
        self.table = Table()
        self.stations: list[Station] = []
        self._scope = trio.CancelScope()

    def add(self, nursery: trio.Nursery, name: str, **shape: Any) -> Station:
        station = Station(self.table, name, **shape)
        self.stations.append(station)
        nursery.start_soon(station.run)
        return station

    def check(self, *, holes: int = 0) -> None:
        """Each slot once; of the whole grid no more than these are missing."""
        slots = self.table.slots
        assert len(slots) == len(set(slots)), "a slot is there twice"
        grid = [4.0 + INTERVAL_S * n for n in range(int((slots[-1] - 4.0) / INTERVAL_S) + 1)]
        missing = sorted(set(grid) - set(slots))
        assert len(missing) <= holes, f"missing: {missing}"


async def test_a_standby_rests_beside_a_recorder(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with trio.open_nursery() as nursery:
        primary = stage.add(nursery, "a")
        standby = stage.add(nursery, "b", standby=True)
        await trio.sleep(3600)
        assert standby.bridge.is_resting
        assert standby.bridge.stands_by
        assert standby.recorders.other(trio.current_time()) == primary.name
        nursery.cancel_scope.cancel()
    stage.check()
    assert standby.told() == []
    assert standby.events == [], "it misses nothing, and skips nothing"
    assert stage.table.whose(0) == {primary.name}


@pytest.mark.parametrize("skew", [-0.4, 0.0, 0.4])
async def test_it_takes_over_within_two_intervals_and_steps_back(
    autojump_clock: MockClock, skew: float
) -> None:
    stage = Stage()
    async with trio.open_nursery() as nursery:
        primary = stage.add(nursery, "a")
        standby = stage.add(nursery, "b", standby=True, ahead_s=skew * INTERVAL_S)
        await trio.sleep(300)
        primary.kill()
        last = max(at for at, _ in stage.table.rows)
        await trio.sleep(300)
        [(taken_at, _)] = standby.told()
        assert 1.5 * INTERVAL_S <= taken_at - last <= 2 * INTERVAL_S
        again = stage.add(nursery, "c")
        back_at = stage.table.now
        await trio.sleep(300)
        _, (stepped_at, event) = standby.told()
        assert event == SteppedBack(again.name)
        assert stepped_at - back_at <= 3 * INTERVAL_S
        assert standby.bridge.is_resting
        await trio.sleep(300)
        nursery.cancel_scope.cancel()
    stage.check(holes=2)
    assert len(standby.told()) == 2
    assert stage.table.whose(last + 0.1, back_at) == {standby.name}
    assert stage.table.whose(stepped_at + INTERVAL_S) == {again.name}


@pytest.mark.parametrize("frozen", [False, True], ids=["down", "frozen"])
async def test_while_the_database_is_down_both_record(
    autojump_clock: MockClock, frozen: bool
) -> None:
    """Nobody can know then whether the other lives. Where it does, the slots are there once."""
    stage = Stage()
    async with trio.open_nursery() as nursery:
        primary = stage.add(nursery, "a")
        standby = stage.add(nursery, "b", standby=True)
        await trio.sleep(300)
        stage.table.is_frozen, stage.table.is_down = frozen, not frozen
        await trio.sleep(60)
        [(taken_at, event)] = standby.told()
        assert isinstance(event, TookOver)
        assert event.reason.startswith("the database can't be asked: ")
        assert taken_at <= 300 + 2 * INTERVAL_S
        stage.table.is_frozen = stage.table.is_down = False
        for station in (standby, primary):
            station.replay()
        await trio.sleep(60)
        assert standby.told()[1:] != []
        assert standby.bridge.is_resting
        nursery.cancel_scope.cancel()
    stage.check()
    assert len(standby.taken) >= 8


async def test_the_recorder_dies_while_the_database_is_down(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with trio.open_nursery() as nursery:
        primary = stage.add(nursery, "a")
        standby = stage.add(nursery, "b", standby=True)
        await trio.sleep(300)
        stage.table.is_down = True
        await trio.sleep(60)
        primary.kill()  # its spool is lost, too
        await trio.sleep(60)
        stage.table.is_down = False
        standby.replay()
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    stage.check(holes=2)
    assert [type(event) for _, event in standby.told()] == [TookOver]


async def test_old_rows_that_are_replayed_do_not_bring_it_back(autojump_clock: MockClock) -> None:
    """The other's spool, brought in by hand (`flush`), say."""
    stage = Stage()
    async with trio.open_nursery() as nursery:
        primary = stage.add(nursery, "a")
        standby = stage.add(nursery, "b", standby=True)
        await trio.sleep(300)
        primary.kill()
        [(_, first), *_] = stage.table.rows
        await trio.sleep(60)
        for number in range(7):
            stage.table.insert(_later(first, 300 + 5 * number + 0.001))
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [type(event) for _, event in standby.told()] == [TookOver]


async def test_two_recorders_that_both_always_record(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with trio.open_nursery() as nursery:
        one = stage.add(nursery, "a", ahead_s=0.4 * INTERVAL_S)
        other = stage.add(nursery, "b")
        await trio.sleep(300)
        one.kill()
        await trio.sleep(300)
        stage.table.is_down = True
        await trio.sleep(60)
        stage.table.is_down = False
        other.replay()
        nursery.cancel_scope.cancel()
    stage.check()
    assert one.told() == other.told() == []


@pytest.mark.parametrize(("interval_s", "other_s"), [(5.0, 10.0), (5.0, 2.5), (5.0, 15.0)])
@pytest.mark.parametrize("standby", [False, True])
async def test_with_different_intervals_the_common_slots_are_there_once(
    autojump_clock: MockClock, interval_s: float, other_s: float, standby: bool
) -> None:
    stage = Stage()
    async with trio.open_nursery() as nursery:
        one = stage.add(nursery, "a", interval_s=interval_s)
        other = stage.add(nursery, "b", interval_s=other_s, standby=standby)
        await trio.sleep(300)
        one.kill()
        await trio.sleep(300)
        nursery.cancel_scope.cancel()
    slots = stage.table.slots
    assert len(slots) == len(set(slots))
    taken = {(at - START).total_seconds() for at in one.taken | other.taken}
    assert set(slots) == taken
    assert stage.table.whose(330) == {other.name}
    later = [slot for slot in slots if slot > 330]
    assert {after - before for before, after in pairwise(later)} == {other_s}


async def test_of_a_complete_and_a_partial_row_the_complete_one_is_kept(
    autojump_clock: MockClock,
) -> None:
    """Whichever is first on the clock; the partial one waits as soon as it has seen the other."""
    stage = Stage()
    async with trio.open_nursery() as nursery:
        partial = stage.add(nursery, "a", ahead_s=0.02)
        complete = stage.add(nursery, "b")
        for station in (partial, complete):
            station.bridge.positions = [STOCK, OPTION]
        complete.bridge.greeks = {OPTION.con_id: GREEKS}
        await trio.sleep(300)
        assert partial.recorders.other(trio.current_time()) == complete.name
        nursery.cancel_scope.cancel()
    stage.check()
    assert partial.taken == complete.taken
    assert {row.verdict for _, row in stage.table.rows} == {Verdict.COMPLETE}


async def test_alone_a_partial_row_is_soon_there_and_none_is_lost(
    autojump_clock: MockClock,
) -> None:
    stage = Stage()
    async with trio.open_nursery() as nursery:
        alone = stage.add(nursery, "a")
        alone.bridge.positions = [STOCK, OPTION]
        await trio.sleep(300)
        nursery.cancel_scope.cancel()
    stage.check()
    assert {row.verdict for _, row in stage.table.rows} == {Verdict.PARTIAL}
    late = [at - (row.timestamp - START).total_seconds() for at, row in stage.table.rows]
    assert max(late) <= 0.2 * INTERVAL_S + 0.01
    assert sum(one > 0.5 for one in late) <= FIRST_YIELDED + len(late) / YIELDED_EVERY


async def test_a_standby_whose_gateway_is_down_does_not_take_over(
    autojump_clock: MockClock,
) -> None:
    stage = Stage()
    async with trio.open_nursery() as nursery:
        primary = stage.add(nursery, "a")
        standby = stage.add(nursery, "b", standby=True)
        await trio.sleep(100)
        standby.bridge.drop()
        primary.kill()
        await trio.sleep(100)
        assert standby.told() == []
        assert (
            str(standby.bridge.readiness.why(trio.current_time())) == "not connected to the gateway"
        )
        await standby.bridge.connect()
        assert standby.bridge.stands_by, "it goes on resting over a new connection"
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    [(at, _)] = standby.told()
    assert 200 + 1.5 * INTERVAL_S <= at <= 200 + 2 * INTERVAL_S


async def test_rows_of_other_accounts_are_nothing_to_rest_for(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with trio.open_nursery() as nursery:
        primary = stage.add(nursery, "a")
        standby = stage.add(nursery, "b", standby=True)
        more = primary.bridge.inputs()._replace(accounts=("DU1", "DU2"))
        primary.bridge.inputs = lambda: more  # type: ignore[method-assign]
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert [type(event) for _, event in standby.told()] == [TookOver]


async def test_the_reason_for_resting_says_who_records(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with trio.open_nursery() as nursery:
        primary = stage.add(nursery, "a")
        standby = stage.add(nursery, "b", standby=True)
        await trio.sleep(100)
        blocked = standby.bridge.readiness.why(trio.current_time())
        assert blocked is not None
        assert blocked.reason is Reason.STANDBY
        assert str(blocked) == f"standby: {primary.name} records"
        assert standby.ticker.status.silent_because == str(blocked)
        nursery.cancel_scope.cancel()


async def test_a_pause_of_the_process_is_no_reason_to_take_over(mock_clock: MockClock) -> None:
    """The look during which it was paused has not seen what was stored since."""
    stage = Stage()
    async with trio.open_nursery() as nursery:
        primary = stage.add(nursery, "a")
        standby = stage.add(nursery, "b", standby=True)
        for _ in range(1000):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.1)
        row = max(stage.table.rows, key=lambda one: one[0])[1]
        primary.kill()
        while not stage.table.looking:
            mock_clock.jump(0.005)
            await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(60.0)
        stage.table.insert(_later(row, 60))
        for _ in range(20):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.05)
        nursery.cancel_scope.cancel()
    assert standby.told() == []


def _later(row: Snapshot, seconds: float) -> Snapshot:
    """The same for another slot."""
    return replace(row, timestamp=row.timestamp + timedelta(seconds=seconds), event_id=NO_ID)
