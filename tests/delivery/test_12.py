"""Two servers take turns (a pooler that spreads): each inner look begins inside the outer one's commit, without a
bound on the depth. RecursionError ends the writer, and so the service."""
import trio
from tests.delivery.sinks import BUFFER, KEEP, Sinks, numbers, now, running
from trio_bridge.stores.base import Server
from trio_bridge.stores.fake import FakeStore, _key
from trio_bridge.stores.spool.fake_disk import FakeDisk
from tests.delivery.test_08 import lose

A, B, C = (Server(name, "fake") for name in "ABC")


class Flipping(FakeStore):
    flip = False

    async def write(self, records, *, to=None):
        if self.flip:
            self._server = C if self._server == B else B
        return await super().write(records, to=to)


async def test_servers_that_take_turns_do_not_end_the_service(autojump_clock):
    store, disk = Flipping(), FakeDisk()
    store._server = A
    async with running(store, disk) as sinks:
        for n in range(4):
            sinks.send(n)
            await trio.sleep(5)
        lose(store, 2)
        store._server, store.flip = B, True
        store.latency_s = 0.001
        sinks.send(4)
        await trio.sleep(5)
        store.flip = False
        await trio.sleep(100)
        assert numbers(store) == list(range(5))
