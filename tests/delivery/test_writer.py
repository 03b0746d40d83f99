"""Rows become safe in time and in order, whatever database and disk do."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from tests.delivery.sinks import (
    BUFFER,
    DB_TIMEOUT_S,
    QUARANTINE,
    Sinks,
    check_tables,
    circuit,
    kinds,
    messages,
    now,
    numbers,
    quarantined,
    running,
    spooled,
)
from tests.support.rows import number_of
from trio_bridge.delivery import delivery
from trio_bridge.delivery.breaker import BreakerState
from trio_bridge.events.rows import (
    CircuitChanged,
    CircuitClosed,
    CircuitOpened,
    RowsDropped,
    RowsQuarantined,
    RowsSafe,
    SpoolUnwritable,
)
from trio_bridge.rows import PORTFOLIO_GREEKS
from trio_bridge.stores.fake import FakeStore, Mishap
from trio_bridge.stores.spool.fake_disk import FakeDisk
from trio_bridge.stores.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from trio_bridge.stores.record import Record

SAFE_WITHIN_S = DB_TIMEOUT_S + 1.0

T = TypeVar("T")


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def disk() -> FakeDisk:
    return FakeDisk()


def poison(*bad: int) -> Callable[[Record], str | None]:
    """The database will never take these numbers."""

    def rejects(record: Record) -> str | None:
        return "22003" if number_of(record) in bad else None

    return rejects


def kept(store: FakeStore, disk: FakeDisk) -> set[int]:
    """The numbers that are safe: committed, or durable in the spool."""
    return {*numbers(store), *(int(row["delta"]) for row in spooled(disk) if "delta" in row)}


async def test_rows_go_straight_to_a_healthy_database(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        sinks.send(0)
        await trio.sleep(5)
        calls = len(disk.calls)
        for n in range(1, 20):
            sinks.send(n)
            await trio.sleep(5)
            assert numbers(store) == list(range(n + 1))
            assert disk.content(BUFFER) == b""
        per_row = ["pwrite", "pwrite", "truncate"]  # the spool, what is sent, the spool
        assert disk.calls[calls:] == per_row * 19, "no fsync"
    check_tables(store)


async def test_what_has_piled_up_goes_in_one_transaction(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        for n in range(500):
            sinks.send(n)
        await trio.sleep(1)
        assert numbers(store) == list(range(500))
        assert len(store.batches) <= 2


@pytest.mark.parametrize("trouble", list(Mishap))
async def test_a_row_is_safe_in_time_whatever_the_database_does(
    store: FakeStore, disk: FakeDisk, trouble: Mishap, autojump_clock: MockClock
) -> None:
    store.ensure_schema_helps = False
    async with running(store, disk) as sinks:
        store.trouble = trouble
        for n in range(40):
            sinks.send(n)
            await trio.sleep(SAFE_WITHIN_S)
            assert n in kept(store, disk)
            await trio.sleep(5 - SAFE_WITHIN_S)
        store.trouble = None
        store.ensure_schema_helps = True
        await trio.sleep(120)
        assert numbers(store) == list(range(40))
        assert sinks.state() is BreakerState.CLOSED
    check_tables(store)


@pytest.mark.parametrize("gap_s", [0.1, 0.4, 1.9, 2.1])
@pytest.mark.parametrize("latency_s", [1.0, 1.9, 2.5])
async def test_a_row_that_waits_behind_a_slow_write_is_safe_in_time_too(
    store: FakeStore, disk: FakeDisk, gap_s: float, latency_s: float, autojump_clock: MockClock
) -> None:
    store.latency_s = latency_s

    async def check(number: int) -> None:
        await trio.sleep(SAFE_WITHIN_S)
        assert number in kept(store, disk)

    async with running(store, disk) as sinks, trio.open_nursery() as nursery:
        for n in range(60):
            sinks.send(n)
            nursery.start_soon(check, n)
            await trio.sleep(gap_s)
    store.latency_s = 0
    async with running(store, disk):
        await trio.sleep(1)
    assert numbers(store) == list(range(60))
    check_tables(store)


async def test_one_failure_takes_its_row_along_with_the_next(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        store.next_troubles.append(Mishap.REFUSED)
        sinks.send(0)
        await trio.sleep(5)
        assert numbers(store) == []
        sinks.send(1)
        await trio.sleep(1)
        assert numbers(store) == [0, 1]
        assert disk.content(BUFFER) == b""
    assert messages(store) == []


async def test_the_third_failure_leaves_the_database_alone_until_the_flusher_comes(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        store.trouble = Mishap.REFUSED
        for n in range(11):
            sinks.send(n)
            await trio.sleep(5)
        assert len(store.batches) == 3
        store.trouble = None
        await trio.sleep(4)
        assert numbers(store) == []
        await trio.sleep(2)
        assert numbers(store) == list(range(11))
    assert circuit(store) == [
        (CircuitOpened.kind, "CLOSED → OPEN"),
        (CircuitChanged.kind, "OPEN → HALF_OPEN"),
        (CircuitClosed.kind, "HALF_OPEN → CLOSED"),
    ]
    check_tables(store)


async def test_a_late_commit_of_a_frozen_server_doubles_nothing(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        sinks.send(0)
        await trio.sleep(5)
        store.freeze()
        for n in range(1, 4):
            sinks.send(n)
            await trio.sleep(5)
            assert n in kept(store, disk)
        store.thaw(commit_late=True)
        assert numbers(store) == [0, 1]
        await trio.sleep(120)
    assert numbers(store) == [0, 1, 2, 3]
    check_tables(store)


async def test_rows_of_the_last_run_come_before_the_own(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    store.trouble = Mishap.REFUSED
    async with running(store, disk) as sinks:
        for n in range(5):
            sinks.send(n)
    store.trouble = None
    async with running(store, disk) as sinks:
        sinks.send(5)
        await trio.sleep(1)
    assert numbers(store) == [0, 1, 2, 3, 4, 5]
    check_tables(store)


async def test_a_large_backlog_delays_no_new_row(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    store.trouble = Mishap.REFUSED
    async with running(store, disk) as sinks:
        for n in range(30_000):
            sinks.send(n)
            if n % 500 == 0:
                await trio.sleep(0.001)
    store.trouble = None
    store.latency_s = 1.5  # a second and a half for each thousand
    async with running(store, disk) as sinks:
        for n in range(30_000, 30_010):
            sinks.send(n)
            await trio.sleep(0.1)
            assert n in kept(store, disk)
        store.latency_s = 0.01
        await trio.sleep(10)
    assert numbers(store) == list(range(30_010))
    check_tables(store)


# Rows that the database will never take


@pytest.mark.parametrize("bad", [(0,), (7,), (19,), (0, 1, 2), (5, 13, 14, 19)])
async def test_neighbours_of_a_poison_row_arrive_in_order(
    store: FakeStore, disk: FakeDisk, bad: tuple[int, ...], autojump_clock: MockClock
) -> None:
    store.rejects = poison(*bad)
    async with running(store, disk) as sinks:
        for n in range(20):
            sinks.send(n)
        await trio.sleep(1)
        assert numbers(store) == [n for n in range(20) if n not in bad]
        entries = quarantined(disk)
        assert [entry["sqlstate"] for entry in entries] == ["22003"] * len(bad)
        assert [f'"delta":{n}.0' in entry["line"] for n, entry in zip(bad, entries, strict=True)]
        assert sinks.breaker.failures == 0
        assert sinks.delivery.status.quarantined == len(bad)
    assert str(QUARANTINE) in messages(store)[0]
    check_tables(store)


async def test_poison_in_the_spool_is_quarantined_too(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    store.rejects = poison(3, 700, 999)
    store.trouble = Mishap.REFUSED
    async with running(store, disk) as sinks:
        for n in range(1_000):
            sinks.send(n)
    store.trouble = None
    async with running(store, disk) as sinks:
        await trio.sleep(1)
        assert sinks.state() is BreakerState.CLOSED
    assert numbers(store) == [n for n in range(1_000) if n not in (3, 700, 999)]
    assert len(quarantined(disk)) == 3


async def test_a_database_that_rejects_every_event_does_not_feed_on_its_own_reports(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    store.rejects = lambda record: None if record.table == PORTFOLIO_GREEKS.name else "23514"
    async with running(store, disk) as sinks:
        for n in range(60):
            sinks.send(n)
            sinks.send_event("something happened")
            await trio.sleep(5)
    assert numbers(store) == list(range(60))
    assert 60 <= len(quarantined(disk)) <= 70


async def test_what_was_quarantined_since_the_last_report_is_reported_at_the_end(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    store.rejects = poison(0, 1, 2)
    async with running(store, disk) as sinks:
        for n in range(3):
            sinks.send(n)
            await trio.sleep(5)
    reports = [row for row in store.tables["api_logs"] if row["kind"] == RowsQuarantined.kind]
    assert [row["numbers"] for row in reports] == [{"rows": 1}, {"rows": 2}]


async def test_a_nul_in_a_message_is_quarantined(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        sinks.send_event("good")
        sinks.send_event("bad \0")
        sinks.send_event("better")
        await trio.sleep(1)
    assert messages(store)[:2] == ["good", "better"]
    assert quarantined(disk)[0]["sqlstate"] == "22P05"


async def test_a_missing_table_is_made_again_and_the_row_is_in(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        store.drop_schema()
        sinks.send(0)
        await trio.sleep(1)
        assert numbers(store) == [0]
        assert store.schema_calls == 1
        assert sinks.breaker.failures == 0


async def test_a_new_database_is_no_trouble_but_a_table_that_goes_is(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    """Nothing to worry about in a user's first minute, and a dropped table not overlooked."""
    async with running(store, disk) as sinks:
        for n in range(2):
            store.drop_schema()
            with capture_logs() as logs:
                sinks.send(n)
                await trio.sleep(1)
            found = [(one["log_level"], one["event"]) for one in logs]
            assert ("SQLSTATE" in str(logs) or "42P01" in str(logs)) is bool(n)
            assert (
                found
                == [
                    [("info", "making the tables ready")],
                    [("warning", "table or column missing: making it")],
                ][n]
            )


async def test_a_table_that_stays_missing_counts_as_an_outage(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    store.ensure_schema_helps = False
    store.drop_schema()
    async with running(store, disk) as sinks:
        for n in range(5):
            sinks.send(n)
            await trio.sleep(1)
        assert sinks.state() is BreakerState.OPEN
        assert store.schema_calls == 3
        store.ensure_schema_helps = True
        await trio.sleep(60)
    assert numbers(store) == [0, 1, 2, 3, 4]


# A disk that fails


async def test_a_full_disk_and_a_healthy_database_lose_nothing(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        disk.capacity = 0
        for n in range(20):
            sinks.send(n)
            await trio.sleep(5)
    assert numbers(store) == list(range(20))
    assert kinds(store) == [SpoolUnwritable.kind]


async def test_rows_wait_in_memory_until_the_disk_has_room(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        store.trouble = Mishap.REFUSED
        disk.capacity = 0
        for n in range(40):
            sinks.send(n)
            await trio.sleep(5)
        assert kept(store, disk) == set()
        disk.capacity = None
        await trio.sleep(1.1)
        assert kept(store, disk) == set(range(40))
        store.trouble = None
        await trio.sleep(120)
    assert numbers(store) == list(range(40))
    assert kinds(store).count(SpoolUnwritable.kind) == 1
    assert kinds(store).count(RowsSafe.kind) == 1
    check_tables(store)


async def test_rows_in_memory_reach_a_database_that_comes_back_although_the_disk_stays_full(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        store.trouble = Mishap.REFUSED
        disk.capacity = 0
        for n in range(20):
            sinks.send(n)
            await trio.sleep(5)
        assert sinks.state() is BreakerState.OPEN
        store.trouble = None
        await trio.sleep(61)
        assert sinks.state() is BreakerState.CLOSED
        assert numbers(store) == list(range(20))
        sinks.send(20)
        await trio.sleep(1)
        assert numbers(store)[-1] == 20
    check_tables(store)


async def test_a_disk_that_fills_up_behind_a_backlog_loses_nothing(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        store.trouble = Mishap.SILENT
        for n in range(20):
            if n == 10:
                disk.capacity = len(disk.content(BUFFER) or b"") + 100
            sinks.send(n)
            await trio.sleep(5)
        store.trouble = None
        await trio.sleep(120)
        assert numbers(store) == list(range(20))
        assert disk.content(BUFFER) == b""
    check_tables(store)


async def test_memory_is_bounded_and_the_gap_is_stated(
    store: FakeStore, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(delivery, "QUEUE_LIMIT", 50)
    async with running(store, disk) as sinks:
        store.trouble = Mishap.REFUSED
        disk.capacity = 0
        for n in range(80):
            sinks.send(n)
            await trio.sleep(1)
            assert sinks.delivery.waiting <= 50
        dropped = sinks.delivery.status.dropped
        assert dropped > 30
        disk.capacity = None
        store.trouble = None
        await trio.sleep(120)
        sinks.send(80)
        await trio.sleep(1)
    arrived = numbers(store)
    assert arrived == [*range(len(arrived) - 1), 80]
    (loss,) = [row for row in store.tables["api_logs"] if row["kind"] == RowsDropped.kind]
    assert loss["numbers"] == {"rows": dropped}
    assert " from 2026-01-02T14:30:" in loss["message"]
    check_tables(store)


async def test_a_spool_that_cannot_be_read_holds_back_rows_but_not_their_safety(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        disk.failing["pread"] = errno.EIO
        for n in range(100):
            sinks.send(n)
            await trio.sleep(5)
            assert n in kept(store, disk)
        disk.failing.clear()
        await trio.sleep(60)
        assert numbers(store) == list(range(100))
    assert len(messages(store)) < 25, "two for each probe, not one for each row"
    check_tables(store)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", ["pwrite", "fsync"])
async def test_one_failure_of_the_disk_costs_a_second(
    store: FakeStore, disk: FakeDisk, call: str, error: int, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        store.trouble = Mishap.REFUSED
        disk.fail_next.append((call, error))
        sinks.send(0)
        await trio.sleep(1.1)
        assert kept(store, disk) == {0}


# The goodbye


async def test_the_last_rows_are_in_the_database_when_the_writer_ends(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    store.latency_s = 0.5
    async with running(store, disk) as sinks:
        for n in range(30):
            sinks.send(n)
    assert numbers(store) == list(range(30))


async def test_a_frozen_database_does_not_hold_up_the_goodbye(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        store.freeze()
        for n in range(30):
            sinks.send(n)
        left = trio.current_time()
    assert trio.current_time() - left < SAFE_WITHIN_S
    assert kept(store, disk) == set(range(30))


@pytest.mark.parametrize("after_s", [0.0, 0.001, 1.0, 2.0, 2.001])
async def test_a_writer_that_is_cancelled_fsyncs_what_it_holds(
    store: FakeStore, disk: FakeDisk, after_s: float, autojump_clock: MockClock
) -> None:
    store.trouble = Mishap.SILENT
    disk.delay_s = 0.001
    spool = await Spool.open(BUFFER, disk=disk, now=now)
    sinks = Sinks(store, disk, spool)
    for n in range(100):
        sinks.send(n)
    with trio.move_on_after(after_s):
        await sinks.run()
    assert kept(store, disk) == set(range(100))
    store.trouble = None
    async with running(store, disk):
        await trio.sleep(1)
    assert numbers(store) == list(range(100))
    check_tables(store)


async def test_a_crash_beside_the_writer_loses_nothing(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    store.trouble = Mishap.SILENT
    spool = await Spool.open(BUFFER, disk=disk, now=now)
    sinks = Sinks(store, disk, spool)

    async def crash() -> None:
        sinks.send(0)
        await trio.sleep(0.5)
        sinks.send(1)
        raise RuntimeError("a bug among the sources")

    with pytest.RaisesGroup(RuntimeError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sinks.run)
            nursery.start_soon(crash)
    assert kept(store, disk) == {0, 1}


async def test_a_bug_in_the_store_crashes_loudly_after_the_rows_are_safe(
    store: FakeStore, disk: FakeDisk, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def write(records: object, **to: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(store, "write", write)
    spool = await Spool.open(BUFFER, disk=disk, now=now)
    sinks = Sinks(store, disk, spool)
    sinks.send(0)
    with pytest.raises(BaseExceptionGroup) as caught:
        await sinks.run()
    assert caught.group_contains(ZeroDivisionError)
    assert kept(store, disk) == {0}


async def test_a_disk_that_hangs_does_not_hold_up_a_cancelled_writer_for_ever(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    store.trouble = Mishap.REFUSED
    sinks = Sinks(store, disk, await Spool.open(BUFFER, disk=disk, now=now))
    disk.delay_s = 3600
    sinks.send(0)
    start = trio.current_time()
    with trio.move_on_after(1):
        await sinks.run()
    assert trio.current_time() - start <= 1 + delivery.RESCUE_TIMEOUT_S


async def test_own_events_stay_behind_rows_that_are_still_in_the_channel(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    """At the very instant at which the circuit opens, events of others are on their way."""

    async def send_at(sinks: Sinks, instant: float, turns: int) -> None:
        await trio.sleep_until(instant)
        for _ in range(turns):  # still the same instant
            await trio.lowlevel.checkpoint()
        sinks.send_event("at the same instant")

    for _ in range(30):  # the order of tasks within an instant is random
        async with running(store, disk, flusher=False) as sinks, trio.open_nursery() as nursery:
            store.next_troubles.extend([Mishap.SILENT] * 3)
            for n in range(3):
                sinks.send(n)
                for turns in range(8):
                    nursery.start_soon(send_at, sinks, trio.current_time() + DB_TIMEOUT_S, turns)
                await trio.sleep(5)
            assert any("→ OPEN" in row.get("message", "") for row in spooled(disk))
        async with running(store, disk):
            await trio.sleep(1)
    assert sum("CLOSED → OPEN: 3 failures" in text for text in messages(store)) == 30
    check_tables(store)


async def test_failures_that_are_not_in_a_row_do_not_open_the_circuit(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        for n in range(6):
            if n % 3 < 2:
                store.next_troubles.append(Mishap.REFUSED)
            sinks.send(n)
            await trio.sleep(5)
    assert messages(store) == []
    assert numbers(store) == list(range(6))


async def test_a_row_behind_a_slow_one_is_fsynced_in_time_and_breaks_no_connection(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        sinks.send(0)
        await trio.sleep(1)
        store.latency_s = 1.9
        sinks.send(1)
        await trio.sleep(0.1)
        sinks.send(2)
        await trio.sleep(2.1)
        assert numbers(store) == [0, 1]
        assert kept(store, disk) == {0, 1, 2}
        await trio.sleep(1.9)
        assert numbers(store) == [0, 1, 2]
        assert sinks.breaker.failures == 0


async def test_memory_is_the_probe_while_the_spool_is_empty_and_full(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    """A database that is still down must not be taken for healthy because nothing was spooled."""
    async with running(store, disk) as sinks:
        store.trouble = Mishap.REFUSED
        disk.capacity = 0
        for n in range(3):
            sinks.send(n)
            await trio.sleep(5)
        tries = len(store.batches)
        await trio.sleep(300)
        assert len(store.batches) - tries == 5
        store.trouble = None
        await trio.sleep(60)
    assert sum("→ CLOSED" in text for text in messages(store)) == 1
    assert numbers(store) == [0, 1, 2]


async def test_poison_that_found_no_room_in_the_quarantine_is_put_there_within_seconds(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    store.rejects = poison(1)
    async with running(store, disk) as sinks:
        disk.capacity = 0
        for n in range(3):
            sinks.send(n)
        await trio.sleep(10)
        assert numbers(store) == [0, 2]
        disk.capacity = None
        await trio.sleep(2)
        assert len(quarantined(disk)) == 1


async def test_a_writer_that_is_cancelled_gives_poison_a_last_chance(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    store.rejects = poison(0)
    sinks = Sinks(store, disk, await Spool.open(BUFFER, disk=disk, now=now))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sinks.run)
        disk.capacity = 0
        sinks.send(0)
        await trio.sleep(0.5)
        assert not numbers(store)
        assert not quarantined(disk)
        disk.capacity = None
        nursery.cancel_scope.cancel()
    assert len(quarantined(disk)) == 1


async def test_a_rescue_beside_a_write_in_flight_takes_no_other_row_out_of_the_queue(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    """The disk is full, so a row goes to the database from memory; then there is room again."""
    async with running(store, disk) as sinks:
        sinks.send(0)
        await trio.sleep(1)
        store.latency_s = 1.0
        disk.capacity = 0
        sinks.send(1)
        await trio.sleep(0.5)
        disk.capacity = None
        await sinks.delivery.rescue()
        assert sinks.waiting() == 0
        assert kept(store, disk) >= {0, 1}
        sinks.send(2)
        await trio.sleep(0.6)
        assert numbers(store) == [0, 1]
        await trio.sleep(5)
    assert numbers(store) == [0, 1, 2]
    check_tables(store)


async def test_rows_sent_at_the_very_moment_of_the_cancellation_are_kept(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    sinks = Sinks(store, disk, await Spool.open(BUFFER, disk=disk, now=now))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sinks.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
        for n in range(3):
            sinks.send(n)
    assert kept(store, disk) == {0, 1, 2}


async def test_the_flushers_last_word_is_kept_too(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    """The third failure is the flusher's, and the goodbye comes while it waits for it."""
    store.trouble = Mishap.SILENT
    async with running(store, disk) as sinks:
        sinks.send(0)
        await trio.sleep(30)
        sinks.send(1)
        await trio.sleep(31)
        assert sinks.breaker.failures == 2
    assert any("→ OPEN" in row.get("message", "") for row in spooled(disk))


async def test_a_row_that_is_shipped_before_its_writer_knows_that_it_is_written_is_safe_at_once(
    store: FakeStore, autojump_clock: MockClock
) -> None:
    """A thread's result comes a moment after its work is done."""

    class LateDisk(FakeDisk):
        late_s = 0.0

        async def run(self, job: Callable[[], T]) -> T:
            late_s = self.late_s
            done = await super().run(job)
            await trio.sleep(late_s)
            return done

    disk = LateDisk()
    async with running(store, disk) as sinks:
        sinks.send(0)
        await trio.sleep(1)
        disk.late_s = 0.3
        sinks.send(1)
        await trio.sleep(0.1)
        disk.late_s = 0.0
        sinks.delivery._to_ship.set()
        await trio.sleep(0.1)
        assert numbers(store) == [0, 1]
        await trio.sleep(0.2)
        assert sinks.waiting() == 0
