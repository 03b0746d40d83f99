"""The goodbye."""
import errno
import trio
from tests.delivery.sinks import BUFFER, KEEP, Sinks, numbers, now, running, quarantined, spooled
from tests.delivery.test_02 import SlowDisk
from tests.delivery.test_writer import poison
from trio_bridge.stores.fake import FakeStore
from trio_bridge.stores.spool.fake_disk import FakeDisk
from trio_bridge.stores.spool.spool import Spool


async def open_sinks(store, disk):
    return Sinks(store, disk, await Spool.open(BUFFER, disk=disk, now=now, keep=KEEP))


async def test_the_rescue_writes_again_what_a_failed_fsync_lost(autojump_clock):
    """One EIO of fsync at the end; 2 s are left, but there is no second attempt."""
    store, disk = FakeStore(), FakeDisk()
    sinks = await open_sinks(store, disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sinks.run)
        await trio.sleep(1)
        store.freeze()
        sinks.send(0)
        await trio.sleep(0.5)
        disk.fail_next = [("fsync", errno.EIO)]
        nursery.cancel_scope.cancel()
    assert [row["delta"] for row in spooled(disk)] == [0]


async def test_a_hung_disk_and_a_healthy_database_lose_nothing_at_the_end(autojump_clock):
    """With DRAIN_S = 1.2 s the attempt to append (2 s) outlasts the goodbye; the database is never asked."""
    store, disk = FakeStore(), SlowDisk()
    sinks = await open_sinks(store, disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sinks.run)
        await trio.sleep(1)
        disk.delay_s = 1000.0
        sinks.send(0)
        await trio.sleep(60)
        assert numbers(store) == [0]  # it's known by now that the disk hangs
        sinks.send(1)
        sinks.end()
        await trio.sleep(1.2)
        nursery.cancel_scope.cancel()
    assert numbers(store) == [0, 1]
