"""The whole bridge stands still: `_ship` with nothing to ship. A row that the log holds stays in the queue behind one that was
lost (see 04); that one goes to the database from memory; then `_is_something_to_ship` is true (the disk fails, the queue is not empty),
`_not_appended` is empty, `commit([])` waits for nothing: a loop without a checkpoint, at 100 % CPU, for ever."""
import errno
import pytest
import trio
from tests.delivery.sinks import numbers, running
from tests.delivery.test_02 import SlowDisk
from tests.delivery.test_04 import lose_an_fsync_late
from trio_bridge.delivery.commit import Committer
from trio_bridge.stores.fake import FakeStore


class DyingDisk(SlowDisk):
    lost = appends = 0

    def fsync(self, fd):
        try:
            super().fsync(fd)
        except OSError:
            self.lost = 1
            raise

    def pwrite(self, fd, data, offset):
        if self.lost and b"portfolio" in bytes(data):
            self.appends += 1
            if self.appends > 1:  # the one that waited goes well
                raise OSError(errno.EIO, "EIO")
        return super().pwrite(fd, data, offset)


async def test_the_event_loop_goes_on(autojump_clock, monkeypatch):
    store, disk, empty = FakeStore(), DyingDisk(), [0]
    real = Committer.commit

    async def commit(self, records, **limits):
        empty[0] = 0 if records else empty[0] + 1
        if empty[0] > 10_000:
            raise AssertionError("the event loop is blocked")
        return await real(self, records, **limits)

    monkeypatch.setattr(Committer, "commit", commit)
    async with running(store, disk) as sinks:
        await lose_an_fsync_late(store, disk, sinks)
        await trio.sleep(130)
        print(numbers(store), sinks.delivery.waiting)
