"""A bridge that lives through anything, thousands of times: a model checked at every turn.

Each run is a story of random turns: rows and events are sent, time passes, the database and the
disk fail in every way they can, the process is killed or the whole machine stops, the bridge ends
and starts again. These things must hold:

- nothing is missing: what was safe once is in the database in the end, or in the quarantine if it
  is poison; and after the end of all troubles everything becomes safe;
- what a failover takes away comes back, unless the disk failed or the machine stopped, too: what
  was acknowledged is kept without an fsync;
- nothing is there twice, and each table is in the order of its timestamps;
- a row is safe within the database's timeout and a second, unless the disk fails too;
- the memory is bounded.

"Safe" is judged by what is committed or durable, never by what the code believes.
"""

from __future__ import annotations

import contextlib
import errno
import math
from functools import partial
from itertools import count
from typing import Any

import hypothesis
import orjson
import pytest
import trio
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.delivery.sinks import (
    BUFFER,
    DB_TIMEOUT_S,
    KEEP,
    QUARANTINE,
    Sinks,
    check_tables,
    now,
)
from tests.support.rows import event, number_of
from trio_bridge.delivery import delivery
from trio_bridge.delivery.breaker import BreakerState
from trio_bridge.errors import ConfigError
from trio_bridge.rows import PORTFOLIO_GREEKS
from trio_bridge.stores.fake import FakeStore, Mishap
from trio_bridge.stores.record import DamagedLineError, Record, decode_line
from trio_bridge.stores.spool import spool
from trio_bridge.stores.spool.fake_disk import FakeDisk, SimulatedCrash

SAFE_WITHIN_S = DB_TIMEOUT_S + 1.0
QUEUE_LIMIT = 40
"""In place of the 10,000 rows of real life, so that stories reach it."""

CHUNK_BYTES = 1_500
"""In place of 1 MiB: some four rows, so that a replay has many chunks."""

Turn = tuple[str, tuple[Any, ...]]


def is_poison(number: int) -> bool:
    return number % 7 == 3


def rejects(record: Record) -> str | None:
    if record.table == PORTFOLIO_GREEKS.name:
        return "22003" if is_poison(number_of(record)) else None
    return "22P05" if rb"\u0000" in record.row else None


class Life:
    """One process, from its start to its end, good or bad."""

    def __init__(self, sinks: Sinks) -> None:
        self.sinks = sinks
        self.ended = trio.Event()
        self.scope = trio.CancelScope()

    async def live(self) -> None:
        try:
            with self.scope:
                await self.sinks.run()
        except* SimulatedCrash:
            pass
        finally:
            self.ended.set()


class World:
    """What outlives a process, and what was sent. Each turn is a method."""

    def __init__(self, nursery: trio.Nursery, seed: int) -> None:
        self._nursery = nursery
        self.store = FakeStore()
        self.store.rejects = rejects
        self.disk = FakeDisk(seed=seed)
        self._numbers = count()
        self._life: Life | None = None
        self._unsafe: dict[str, float] = {}
        """Rows not seen safe yet, and when they were sent."""
        self._kept: set[str] = set()
        """Rows that were seen safe."""
        self._poison: set[str] = set()
        self._disk_good_since = -math.inf
        self._not_kept: set[str] = set()
        """Committed, but not in what is kept for a failover."""

    # What the sources do

    async def send(self, rows: int) -> None:
        life = await self._living()
        # A burst beyond the bound is a story of its own (tests/delivery/test_writer.py).
        if life and (self._disk_is_bad() or life.sinks.waiting() + rows < QUEUE_LIMIT - 5):
            for _ in range(rows):
                number = next(self._numbers)
                row = life.sinks.send(number)
                self._expect(life, str(row.event_id), poison=is_poison(number))

    async def send_event(self, poison: bool) -> None:
        if life := await self._living():
            message = event("bad \0" if poison else "good", now())
            life.sinks.put(message)
            self._expect(life, str(message.event_id), poison=poison)

    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)

    # What the database does

    async def database(self, trouble: Mishap | None) -> None:
        self.store.trouble = trouble

    async def database_once(self, trouble: Mishap) -> None:
        self.store.next_troubles.append(trouble)

    async def latency(self, seconds: float) -> None:
        self.store.latency_s = seconds

    async def freeze(self) -> None:
        self.store.freeze()

    async def thaw(self, commit_late: bool) -> None:
        self.store.thaw(commit_late=commit_late)

    async def drop_schema(self, can_be_made: bool) -> None:
        self.store.ensure_schema_helps = can_be_made
        self.store.drop_schema()

    async def failover(self, losing: int) -> None:
        """A standby that lags takes over."""
        if self._disk_is_bad():
            self._not_kept |= self._where_rows_are()[0]
        before = self._where_rows_are()[0]
        self.store.restart(losing=losing)
        lost = before - self._where_rows_are()[0]
        self._kept -= lost & self._not_kept

    # What the disk does

    async def disk_fills(self, room: int) -> None:
        self._disk_good_since = math.inf
        self.disk.capacity = len(self.disk.content(BUFFER) or b"") + room

    async def disk_fails(self, call: str, error: int, once: bool) -> None:
        self._disk_good_since = math.inf
        if once:
            self.disk.fail_next.append((call, error))
        else:
            self.disk.failing[call] = error

    async def disk_slows(self, seconds: float) -> None:
        self._disk_good_since = math.inf
        self.disk.delay_s = seconds

    async def short_write(self, in_calls: int) -> None:
        self.disk.short_write_at = len(self.disk.calls) + in_calls

    async def disk_recovers(self) -> None:
        if self._disk_is_bad():
            self._not_kept |= self._where_rows_are()[0]
        # A call that is under way still takes its time.
        self._disk_good_since = trio.current_time() + self.disk.delay_s + 1.0
        self.disk.capacity = None
        self.disk.failing.clear()
        self.disk.fail_next.clear()
        self.disk.delay_s = 0.0

    # What ends a process

    async def crash(self, in_calls: int) -> None:
        """The machine stops within one of the next calls of the disk, or a while later."""
        if life := self._life:
            self.disk.crash_at = len(self.disk.calls) + in_calls
            with trio.move_on_after(7):
                await life.ended.wait()
            if not self.disk.crashed:
                self._look()
                self.disk.crash()
            self._not_kept |= self._where_rows_are()[0]
            await self._bury(life)

    async def kill(self) -> None:
        """SIGKILL: what is written stays written, fsynced or not."""
        if life := self._life:
            self._look()
            written = set(map(_event_id, (self.disk.content(BUFFER) or b"").splitlines()))
            self._kept |= self._unsafe.keys() & written
            self.disk.kill()
            await self._bury(life)

    async def goodbye(self, deadline_s: float) -> None:
        """As the service does it: the channel ends, and after a while the writer is cancelled."""
        if life := self._life:
            life.sinks.end()
            with trio.move_on_after(deadline_s):
                await life.ended.wait()
            life.scope.cancel()
            await life.ended.wait()
            self._life = None
            self._look()
            for sent_at in self._unsafe.values():
                assert sent_at < self._disk_good_since, "the goodbye lost a row"
            self._unsafe.clear()

    # How it is judged

    def _disk_is_bad(self) -> bool:
        return trio.current_time() < self._disk_good_since

    def check(self) -> None:
        check_tables(self.store)
        if self._life is not None:
            assert self._life.sinks.delivery.waiting <= QUEUE_LIMIT

    async def end_well(self) -> None:
        """All troubles end; then everything has to come in."""
        self.store.trouble = None
        self.store.next_troubles.clear()
        self.store.latency_s = 0.0
        self.store.ensure_schema_helps = True
        self.store.thaw(commit_late=True)
        await self.disk_recovers()
        await trio.sleep(60)
        life = await self._living()
        assert life is not None
        await self.send(1)
        await trio.sleep(150)
        self.check()
        assert life.sinks.state() is BreakerState.CLOSED
        assert not life.sinks.spool.backlog_bytes
        assert life.sinks.delivery.waiting == 0
        await self.goodbye(60.0)
        committed, _, quarantined = self._where_rows_are()
        assert self._kept - self._poison <= committed, "a row is missing"
        assert self._kept & self._poison <= quarantined, "a poison row has vanished"
        assert not committed & self._poison

    def _expect(self, life: Life, event_id: str, *, poison: bool) -> None:
        self._unsafe[event_id] = trio.current_time()
        if poison:
            self._poison.add(event_id)
        self._nursery.start_soon(self._check_in_time, life, event_id, trio.current_time())

    async def _check_in_time(self, life: Life, event_id: str, sent_at: float) -> None:
        await trio.sleep_until(sent_at + SAFE_WITHIN_S)
        self._look()
        if life is self._life and sent_at >= self._disk_good_since and not self.disk.crashed:
            assert event_id in self._kept, "a row is not safe in time"

    def _look(self) -> None:
        """Which rows are safe by now."""
        if self._unsafe:
            safe = self._unsafe.keys() & set[str]().union(*self._where_rows_are())
            self._kept |= safe
            for event_id in safe:
                del self._unsafe[event_id]

    def _where_rows_are(self) -> tuple[set[str], set[str], set[str]]:
        committed = {row["event_id"] for rows in self.store.tables.values() for row in rows}
        spooled = set(map(_event_id, self.disk.durable(BUFFER).splitlines()))
        quarantined = set()
        for entry in self.disk.durable(QUARANTINE).splitlines():
            with contextlib.suppress(orjson.JSONDecodeError):  # torn by a crash
                quarantined.add(_event_id(orjson.loads(entry).get("line", "").encode()))
        return committed, spooled - {""}, quarantined - {""}

    async def _living(self) -> Life | None:
        """The process, started if there is none; None when the disk does not let it start."""
        if self._life is None:
            self.disk.restart()
            try:
                opened = await spool.Spool.open(BUFFER, disk=self.disk, now=now, keep=KEEP)
            except ConfigError:
                self.disk.kill()  # that process has ended
                return None
            self._life = Life(Sinks(self.store, self.disk, opened))
            self._nursery.start_soon(self._life.live)
            await trio.testing.wait_all_tasks_blocked()
        return self._life

    async def _bury(self, life: Life) -> None:
        life.scope.cancel()
        await life.ended.wait()
        self._life = None
        self.disk.restart()
        self._look()
        self._unsafe.clear()  # what was not safe yet may be lost


def _event_id(line: bytes) -> str:
    try:
        return str(orjson.loads(decode_line(line, offset=0).row)["event_id"])
    except DamagedLineError:
        return ""


async def live_through(turns: list[Turn], seed: int) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery, seed)
        for name, arguments in turns:
            await getattr(world, name)(*arguments)
            world.check()
        await world.end_well()
        nursery.cancel_scope.cancel()


def tell(turns: list[Turn], seed: int) -> None:
    with capture_logs(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery, "QUEUE_LIMIT", QUEUE_LIMIT)
        patch.setattr(spool, "CHUNK_BYTES", CHUNK_BYTES)
        trio.run(partial(live_through, turns, seed), clock=MockClock(autojump_threshold=0))


def turn(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Turn]:
    return st.tuples(st.just(name), st.tuples(*arguments))


SENDS = st.one_of(
    turn("send", st.sampled_from([1, 1, 1, 2, 5, 30])),
    turn("send_event", st.sampled_from([False, False, True])),
)
WAITS = turn("wait", st.sampled_from([0.0, 0.001, 0.5, 1.0, 2.0, 2.5, 5.0, 60.0, 61.0]))
DATABASE = st.one_of(
    turn("database", st.sampled_from([None, None, None, *Mishap])),
    turn("database_once", st.sampled_from(Mishap)),
    turn("latency", st.sampled_from([0.0, 0.0, 0.01, 0.5, 1.9, 2.1, 15.0])),
    turn("freeze"),
    turn("thaw", st.booleans()),
    turn("drop_schema", st.booleans()),
    turn("failover", st.sampled_from([0, 1, 3, 10, 100])),
)
DISK = st.one_of(
    turn("disk_fills", st.sampled_from([0, 10, 500, 2_000])),
    turn(
        "disk_fails",
        st.sampled_from(
            ["pwrite", "fsync", "truncate", "create", "rename", "unlink", "sync_directory", "pread"]
        ),
        st.sampled_from([errno.EIO, errno.ENOSPC]),
        st.booleans(),
    ),
    turn("disk_slows", st.sampled_from([0.001, 0.3, 3.0, 20.0])),
    turn("short_write", st.integers(0, 5)),
    turn("disk_recovers"),
    turn("disk_recovers"),
)
ENDS = st.one_of(
    turn("crash", st.integers(0, 12)),
    turn("kill"),
    turn("goodbye", st.sampled_from([0.0, 0.001, 1.2, 2.0, 10.0])),
)
STORIES = st.lists(
    st.one_of(SENDS, SENDS, SENDS, WAITS, WAITS, DATABASE, DATABASE, DISK, ENDS), max_size=50
)


@hypothesis.settings(
    max_examples=300,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(STORIES, st.integers(0, 2**32))
def test_a_bridge_that_lives_through_anything_loses_nothing(turns: list[Turn], seed: int) -> None:
    tell(turns, seed)


@pytest.mark.long
@hypothesis.settings(max_examples=20_000, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(STORIES, st.integers(0, 2**32))
def test_the_same_many_thousand_times(turns: list[Turn], seed: int) -> None:
    tell(turns, seed)
