"""What is not in `.sent` (the disk was full, or it made room) and is lost by a failover: nothing says so; and where some
is there, the event's range ends with a row that was not sent."""
import errno
import trio
from tests.delivery.sinks import numbers, running, messages
from trio_bridge.stores.fake import FakeStore
from trio_bridge.stores.spool.fake_disk import FakeDisk


async def test_what_cannot_be_sent_again_is_told(autojump_clock):
    store, disk = FakeStore(), FakeDisk()
    async with running(store, disk) as sinks:
        sinks.send(0)
        await trio.sleep(5)
        disk.capacity = 0  # full: rows go to the database from memory
        for n in range(1, 20):
            sinks.send(n)
            await trio.sleep(5)
        disk.capacity = None
        await trio.sleep(5)
        store.restart(losing=22)
        sinks.send(20)
        await trio.sleep(70)
        print(numbers(store), messages(store))
        assert any("lost" in text for text in messages(store))


async def test_the_range_is_that_of_the_rows_sent(autojump_clock):
    store, disk = FakeStore(), FakeDisk()
    async with running(store, disk) as sinks:
        for n in range(5):
            sinks.send(n)
            await trio.sleep(5)
        sinks.spool._sent._fails = True
        from trio_bridge.stores.spool import sent
        real = sent.Sent._segment
        def refuses(self): raise OSError(errno.EIO, "EIO")
        sent.Sent._segment = refuses
        try:
            for n in range(5, 10):
                sinks.send(n)
                await trio.sleep(5)
        finally:
            sent.Sent._segment = real
        store.restart(losing=8)
        sinks.send(10)
        await trio.sleep(5)
        print(numbers(store), messages(store))
        # 2, 3 and 4 were sent, 5 to 9 are lost
        assert "from 14:30:10 to 14:30:20" in messages(store)[-1] or "14:30:45" not in messages(store)[-1]
