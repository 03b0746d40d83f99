"""What is acknowledged is only cut off while less than 1 MiB is left. With a backlog that stays above (the database keeps
pace, but lags), the file grows for ever."""
import trio
from tests.delivery.sinks import BUFFER, now, running
from tests.support.rows import record
from trio_bridge.stores.spool import spool as module
from trio_bridge.stores.spool.fake_disk import FakeDisk
from trio_bridge.stores.spool.spool import Spool


async def test_the_file_is_bounded_by_what_is_left(autojump_clock, monkeypatch):
    monkeypatch.setattr(module, "CUT_OFF_BYTES", 10_000)
    disk = FakeDisk()
    spool = await Spool.open(BUFFER, disk=disk, now=now)
    await spool.append([record(n) for n in range(40)])  # 17 kB are always left
    for n in range(3_000):
        await spool.append([record(40 + n)])
        await spool.acknowledge(await spool.read(1), 1)
    print(len(disk.content(BUFFER)), spool.backlog_bytes)
    assert len(disk.content(BUFFER)) < 10 * spool.backlog_bytes
