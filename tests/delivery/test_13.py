"""Another program puts a file in the spool's place while a row is only appended (the database is slow). Delivery judges
with the old row's place in the new file: the row leaves the queue as safe and is nowhere; or a newer one overtakes it."""
import pytest
import trio
from tests.delivery.sinks import BUFFER, numbers, running, check_tables, now
from tests.support.rows import record
from trio_bridge.stores.fake import FakeStore, Mishap
from trio_bridge.stores.record import encode_line
from trio_bridge.stores.spool.fake_disk import FakeDisk
from pathlib import Path


def replace(disk, content):
    disk.put(Path("/state/theirs"), content)
    disk.rename(Path("/state/theirs"), BUFFER)


async def test_a_row_in_memory_survives_a_larger_file(autojump_clock):
    """An fsync of the new file counts for the rows of the old one."""
    store, disk = FakeStore(), FakeDisk()
    async with running(store, disk) as sinks:
        await trio.sleep(1)
        store.latency_s = 1.9
        sinks.send(99)
        await trio.sleep(0.1)
        sinks.send(100)  # due at 3.1
        await trio.sleep(1.4)
        store.trouble = Mishap.SILENT  # for the next write, at 2.9
        await trio.sleep(0.5)
        replace(disk, b"".join(encode_line(record(n)) for n in range(5)))
        await trio.sleep(0.5)
        print("waiting", sinks.delivery.waiting, "committed", numbers(store), "durable", b"100.0" in disk.durable(BUFFER))
        store.latency_s, store.trouble = 0.0, None
        await trio.sleep(130)
        print(sorted(numbers(store)))
        assert 100 in numbers(store)


async def test_rows_keep_their_order_when_the_file_goes(autojump_clock):
    store, disk = FakeStore(), FakeDisk()
    async with running(store, disk) as sinks:
        await trio.sleep(1)
        store.freeze()
        sinks.send(0)
        await trio.sleep(1)
        disk.unlink(BUFFER)
        sinks.send(1)
        await trio.sleep(10)
        store.thaw(commit_late=False)
        await trio.sleep(130)
        print(numbers(store))
        assert numbers(store) == [0, 1]
