"""How many rows wait: current where that costs little, and never much of the time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import trio

from trio_bridge.web import spool_count
from trio_bridge.web.spool_count import SpoolCount

if TYPE_CHECKING:
    from pathlib import Path

SOON_S = 20.0
"""Much less than the pauses that a test forbids."""


@pytest.fixture(autouse=True)
def no_pause_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_count, "COUNT_EVERY_S", 3_600.0)


async def test_a_short_spool_is_told_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    (tmp_path / "spool.jsonl.lock").touch()  # what is in it is a spool's, whatever it is
    count = SpoolCount(path)
    assert await count.rows(0) == 0
    for rows in (1, 2, 30):
        path.write_text("{}\n" * rows)
        with trio.fail_after(SOON_S):
            while await count.rows(3 * rows) != rows:
                await trio.sleep(0.01)
    assert await count.rows(0) == 0


async def test_a_long_one_is_not_counted_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[Path] = []

    def look(path: Path) -> None:
        counts.append(path)
        time.sleep(0.1)
        raise OSError("as good as any answer")

    monkeypatch.setattr(spool_count, "look_at_spool", look)
    count = SpoolCount(tmp_path / "spool.jsonl")

    async def ask_and_ask() -> None:
        while True:
            assert await count.rows(1) is None
            await trio.lowlevel.checkpoint()

    with trio.move_on_after(0.5):  # five seconds of pause
        async with trio.open_nursery() as askers:
            askers.start_soon(ask_and_ask)
            askers.start_soon(ask_and_ask)
    assert len(counts) == 1
    # But a new backlog is counted at once.
    await count.rows(0)
    await count.rows(1)
    assert len(counts) == 2


async def test_a_disk_that_hangs_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_count, "DISK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(spool_count, "look_at_spool", lambda _: time.sleep(2))
    with trio.fail_after(SOON_S):
        assert await SpoolCount(tmp_path / "spool.jsonl").rows(1) is None
