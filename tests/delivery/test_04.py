"""An fsync that hangs for longer than DISK_TIMEOUT_S and then fails (a dying disk): what it lost is noticed only when another row
has got its place in the log. `_append` gives that one a place, then the older row is appended behind it: they overtake."""
import errno
import trio
from tests.delivery.sinks import numbers, running
from tests.delivery.test_02 import SlowDisk
from trio_bridge.stores.fake import FakeStore, Mishap


async def lose_an_fsync_late(store, disk, sinks):
    """Row 1 is appended and lost at 23.1, row 2 waits for the disk since 22.1."""
    await trio.sleep(5)
    sinks.send(0)
    await trio.sleep(5 - 0.1)
    store.latency_s = 1.9
    sinks.send(-1)
    await trio.sleep(0.2)
    sinks.send(1)  # at 10.1; due at 12.1
    await trio.sleep(0.9)
    store.trouble = Mishap.SILENT
    await trio.sleep(1)
    disk.delay_s, disk.fail_next = 11.0, [("fsync", errno.EIO)]
    await trio.sleep(0.5)  # the fsync is under way
    disk.delay_s = store.latency_s = 0.0
    await trio.sleep(7.5)
    store.trouble = None
    sinks.send(2)


async def test_rows_keep_their_order_behind_a_late_failure_of_fsync(autojump_clock):
    store, disk = FakeStore(), SlowDisk()
    async with running(store, disk) as sinks:
        await lose_an_fsync_late(store, disk, sinks)
        await trio.sleep(130)
        print(numbers(store))
        assert numbers(store) == [0, -1, 1, 2]
