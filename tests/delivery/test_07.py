"""A row that a trigger of the user's refuses (unclear) while it is sent again: its refusal reaches the outer
`commit`, which takes it for one of its own row's. The two suspects reset each other's count, so that neither
is ever set aside: nothing goes into the database any more."""
import trio
from tests.delivery.sinks import numbers, running
from tests.support.rows import number_of
from trio_bridge.stores.fake import FakeStore
from trio_bridge.stores.spool.fake_disk import FakeDisk


async def test_a_row_that_is_refused_when_sent_again_blocks_nothing(autojump_clock):
    store, disk = FakeStore(), FakeDisk()
    async with running(store, disk) as sinks:
        for n in range(10):
            sinks.send(n)
            await trio.sleep(5)
        store.unclear = lambda record: number_of(record) == 7  # "rows must not be older than ..."
        store.restart(losing=5)
        for n in range(10, 730):  # an hour
            sinks.send(n)
            await trio.sleep(5)
        got = numbers(store)
        print(len(got), sinks.state())
        store.unclear = lambda record: False
        await trio.sleep(130)
    assert len(got) > 700
