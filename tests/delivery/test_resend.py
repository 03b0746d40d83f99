"""What a failover takes away comes back; what an owner deletes does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import orjson
import pytest
import trio

from tests.delivery.sinks import BUFFER, KEEP, Sinks, check_tables, now, numbers, running
from tests.support.rows import number_of, record
from trio_bridge.delivery import resend
from trio_bridge.events.rows import RowsSentAgain
from trio_bridge.rows import API_LOGS, PORTFOLIO_GREEKS
from trio_bridge.stores.fake import FakeStore, Mishap
from trio_bridge.stores.record import record_of
from trio_bridge.stores.spool import sent
from trio_bridge.stores.spool.fake_disk import FakeDisk
from trio_bridge.stores.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock

    from trio_bridge.stores.base import Server
    from trio_bridge.stores.record import Record


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def disk() -> FakeDisk:
    return FakeDisk()


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sent, "SEGMENT_BYTES", 2_000)  # about five rows
    monkeypatch.setattr(resend, "LARGEST_BATCH", 3)


async def record_rows(sinks: Sinks, first: int, last: int) -> None:
    for n in range(first, last):
        sinks.send(n)
        await trio.sleep(5)


def told(store: FakeStore) -> list[int]:
    """How many rows each event says were sent again."""
    rows = store.tables[API_LOGS.name]
    return [row["numbers"]["rows"] for row in rows if row["kind"] == RowsSentAgain.kind]


@pytest.mark.parametrize("lost", [1, 2, 3, 7, 11, 12, 20])
async def test_what_a_failover_lost_is_sent_again_before_any_new_row(
    store: FakeStore, disk: FakeDisk, lost: int, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        await record_rows(sinks, 0, 20)
        store.restart(losing=lost)
        assert numbers(store) == list(range(20 - lost))
        await record_rows(sinks, 20, 22)
    assert numbers(store) == list(range(22))
    assert told(store) == [lost]
    check_tables(store)


async def test_nothing_is_sent_again_where_nothing_is_missing(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        await record_rows(sinks, 0, 10)
        store.restart()
        store.batches.clear()
        await record_rows(sinks, 10, 12)
        sent_again = [number_of(row) for batch in store.batches for row in batch]
        assert sent_again == [10, 10, 11]  # the first was refused by the new server
    assert told(store) == []


async def test_a_bridge_that_ended_together_with_the_database_sends_it_again_when_it_is_back(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        await record_rows(sinks, 0, 12)
    disk.kill()
    disk.restart()
    store.restart(losing=6)
    async with running(store, disk) as sinks:
        await record_rows(sinks, 12, 13)
    assert numbers(store) == list(range(13))
    assert told(store) == [6]


async def test_slots_that_another_recorder_has_sent_again_hide_no_loss_of_events(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    """Its rows have the ids of ours."""
    async with running(store, disk) as sinks:
        await record_rows(sinks, 0, 8)
        sinks.send_event("ours")
        rows = [sinks.send(n) for n in range(8, 12)]
        await trio.sleep(5)
        store.restart(losing=5)
        await store.write([record_of(replace(row, recorder="another")) for row in rows])
        assert numbers(store) == list(range(12))
        await record_rows(sinks, 12, 13)
    assert numbers(store) == list(range(13))
    assert "ours" in {row["message"] for row in store.tables[API_LOGS.name]}
    assert told(store) == [1]


async def test_rows_that_somebody_deleted_do_not_come_back(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        await record_rows(sinks, 0, 10)
        store.lose(10)
        store.next_troubles.append(Mishap.LOST_AFTER_COMMIT)  # a new connection
        await record_rows(sinks, 10, 12)
    store.lose(12)
    async with running(store, disk) as sinks:
        await record_rows(sinks, 12, 13)
    assert numbers(store) == [12]
    assert told(store) == []


async def test_another_database_gets_nothing_of_the_one_before(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        await record_rows(sinks, 0, 10)
    other = FakeStore()
    other.data = "another"
    async with running(other, disk) as sinks:
        await record_rows(sinks, 10, 12)
    assert numbers(other) == [10, 11]
    async with running(store, disk) as sinks:
        await record_rows(sinks, 12, 15)
        store.restart(losing=3)
        await record_rows(sinks, 15, 16)
    assert numbers(store) == [*range(10), *range(12, 16)]
    assert told(store) == [3]


@pytest.mark.parametrize("deleted", [3, 5, 15, 16, 17, 18, 19])
async def test_retention_that_deletes_old_rows_is_no_loss(
    store: FakeStore, disk: FakeDisk, deleted: int, autojump_clock: MockClock
) -> None:
    """Nor does it come back with what a failover takes later."""
    async with running(store, disk) as sinks:
        await record_rows(sinks, 0, 20)
        store.lose_oldest(deleted)
        store.restart()
        await record_rows(sinks, 20, 21)
        store.restart(losing=1)
        await record_rows(sinks, 21, 22)
    assert numbers(store) == list(range(deleted, 22))
    assert told(store) == [1]


async def test_what_is_older_than_the_time_of_keeping_is_forgotten(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        await record_rows(sinks, 0, 10)
        await trio.sleep(KEEP.total_seconds() + 60)
        await record_rows(sinks, 10, 20)
        segments = disk.names(BUFFER.with_name(BUFFER.name + ".sent"))
        assert len(segments) <= 5
    await trio.sleep(KEEP.total_seconds() + 60)
    store.restart(losing=20)
    async with running(store, disk) as sinks:
        await record_rows(sinks, 20, 21)
    assert numbers(store) == [20]
    assert told(store) == []


async def test_a_database_that_fails_while_rows_are_sent_again_gets_the_others_later(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        await record_rows(sinks, 0, 20)
        store.restart(losing=12)
        # The new row is refused by the new server, then come batches of three.
        store.next_troubles += [Mishap.NONE, Mishap.NONE, Mishap.REFUSED]
        await record_rows(sinks, 20, 23)
    assert numbers(store) == list(range(23))
    assert told(store) == [12]
    check_tables(store)


async def test_a_server_that_changes_while_rows_are_sent_again_is_looked_at_too(
    disk: FakeDisk, autojump_clock: MockClock
) -> None:
    class Unsteady(FakeStore):
        restarts = 0

        async def write(self, records: object, **to: object) -> int:
            new = await super().write(records, **to)  # type: ignore[arg-type]
            if self.restarts:
                self.restarts -= 1
                self.restart(losing=4)
            return new

    store = Unsteady()
    async with running(store, disk) as sinks:
        await record_rows(sinks, 0, 20)
        store.restarts = 5
        await record_rows(sinks, 20, 25)
    assert numbers(store) == list(range(25))
    check_tables(store)


async def test_a_failover_before_the_disk_has_noted_what_was_acknowledged(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    """In a replay, while the next rows are already on their way."""
    spool = await Spool.open(BUFFER, disk=disk, now=now)
    await spool.append([record(number) for number in range(2_500)])
    spool.close()
    write = store.write

    async def fail_over(records: Sequence[Record], *, to: Server | None = None) -> int:
        if records and number_of(records[0]) == 1_000:
            store.write = write  # type: ignore[method-assign]
            store.restart(losing=10)
        return await write(records, to=to)

    store.write = fail_over  # type: ignore[method-assign]
    disk.delay_s = 0.05
    async with running(store, disk):
        await trio.sleep(60)
    assert numbers(store) == list(range(2_500))


async def test_poison_among_what_is_sent_again_holds_up_nothing(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        await record_rows(sinks, 0, 20)
        store.restart(losing=12)
        store.rejects = lambda row: "22003" if number_of(row) == 14 else None
        await record_rows(sinks, 20, 22)
    assert numbers(store) == [n for n in range(22) if n != 14]
    quarantine = disk.content(BUFFER.with_name(BUFFER.name + ".quarantine.jsonl")) or b""
    (entry,) = map(orjson.loads, quarantine.splitlines())
    assert entry["sqlstate"] == "22003"


async def test_an_empty_database_in_its_place_gets_its_tables_and_all_rows(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    """The data directory was rolled back to a copy from before the first row."""
    async with running(store, disk) as sinks:
        await record_rows(sinks, 0, 10)
        store.restart(losing=10)
        store.drop_schema()
        await record_rows(sinks, 10, 11)
    assert numbers(store) == list(range(11))


async def test_without_the_setting_nothing_is_kept_or_asked(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    sinks = Sinks(store, disk, await Spool.open(BUFFER, disk=disk, now=now, keep=timedelta(0)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sinks.run)
        await record_rows(sinks, 0, 5)
        store.restart(losing=3)
        await record_rows(sinks, 5, 6)
        sinks.end()
    assert numbers(store) == [0, 1, 5]
    assert disk.names(BUFFER.with_name(BUFFER.name + ".sent")) == []


async def test_the_oldest_of_what_is_kept_makes_room_for_a_row_that_no_database_has(
    store: FakeStore, disk: FakeDisk, autojump_clock: MockClock
) -> None:
    async with running(store, disk) as sinks:
        await record_rows(sinks, 0, 20)
        kept = len(disk.names(BUFFER.with_name(BUFFER.name + ".sent")))
        store.trouble = Mishap.REFUSED
        disk.fill()
        await record_rows(sinks, 20, 21)
        assert sinks.waiting() == 0
        assert len(disk.names(BUFFER.with_name(BUFFER.name + ".sent"))) < kept
        store.trouble = None
        await trio.sleep(61)
    assert numbers(store) == list(range(21))
    assert len(store.tables[PORTFOLIO_GREEKS.name]) == 21
