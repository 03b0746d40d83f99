"""The server changes while rows are sent again: the inner look (C) ends first, then the outer one notes its own
server (B) as the one that takes the rows. When B takes over later, nothing is looked for: what C took is gone."""
import trio
from tests.delivery.sinks import BUFFER, KEEP, Sinks, numbers, now, running
from trio_bridge.stores.base import Server
from trio_bridge.stores.fake import FakeStore, _key
from trio_bridge.stores.spool.fake_disk import FakeDisk

A, B, C = (Server(name, "fake") for name in "ABC")


class Flipping(FakeStore):
    flip = False

    async def holds(self, record):
        found = await super().holds(record)
        if self.flip and self._server == B:  # between a question and the write a pooler goes to C
            self.flip = False
            self._server = C
        return found


def lose(store, rows):
    for _ in range(rows):
        table, row = store._order.pop()
        store.tables[table].remove(row)
        store._ids.discard(_key(table, row))


async def test_the_server_that_took_the_rows_is_the_one_that_is_noted(autojump_clock):
    store, disk = Flipping(), FakeDisk()
    store._server = A
    async with running(store, disk) as sinks:
        for n in range(4):
            sinks.send(n)
            await trio.sleep(5)
        lose(store, 2)
        store._server, store.flip = B, True
        sinks.send(4)
        await trio.sleep(5)
        print(sinks.spool.server, store._server, numbers(store), [r["message"] for r in store.tables["api_logs"]])
        sinks.send(5)
        await trio.sleep(5)
        lose(store, 1)
        store._server = B  # promoted, without a restart: a standby that lags
        sinks.send(6)
        await trio.sleep(5)
        print(numbers(store))
        assert numbers(store) == list(range(7))
