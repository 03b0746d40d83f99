"""A row that the new server will never take goes into the quarantine while it is sent again: no event, no count."""
import trio
from tests.delivery.sinks import numbers, running, messages, kinds, quarantined
from tests.delivery.test_writer import poison
from trio_bridge.stores.fake import FakeStore
from trio_bridge.stores.spool.fake_disk import FakeDisk


async def test_a_row_set_aside_while_sent_again_is_told(autojump_clock):
    store, disk = FakeStore(), FakeDisk()
    async with running(store, disk) as sinks:
        for n in range(10):
            sinks.send(n)
            await trio.sleep(5)
        store.rejects = poison(7)
        store.restart(losing=5)
        sinks.send(10)
        await trio.sleep(130)
        print(numbers(store), kinds(store), len(quarantined(disk)), sinks.delivery.status)
        assert len(quarantined(disk)) == 1
        assert sinks.delivery.status.quarantined == 1
        assert "rows.quarantined" in kinds(store) or any("quarantine" in m for m in messages(store))


async def test_it_is_set_aside_once(autojump_clock):
    """The newest kept row, once refused by a new server, is `missing` at each later restart."""
    store, disk = FakeStore(), FakeDisk()
    async with running(store, disk) as sinks:
        for n in range(3):
            sinks.send(n)
            await trio.sleep(5)
        store.rejects = poison(2)
        store.restart(losing=1)
        for _ in range(5):
            await sinks.delivery._committer.send_again()
            store.restart()
        print(len(quarantined(disk)))
        assert len(quarantined(disk)) == 1
