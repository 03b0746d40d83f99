"""Rows are said not to be fsynced while the database is well. Where a row comes during each commit (0.1 s rows, 0.15 s a
commit), every append first saves the cursor: two directory and file fsyncs and a rename a row, before the row itself."""
from collections import Counter
import trio
from tests.delivery.sinks import numbers, running
from trio_bridge.stores.fake import FakeStore
from trio_bridge.stores.spool.fake_disk import FakeDisk


async def test_a_healthy_database_costs_no_fsync(autojump_clock):
    store, disk = FakeStore(), FakeDisk()
    async with running(store, disk) as sinks:
        await trio.sleep(1)
        store.latency_s = 0.15
        before = Counter(disk.calls)
        for n in range(100):
            sinks.send(n)
            await trio.sleep(0.1)
        calls = Counter(disk.calls) - before
        print(calls)
        store.latency_s = 0
    assert calls["fsync"] + calls["sync_directory"] < 10
