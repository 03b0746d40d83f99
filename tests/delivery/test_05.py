"""A line of the first system may bear a time without an offset (PostgreSQL takes it; the session's zone is
UTC). Once it is the newest that was sent, `Sent._is_old` compares it with an aware time: TypeError out of
`Spool.open`. The service does not start any more, nor does `flush`."""
import pytest
import trio
from tests.delivery.sinks import BUFFER, KEEP, Sinks, now
from trio_bridge.stores.fake import FakeStore
from trio_bridge.stores.spool.fake_disk import FakeDisk
from trio_bridge.stores.spool.spool import Spool
from trio_bridge.delivery.commit import Committer
from trio_bridge.delivery.replay import Replay
from trio_bridge.delivery.resend import Resend


@pytest.mark.parametrize("time", ["2026-01-02T14:29:00", "2026-01-02 14:29:00 UTC"])
async def test_after_a_flush_of_the_first_systems_lines_the_service_starts(time, autojump_clock):
    store, disk = FakeStore(), FakeDisk()
    disk.put(BUFFER, b'{"table": "portfolio_greeks", "row": {"timestamp": "%b", "delta": 1.5}}\n' % time.encode())
    spool = await Spool.open(BUFFER, disk=disk, now=now, keep=KEEP)
    # as commands/flush.py does it
    committer = Committer(store, Resend(store, spool, print), refusals=1)
    await committer.send_again()
    while spool.holds_rows():
        await Replay(spool, committer, lambda *_: None).everything()
    spool.close()
    assert len(store.tables["portfolio_greeks"]) == 1
    disk.restart()
    (await Spool.open(BUFFER, disk=disk, now=now, keep=KEEP)).close()


async def test_it_can_be_sent_again(autojump_clock):
    store, disk = FakeStore(), FakeDisk()
    disk.put(BUFFER, b'{"table": "portfolio_greeks", "row": {"timestamp": "2026-01-02 14:29:00 UTC", "delta": 1.5}}\n' * 2)
    spool = await Spool.open(BUFFER, disk=disk, now=now, keep=KEEP)
    committer = Committer(store, Resend(store, spool, print), refusals=1)
    while spool.holds_rows():
        await Replay(spool, committer, lambda *_: None).everything()
    store.restart(losing=1)
    await Committer(store, Resend(store, spool, print), refusals=1).send_again()
    assert len(store.tables["portfolio_greeks"]) == 2
