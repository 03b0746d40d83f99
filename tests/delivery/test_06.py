"""While the disk refuses before the fsync (here: the file's directory has gone), a row that is due makes the
writer spin: the due time has passed, so it never waits the pause of DISK_RETRY_S."""
import errno
import trio
from tests.delivery.sinks import BUFFER, running
from trio_bridge.stores.fake import FakeStore
from trio_bridge.stores.spool.fake_disk import FakeDisk


class CountingDisk(FakeDisk):
    jobs = 0

    async def run(self, job):
        self.jobs += 1
        assert self.jobs < 5_000, "the writer spins"
        return await super().run(job)


async def test_a_writer_waits_between_two_attempts(autojump_clock):
    store, disk = FakeStore(), CountingDisk()
    async with running(store, disk) as sinks:
        await trio.sleep(1)
        store.freeze()
        sinks.send(0)
        await trio.sleep(1)
        disk.unlink(BUFFER)
        disk.failing["create"] = errno.EACCES
        await trio.sleep(30)
        print(disk.jobs)
        disk.failing.clear()
        store.thaw(commit_late=False)
        await trio.sleep(100)
