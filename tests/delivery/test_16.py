"""The clock was ahead once (a year, for one row): segments are named after that one, `+`, `++`, … None is ever too old,
and after some 225 the name is too long for a file: from then on nothing is kept for a failover."""
from datetime import timedelta
from pathlib import Path
import pytest
from tests.support.rows import START, record
from trio_bridge.stores.spool import sent as module
from trio_bridge.stores.spool.disk import RealDisk
from trio_bridge.stores.spool.sent import Sent


def test_a_clock_that_was_ahead_once_does_not_keep_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SEGMENT_BYTES", 1_000)
    tmp_path.chmod(0o700)
    at = [START + timedelta(days=365)]
    sent = Sent(RealDisk(), tmp_path / "sent", timedelta(days=1), lambda: at[0])
    sent.open()
    sent.add([record(n) for n in range(3)])
    for day in range(300):
        at[0] = START + timedelta(days=day)
        sent.add([record(10 * day + n) for n in range(3)])
    print(len(sent.segments()), sent._fails, len(sent.segments()[-1].name))
    assert not sent._fails
    assert len(sent.segments()) < 10
