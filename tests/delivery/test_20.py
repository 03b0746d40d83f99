"""A slow line: halving over many segments (all of a day is lost, the directory was rolled back) walks them one by one, and a
row that was deleted by its owner before a planned restart comes back. (The first is a cost, the second a promise.)"""
import trio
from tests.delivery.sinks import numbers, running, messages
from trio_bridge.stores.fake import FakeStore, _key
from trio_bridge.stores.spool.fake_disk import FakeDisk


async def test_rows_that_were_deleted_stay_deleted_after_a_planned_restart(autojump_clock):
    """TRUNCATE while no row comes (gateway down over night), then the server is restarted for an update."""
    store, disk = FakeStore(), FakeDisk()
    async with running(store, disk) as sinks:
        for n in range(10):
            sinks.send(n)
            await trio.sleep(5)
        for table, row in store._order:
            store.tables[table].remove(row)
            store._ids.discard(_key(table, row))
        store._order.clear()
        await trio.sleep(3600)
        store.restart()
        sinks.send(10)
        await trio.sleep(5)
        print(numbers(store), messages(store))
        assert numbers(store) == [10]
