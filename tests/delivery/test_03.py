"""The look after a failover starts from the beginning whenever it's cut short. On a database that takes rows
with 1 s a statement it never ends (flush: 10 s a batch): no row comes in any more, for ever."""
import trio
from tests.delivery.sinks import numbers, running
from trio_bridge.stores.fake import FakeStore
from trio_bridge.stores.spool.fake_disk import FakeDisk


async def test_a_look_over_a_slow_line_ends(autojump_clock):
    store, disk = FakeStore(), FakeDisk()
    async with running(store, disk) as sinks:
        for n in range(2_000):
            sinks.send(n)
            await trio.sleep(5)
        store.latency_s = 1.0
        for n in range(2_000, 2_010):
            sinks.send(n)
            await trio.sleep(5)
        assert len(numbers(store)) == 2010
        store.restart(losing=1)
        for n in range(2_010, 2_010 + 720):  # an hour
            sinks.send(n)
            await trio.sleep(5)
        got = len(numbers(store))
        print(got, sinks.state(), sinks.spool.backlog_bytes)
        store.latency_s = 0.0
        await trio.sleep(70)
    assert got > 2_600
