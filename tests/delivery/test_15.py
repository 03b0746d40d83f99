"""`.sent` while the disk is full: each acknowledged chunk leaves an empty file behind (create works, write does not), and
each lists the whole directory. `make_room` then removes one empty file at a time, which makes no room."""
import errno
import trio
from datetime import timedelta
from pathlib import Path
from tests.delivery.sinks import BUFFER, KEEP, numbers, now, running, spooled
from tests.support.rows import record
from trio_bridge.stores.fake import FakeStore
from trio_bridge.stores.spool import sent
from trio_bridge.stores.spool.fake_disk import FakeDisk
from trio_bridge.stores.spool.sent import Sent


def segments(disk):
    return {p.name: len(f.content) for p, f in disk._names.items() if p.parent.name.endswith(".sent")}


def test_a_full_disk_leaves_no_heap_of_empty_segments():
    disk = FakeDisk()
    kept = Sent(disk, Path("/state/buffer.jsonl.sent"), KEEP, lambda: __import__("tests.support.rows").support.rows.START + timedelta(seconds=len(disk.calls)))
    kept.open()
    disk.failing["pwrite"] = errno.ENOSPC
    for n in range(1_000):
        kept.add([record(n)])
    print(len(segments(disk)))
    assert len(segments(disk)) < 5


async def test_room_is_made_at_once(autojump_clock, monkeypatch):
    """The oldest segments may be empty (see above): the first that holds anything has to go."""
    monkeypatch.setattr(sent, "SEGMENT_BYTES", 4_000)
    store, disk = FakeStore(), FakeDisk()
    async with running(store, disk) as sinks:
        disk.failing["pwrite"] = errno.ENOSPC
        for n in range(30):
            sinks.send(n)
            await trio.sleep(5)
        disk.failing.clear()
        for n in range(30, 130):
            sinks.send(n)
            await trio.sleep(5)
        print(list(segments(disk).values()))
        store.freeze()
        disk.capacity = sum(len(f.content) for f in disk._names.values())
        sinks.send(130)
        await trio.sleep(3)
        safe = 130 in [row.get("delta") for row in spooled(disk)]
        print("waiting", sinks.delivery.waiting, list(segments(disk).values()))
        disk.capacity = None
        store.thaw(commit_late=False)
        await trio.sleep(130)
    assert safe
