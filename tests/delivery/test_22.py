"""A proxy that sends SELECTs to a replica and INSERTs to the primary (pgpool-II, pgcat: `primary_reads_enabled = false`). The start
time that is asked for is the replica's, the INSERT's guard compares it with the primary's: `_put` asks and writes in a loop
without a pause until its deadline, and no row ever goes in. (The error names the writing server's start: take that one.)"""
import trio
from tests.delivery.sinks import numbers, running
from trio_bridge.stores.base import Server
from trio_bridge.stores.fake import FakeStore
from trio_bridge.stores.spool.fake_disk import FakeDisk


class Splitting(FakeStore):
    questions = 0

    async def server(self):
        self.questions += 1
        await super().server()
        return Server("the replica's", "fake")


async def test_a_proxy_that_splits_reads_and_writes(autojump_clock):
    store, disk = Splitting(), FakeDisk()
    store.latency_s = 0.001
    async with running(store, disk) as sinks:
        await trio.sleep(1)
        for n in range(60):
            sinks.send(n)
            await trio.sleep(5)
        got = len(numbers(store))
        print(got, sinks.state(), store.questions)
    assert got > 50
