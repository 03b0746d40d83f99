"""One failure of the disk while a look is under way: it is called off for good (`_looked` stays), the next row is
acknowledged by the new server, and then the newest is always there. Acknowledged rows are lost, in api_logs nothing says so."""
import errno
import trio
from tests.delivery.sinks import numbers, running, messages
from trio_bridge.stores.fake import FakeStore
from trio_bridge.stores.spool.fake_disk import FakeDisk


async def test_one_failure_of_the_disk_delays_the_sending_again(autojump_clock, monkeypatch):
    store, disk = FakeStore(), FakeDisk()
    async with running(store, disk) as sinks:
        for n in range(10):
            sinks.send(n)
            await trio.sleep(5)
        store.restart(losing=5)
        from trio_bridge.stores.spool import sent
        real, once = sent.Sent.records, [1]
        def records(self, path):
            if once:
                once.pop()
                raise OSError(errno.EMFILE, "too many open files")
            return real(self, path)
        monkeypatch.setattr(sent.Sent, "records", records)
        for n in range(10, 40):
            sinks.send(n)
            await trio.sleep(5)
        print(numbers(store), messages(store))
        assert numbers(store) == list(range(40)) or any("lost" in text for text in messages(store))
