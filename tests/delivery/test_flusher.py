"""The flusher's cadence, and the hand-over of the database between it and the writer."""

from __future__ import annotations

import errno
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.delivery.sinks import (
    BUFFER,
    FLUSH_INTERVAL_S,
    Sinks,
    check_tables,
    circuit,
    kinds,
    now,
    numbers,
    quarantined,
    running,
)
from tests.support.rows import START, number_of, snapshot
from trio_bridge.delivery import replay
from trio_bridge.delivery.breaker import BreakerState, Transition
from trio_bridge.delivery.flusher import run_flusher
from trio_bridge.delivery.replay import REPLAY_TIMEOUT_S
from trio_bridge.errors import OutageError
from trio_bridge.events.rows import (
    CircuitChanged,
    CircuitClosed,
    CircuitOpened,
    RowsQuarantined,
    SpoolTakenAway,
)
from trio_bridge.rows import API_LOGS, PORTFOLIO_GREEKS
from trio_bridge.stores.fake import FakeStore, Mishap
from trio_bridge.stores.record import encode_line, record_of
from trio_bridge.stores.spool.fake_disk import FakeDisk
from trio_bridge.stores.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from trio_bridge.stores.base import Server
    from trio_bridge.stores.record import Record


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def disk() -> FakeDisk:
    return FakeDisk()


def backlog(disk: FakeDisk, rows: int) -> None:
    """What a run of the day before left in the spool."""
    yesterday = START - timedelta(days=1)
    made = (record_of(snapshot(n, yesterday + timedelta(seconds=n))) for n in range(rows))
    disk.put(BUFFER, b"".join(map(encode_line, made)))


class TimedStore(FakeStore):
    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    async def write(self, records: object, **to: object) -> int:
        self.times.append(trio.current_time())
        return await super().write(records, **to)  # type: ignore[arg-type]

    async def server(self) -> Server:
        self.times.append(trio.current_time())
        return await super().server()


async def test_the_database_is_tried_once_per_interval_on_a_grid(
    disk: FakeDisk, autojump_clock: MockClock
) -> None:
    store = TimedStore()
    store.trouble = Mishap.SILENT  # each try takes its whole time; the grid must not drift
    backlog(disk, 10)
    async with running(store, disk):
        await trio.sleep(10 * FLUSH_INTERVAL_S + 1)
    start = store.times[0]
    steps = [round(time - start, 6) for time in store.times]
    assert steps == [FLUSH_INTERVAL_S * slot for slot in range(11)]


async def test_a_backlog_is_replayed_at_once_after_the_start(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    backlog(disk, 5_500)
    async with running(store, disk) as sinks:
        assert sinks.state() is BreakerState.CLOSED
        assert numbers(store) == list(range(5_500))
        assert [len(batch) for batch in store.batches[:5]] == [1_000] * 5
    check_tables(store)


async def test_rows_that_come_during_a_replay_go_behind_it(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    backlog(disk, 5_000)
    store.latency_s = 1.0
    async with running(store, disk) as sinks:
        for n in range(5_000, 5_010):
            await trio.sleep(0.5)
            sinks.send(n)
        await trio.sleep(60)
        assert sinks.state() is BreakerState.CLOSED
    assert numbers(store) == list(range(5_010))
    check_tables(store)


async def test_rows_and_the_hand_over_meet_at_every_moment(autojump_clock: MockClock) -> None:
    latency_s = 1 / 64  # a power of two: sums of it are the same instants exactly
    for steps in range(60):
        store, disk = FakeStore(), FakeDisk()
        backlog(disk, 5)
        store.latency_s = latency_s
        async with running(store, disk) as sinks:
            await trio.sleep(latency_s * (1 + steps // 20))
            for _ in range(steps % 20):
                await trio.lowlevel.checkpoint()
            sinks.send(5)
            await trio.sleep(0.002)
            sinks.send(6)
            await trio.sleep(5)
            assert sinks.state() is BreakerState.CLOSED
            assert not sinks.spool.backlog_bytes
        assert numbers(store) == list(range(7))
        check_tables(store)


@pytest.mark.parametrize("latency_s", [0.01, 0.09, 0.15, 0.3])
async def test_rows_that_come_faster_than_the_database_answers_are_handed_over_too(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock, latency_s: float
) -> None:
    """Else the spool would never be empty, and so grow for ever."""
    disk.delay_s = 0.005
    store.latency_s = latency_s
    store.trouble = Mishap.REFUSED
    async with running(store, disk) as sinks:
        for n in range(1_000):
            sinks.send(n)
            await trio.sleep(0.1)
            if n == 50:
                assert sinks.state() is BreakerState.OPEN
                store.trouble = None
        assert sinks.state() is BreakerState.CLOSED
        await trio.sleep(1)
        assert disk.content(BUFFER) == b""
    assert numbers(store) == list(range(1_000))
    check_tables(store)


async def test_a_row_that_slips_into_the_spool_at_the_last_moment_is_not_overtaken(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backlog(disk, 5)
    sinks = Sinks(store, disk, await Spool.open(BUFFER, disk=disk, now=now))
    close = sinks.breaker.close

    def slip_in_and_close(reason: str) -> Transition | None:
        assert numbers(store) == list(range(5))
        sinks.send(5)
        return close(reason)

    monkeypatch.setattr(sinks.breaker, "close", slip_in_and_close)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sinks.run)
        await trio.sleep(1)
        sinks.send(6)
        sinks.end()
    assert sinks.state() is BreakerState.CLOSED
    assert numbers(store) == list(range(7))
    check_tables(store)


async def test_a_replay_that_stops_half_way_goes_on_there(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    backlog(disk, 3_000)
    store.latency_s = 0.1
    async with running(store, disk) as sinks:
        await trio.sleep(0.25)  # a question, then two batches
        store.trouble = Mishap.REFUSED
        await trio.sleep(1)
        assert sinks.state() is BreakerState.OPEN
        assert numbers(store) == list(range(2_000))
        store.trouble = None
        tried = len(store.batches)
        await trio.sleep(60)
        assert numbers(store) == list(range(3_000))
        assert len(store.batches[tried]) == 1_000
    check_tables(store)


async def test_a_line_too_slow_for_a_whole_batch_gets_smaller_ones(
    disk: FakeDisk, autojump_clock: MockClock
) -> None:
    class SlowLine(FakeStore):
        """Fifteen milliseconds a row: a thousand never arrive in time."""

        async def write(self, records: object, **to: object) -> int:
            self.latency_s = 0.015 * len(records)  # type: ignore[arg-type]
            return await super().write(records, **to)  # type: ignore[arg-type]

    store = SlowLine()
    backlog(disk, 3_000)
    async with running(store, disk) as sinks:
        await trio.sleep(300)
        assert sinks.state() is BreakerState.CLOSED
    assert numbers(store) == list(range(3_000))


async def test_tables_that_take_minutes_to_complete_are_completed_in_one_go(
    disk: FakeDisk, autojump_clock: MockClock
) -> None:
    """The server undoes what its client has given up: small attempts never get anywhere."""

    class LargeTables(FakeStore):
        async def ensure_schema(self) -> None:
            await trio.sleep(300)
            await super().ensure_schema()

    store = LargeTables()
    store.drop_schema()
    async with running(store, disk) as sinks:
        for n in range(60):
            sinks.send(n)
            await trio.sleep(3)
            assert not sinks.waiting()
            await trio.sleep(2)
        await trio.sleep(120)
        assert sinks.state() is BreakerState.CLOSED
        assert store.schema_calls == 1
        assert numbers(store) == list(range(60))
    check_tables(store)


async def test_only_making_the_tables_may_take_minutes_not_the_write_into_them(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    backlog(disk, 3)
    store.drop_schema()
    store.next_troubles += [Mishap.SCHEMA_MISSING, Mishap.SILENT]
    async with running(store, disk) as sinks:
        await trio.sleep(FLUSH_INTERVAL_S + 2 * REPLAY_TIMEOUT_S)
        assert sinks.state() is BreakerState.CLOSED
    assert numbers(store) == [0, 1, 2]


async def test_leftovers_of_one_failure_do_not_wait_for_the_next_row(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        await trio.sleep(1)
        store.next_troubles.append(Mishap.SILENT)
        sinks.send(0)
        await trio.sleep(58)
        assert numbers(store) == []
        await trio.sleep(2)
        assert numbers(store) == [0]
        assert disk.content(BUFFER) == b""


async def test_every_change_of_the_circuit_is_an_event_in_order(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    backlog(disk, 3)
    store.trouble = Mishap.REFUSED
    async with running(store, disk):
        await trio.sleep(2 * FLUSH_INTERVAL_S + 1)
        store.trouble = None
        await trio.sleep(FLUSH_INTERVAL_S)
    assert {*kinds(store)} == {CircuitOpened.kind, CircuitChanged.kind, CircuitClosed.kind}
    changes = [change for _, change in circuit(store)]
    there_and_back = ["OPEN → HALF_OPEN", "HALF_OPEN → OPEN"]
    assert changes == [
        "CLOSED → OPEN",
        *there_and_back * 3,
        "OPEN → HALF_OPEN",
        "HALF_OPEN → CLOSED",
    ]
    check_tables(store)


async def test_a_spool_that_cannot_be_read_is_tried_again(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    backlog(disk, 3)
    async with running(store, disk) as sinks:
        pass
    backlog(disk, 6)
    sinks = Sinks(store, disk, await Spool.open(BUFFER, disk=disk, now=now))
    disk.failing["pread"] = errno.EIO
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sinks.run)
        await trio.sleep(30)
        assert sinks.state() is BreakerState.OPEN
        disk.failing.clear()
        await trio.sleep(40)
        assert sinks.state() is BreakerState.CLOSED
        sinks.end()
    assert numbers(store) == list(range(6))


async def test_it_may_be_cancelled_in_the_middle_of_a_batch(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    backlog(disk, 2_500)
    for after_s in (0.005, 0.015, 0.02, 0.025):
        sinks = Sinks(store, disk, await Spool.open(BUFFER, disk=disk, now=now))
        store.latency_s = 0.01
        with trio.move_on_after(after_s):
            await run_flusher(sinks.delivery, 60.0)
        sinks.spool.close()
        store.in_use = False
    async with running(store, disk):
        await trio.sleep(1)
    assert numbers(store) == list(range(2_500))
    check_tables(store)


async def test_a_frozen_database_holds_a_replay_up_no_longer_than_its_deadline(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    backlog(disk, 10)
    store.freeze()
    async with running(store, disk) as sinks:
        await trio.sleep(REPLAY_TIMEOUT_S + 0.1)
        assert sinks.state() is BreakerState.OPEN
        store.thaw(commit_late=True)
        await trio.sleep(60)
    assert numbers(store) == list(range(10))
    check_tables(store)


async def test_the_goodbye_stops_a_long_replay_between_two_batches(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    backlog(disk, 50_000)
    store.latency_s = 1.0
    async with running(store, disk):
        await trio.sleep(3.5)
        left = trio.current_time()
    assert trio.current_time() - left < 2
    store.latency_s = 0.0
    async with running(store, disk):
        await trio.sleep(1)
    assert numbers(store) == list(range(50_000))


async def test_nothing_is_begun_after_the_end(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    backlog(disk, 10_000)
    store.latency_s = 1.0
    sinks = Sinks(store, disk, await Spool.open(BUFFER, disk=disk, now=now))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sinks.delivery.flush)
        await trio.sleep(1.5)
        sinks.delivery.end()
    assert numbers(store) == list(range(2_000))
    await sinks.delivery.flush()
    assert len(store.batches) == 2
    assert sinks.state() is BreakerState.HALF_OPEN


async def test_what_a_replay_could_not_note_down_is_noted_without_any_new_row(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    backlog(disk, 10)
    store.rejects = lambda record: "22003" if number_of(record) == 3 else None
    sinks = Sinks(store, disk, await Spool.open(BUFFER, disk=disk, now=now))
    disk.failing["create"] = errno.ENOSPC
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sinks.run)
        await trio.sleep(10)
        assert sinks.state() is BreakerState.CLOSED
        assert quarantined(disk) == []
        disk.failing.clear()
        await trio.sleep(2)
        assert len(quarantined(disk)) == 1
        assert disk.content(BUFFER) == b""
        sinks.end()


async def test_a_replay_that_is_cut_off_is_repeated_by_a_few_chunks_only(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "DURABLE_EVERY", 5)
    backlog(disk, 20_000)
    store.latency_s = 1.0
    sinks = Sinks(store, disk, await Spool.open(BUFFER, disk=disk, now=now))
    with trio.move_on_after(15.5):
        await sinks.delivery.flush()
    disk.crash()
    disk.restart()
    assert numbers(store) == list(range(15_000))
    store.batches.clear()
    async with running(store, disk):
        await trio.sleep(60)
    again = sum(number_of(row) in range(15_000) for batch in store.batches for row in batch)
    assert 0 < again <= 6_000
    assert numbers(store) == list(range(20_000))


async def test_damage_is_told_although_the_database_goes_in_the_middle_of_its_chunk(
    disk: FakeDisk, autojump_clock: MockClock
) -> None:
    class GoneAfterHalfAChunk(FakeStore):
        async def write(self, records: object, **to: object) -> int:
            if len(self.batches) == 0:
                self.batches.append([])
                await trio.sleep_forever()  # from now on batches are half as large
            if len(self.batches) == 2:
                self.next_troubles.append(Mishap.REFUSED)
            return await super().write(records, **to)  # type: ignore[arg-type]

    store = GoneAfterHalfAChunk()
    backlog(disk, 900)
    lines = (disk.content(BUFFER) or b"").splitlines(keepends=True)
    disk.put(BUFFER, b"".join([*lines[:100], b"damaged\n", *lines[100:]]))
    async with running(store, disk) as sinks:
        await trio.sleep(70)
        assert len(numbers(store)) == 450
        assert len(quarantined(disk)) == 1
        assert sinks.delivery.status.quarantined == 1
        await trio.sleep(60)
        assert sinks.state() is BreakerState.CLOSED
    assert numbers(store) == list(range(900))
    assert kinds(store).count(RowsQuarantined.kind) == 1


async def test_damaged_lines_that_find_no_room_anywhere_stop_the_replay_and_are_not_lost(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    """The last of them finds no room; the good rows behind it must not carry it away."""
    damaged = [b"%02d" % n + b"x" * 1_040_000 + b"\n" for n in range(5)]
    backlog(disk, 100)
    disk.put(BUFFER, b"".join(damaged) + (disk.content(BUFFER) or b""))
    sinks = Sinks(store, disk, await Spool.open(BUFFER, disk=disk, now=now))
    disk.failing["create"] = errno.ENOSPC
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sinks.run)
        await trio.sleep(10)
        assert sinks.state() is BreakerState.OPEN
        disk.failing.clear()
        await trio.sleep(60)
        assert sinks.state() is BreakerState.CLOSED
        sinks.end()
    assert numbers(store) == list(range(100))
    lines = [entry["line"][:2] for entry in quarantined(disk)]
    assert sorted(set(lines)) == [line[:2].decode() for line in damaged]


# A row that is refused for a reason of the database's own


def refused(*refused: int) -> Callable[[Record], bool]:
    return lambda record: record.table == PORTFOLIO_GREEKS.name and number_of(record) in refused


async def run_for(sinks: Sinks, numbers: range) -> None:
    for number in numbers:
        sinks.send(number)
        await trio.sleep(5)


async def test_a_row_alone_that_is_refused_again_and_again_is_set_aside(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    store.unclear = refused(3, 4, 20)
    async with running(store, disk) as sinks:
        await run_for(sinks, range(60))
        await trio.sleep(3 * FLUSH_INTERVAL_S)
        assert sinks.state() is BreakerState.CLOSED
    assert numbers(store) == [n for n in range(60) if n not in (3, 4, 20)]
    assert [entry["sqlstate"] for entry in quarantined(disk)] == ["P0001"] * 3
    assert RowsQuarantined.kind in kinds(store)
    check_tables(store)


async def test_one_refusal_sets_nothing_aside(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        store.unclear = refused(3)
        await run_for(sinks, range(5))
        store.unclear = refused()
        await run_for(sinks, range(5, 30))
        await trio.sleep(FLUSH_INTERVAL_S)
    assert numbers(store) == list(range(30))
    assert quarantined(disk) == []


@pytest.mark.parametrize("table", [PORTFOLIO_GREEKS.name, None])
async def test_a_database_that_refuses_every_row_of_a_table_sets_nothing_aside(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock, table: str | None
) -> None:
    async with running(store, disk) as sinks:
        store.unclear = lambda record: table in (None, record.table)
        await run_for(sinks, range(300))
        assert numbers(store) == []
        assert quarantined(disk) == []
        store.unclear = refused()
        await trio.sleep(2 * FLUSH_INTERVAL_S)
    assert numbers(store) == list(range(300))


async def test_an_outage_during_the_trial_sets_nothing_aside(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    class FailingTrials(FakeStore):
        tried = 0

        async def try_out(self, record: Record) -> bool:
            self.tried += 1
            raise OutageError("gone")

    failing = FailingTrials()
    failing.unclear = refused(3)
    async with running(failing, disk) as sinks:
        await run_for(sinks, range(60))
        assert failing.tried > 0
        assert quarantined(disk) == []
        failing.unclear = refused()
        await trio.sleep(2 * FLUSH_INTERVAL_S)
    assert numbers(failing) == list(range(60))


# A spool that another program takes away


async def test_rows_that_were_taken_away_are_an_error_with_their_size(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        store.trouble = Mishap.REFUSED
        await run_for(sinks, range(10))
        gone = len(disk.durable(BUFFER))
        disk.put(BUFFER, b"")  # `mv` and `touch`, as log rotation does
        await run_for(sinks, range(10, 20))
        store.trouble = None
        await trio.sleep(2 * FLUSH_INTERVAL_S)
    (told,) = [row for row in store.tables[API_LOGS.name] if row["kind"] == SpoolTakenAway.kind]
    assert told["status"] == "error"
    assert told["numbers"] == {"bytes_gone": gone}
    assert numbers(store) == list(range(10, 20))
