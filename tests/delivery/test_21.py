"""Compaction (`drop_before`), broken at every call of the disk: by a crash, an error, a short write. No row that was fsynced and not
acknowledged may be missing, in this process or in the next."""
import errno
import pytest
import trio
from tests.delivery.sinks import BUFFER, now
from tests.support.rows import number_of, record
from trio_bridge.errors import SpoolError
from trio_bridge.stores.spool import spool as module
from trio_bridge.stores.spool.fake_disk import FakeDisk, SimulatedCrash
from trio_bridge.stores.spool.spool import Spool


async def everything(spool):
    rows, chunk = [], None
    for _ in range(50):
        chunk = await spool.read(3, after=chunk)
        if not chunk:
            break
        rows += [number_of(line.record) for line in chunk.lines]
    return rows


async def story(disk, prepare):
    """Which rows are safe and not acknowledged."""
    spool = await Spool.open(BUFFER, disk=disk, now=now)
    safe, acked = set(), 0
    prepare(disk)
    try:
        for first in (0, 10, 20):
            for n in range(first, first + 10):
                try:
                    await spool.append([record(n)])
                except SpoolError:
                    await spool.append([record(n)])
                safe.add(n)
            try:
                chunk = await spool.read(8)
                got = [number_of(line.record) for line in chunk.lines]
                safe -= set(got)  # committed: acknowledged or not
                await spool.acknowledge(chunk, len(got))
            except SpoolError:
                pass
    except SimulatedCrash:
        return safe, None
    return safe, spool


@pytest.mark.parametrize("how", ["crash", "fail", "short"])
@pytest.mark.parametrize("seed", range(6))
async def test_compaction(how, seed, autojump_clock, monkeypatch):
    monkeypatch.setattr(module, "CUT_OFF_BYTES", 2_500)
    bad = []
    for at in range(200):
        disk = FakeDisk(seed=seed)

        def prepare(disk):
            number = len(disk.calls) + at
            if how == "crash":
                disk.crash_at = number
            elif how == "fail":
                disk.fail_at[number] = errno.EIO
            else:
                disk.short_write_at = number

        safe, spool = await story(disk, prepare)
        if spool is not None:
            missing = safe - set(await everything(spool))
            if missing:
                bad.append((at, disk.calls[-3:], "same process", sorted(missing)))
            spool.close()
            disk.crash()
        disk.fail_at.clear()
        disk.restart()
        spool = await Spool.open(BUFFER, disk=disk, now=now)
        missing = safe - set(await everything(spool))
        if missing:
            bad.append((at, "next process", sorted(missing)))
        spool.close()
    print(how, seed, bad[:6])
    assert not bad
