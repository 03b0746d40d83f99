"""Compaction: the file is replaced, then the directory's fsync fails once (EIO). `drop_before` raises after
the rename, so `_settle` skips `_moved_to_the_front`: the old offset is applied to the new, short file."""
import errno
import orjson
import pytest
from tests.delivery.sinks import BUFFER, now
from tests.support.rows import number_of, record
from trio_bridge.stores.spool import spool as module
from trio_bridge.stores.spool.fake_disk import FakeDisk
from trio_bridge.stores.spool.spool import Spool


async def test_a_directory_that_cannot_be_synced_once_loses_no_row(monkeypatch, autojump_clock):
    monkeypatch.setattr(module, "CUT_OFF_BYTES", 1_000)
    disk = FakeDisk()
    spool = await Spool.open(BUFFER, disk=disk, now=now)
    await spool.append([record(n) for n in range(10)])  # fsynced: safe
    chunk = await spool.read(8)
    disk.fail_next = [("sync_directory", errno.EIO)]
    await spool.acknowledge(chunk, 8)  # 8 of 10 are taken: the file is cut; rows 8 and 9 are left
    read = [number_of(line.record) for line in (await spool.read()).lines]
    await spool.append([record(10)])  # the next append "settles" again
    read += [number_of(line.record) for line in (await spool.read()).lines]
    left = [int(orjson.loads(line)["row"]["delta"]) for line in disk.durable(BUFFER).splitlines() if line]
    print(read, left, spool.backlog_bytes)
    assert {8, 9} <= {*read, *left}
