"""The machine stops, or the disk fails, at every single call that the spool makes.

One story goes through everything the spool does. It is told once for each call in it, with a crash
there, a failure there, or a failure there and a crash at every call after it.
"""

from __future__ import annotations

import contextlib
import errno
from itertools import count
from pathlib import Path

import orjson
import pytest
import trio

from tests.support.rows import number_of, record
from trio_bridge.errors import SpoolError
from trio_bridge.stores.record import DamagedLineError, Rejected, decode_line
from trio_bridge.stores.spool.fake_disk import FakeDisk, SimulatedCrash
from trio_bridge.stores.spool.spool import Spool

BUFFER = Path("/state/buffer.jsonl")
QUARANTINE = Path("/state/buffer.jsonl.quarantine.jsonl")
DAMAGED = b'{"table":"portfolio_greeks","row":{"delta"'
POISON = 5
"""The number of the row that the database will never take."""


class Story:
    """What a bridge does with its spool, and what it then believes."""

    def __init__(self, disk: FakeDisk) -> None:
        self.disk = disk
        self.numbers = count()
        self.safe: list[int] = []
        """Rows whose append has returned."""
        self.replayed: list[int] = []
        """Rows that were given to the database, in order, with repetitions."""
        self.failures = 0

    async def tell(self) -> None:
        spool = await Spool.open(BUFFER, disk=self.disk)
        await self.append(spool, 3)
        await self.append(spool, 1)
        await self.replay(spool, lines=2)
        await self.append(spool, 2)
        await self.replay(spool, lines=3)
        await self.replay(spool)
        await self.append(spool, 8)  # beyond the place of the last cursor
        await self.replay(spool, lines=3)
        await self.append(spool, 1)

    async def append(self, spool: Spool, rows: int) -> None:
        records = [record(next(self.numbers)) for _ in range(rows)]
        for _ in range(3):
            try:
                await spool.append(records)
            except SpoolError:
                self.failures += 1
            else:
                self.safe += map(number_of, records)
                return
        raise AssertionError("one failure of the disk must not be the end of it")

    async def replay(self, spool: Spool, lines: int = 1_000) -> None:
        """Once to the end when `lines` is not limited, else so many lines."""
        while spool.backlog_bytes:
            chunk = await spool.read(lines)
            numbers = [number_of(line.record) for line in chunk.lines]
            self.replayed += [number for number in numbers if number != POISON]
            rejected = [
                Rejected(place, "22P05", "poison")
                for place, number in enumerate(numbers)
                if number == POISON
            ]
            await spool.acknowledge(chunk, len(chunk.lines), rejected)
            if lines != 1_000:
                return

    async def go_on(self) -> None:
        """The next process: everything that is left."""
        spool = await Spool.open(BUFFER, disk=self.disk)
        await self.replay(spool)
        assert not spool.backlog_bytes

    def check(self) -> None:
        quarantined = self.quarantined()
        rows = []
        for line in quarantined:
            with contextlib.suppress(DamagedLineError):
                rows.append(number_of(decode_line(line, offset=0)))
        assert set(self.safe) <= set(self.replayed) | set(rows), "a row is lost"
        assert set(rows) <= {POISON}
        arrived = list(dict.fromkeys(self.replayed))
        assert arrived == sorted(arrived), "rows overtook one another"
        # Torn bytes of a later append may be glued to it when the crash lost its newline.
        assert any(line.startswith(DAMAGED) for line in quarantined)

    def quarantined(self) -> list[bytes]:
        entries = self.disk.durable(QUARANTINE).split(b"\n")
        lines = []
        for entry in entries:
            with contextlib.suppress(orjson.JSONDecodeError):  # torn by the crash, written again
                lines.append(orjson.loads(entry)["line"].encode())
        return lines


def new_disk(seed: int = 0) -> FakeDisk:
    disk = FakeDisk(seed=seed)
    disk.put(BUFFER, DAMAGED)
    return disk


def tell(disk: FakeDisk) -> Story:
    story = Story(disk)
    with contextlib.suppress(SimulatedCrash):
        trio.run(story.tell)
    if not disk.crashed:
        disk.crash()
    disk.restart()
    disk.fail_at.clear()
    trio.run(story.go_on)
    story.check()
    return story


CALLS = len(tell(new_disk()).disk.calls)


@pytest.mark.parametrize("seed", range(20))
def test_a_crash_at_any_call_loses_and_reorders_nothing(seed: int) -> None:
    for call in range(CALLS):
        disk = new_disk(seed)
        disk.crash_at = call
        tell(disk)


@pytest.mark.parametrize("seed", range(5))
def test_two_crashes_in_a_row_lose_nothing(seed: int) -> None:
    for call in range(0, CALLS, 3):
        for second in range(8):
            disk = new_disk(seed)
            disk.crash_at = call
            story = Story(disk)
            with contextlib.suppress(SimulatedCrash):
                trio.run(story.tell)
            if not disk.crashed:
                disk.crash()
            disk.restart()
            disk.crash_at = len(disk.calls) + second
            with contextlib.suppress(SimulatedCrash):
                trio.run(story.go_on)
            if not disk.crashed:
                disk.crash()
            disk.restart()
            trio.run(story.go_on)
            story.check()


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_failure_at_any_call_and_a_crash_at_any_later_one(error: int) -> None:
    for failing in range(4, CALLS):  # the first four belong to opening, which may refuse
        for crashing in range(failing + 1, CALLS + 6, 2):
            disk = new_disk(failing * 100 + crashing)
            disk.fail_at = {failing: error}
            disk.crash_at = crashing
            tell(disk)


def test_a_short_write_at_any_call_and_a_crash_at_any_later_one() -> None:
    for short in range(CALLS):
        for crashing in range(short + 1, CALLS + 2, 2):
            disk = new_disk(crashing)
            disk.short_write_at = short
            disk.crash_at = crashing
            tell(disk)


def test_the_story_has_every_kind_of_call() -> None:
    """Else the tests above prove less than they seem to."""
    assert set(tell(new_disk()).disk.calls) == {
        "create",
        "pwrite",
        "fsync",
        "truncate",
        "rename",
        "unlink",
        "sync_directory",
    }
