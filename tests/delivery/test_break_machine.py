"""The machine with what it never reaches: compaction, several segments, small batches."""
from __future__ import annotations
import os, errno
from functools import partial
import hypothesis, pytest, trio
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock
from tests.delivery import test_delivery_machine as m
from trio_bridge.delivery import batch_size, delivery, resend
from trio_bridge.stores.spool import sent, spool

class World(m.World):
    def __init__(self, nursery, seed):
        super().__init__(nursery, seed)
        self._lost = set()

    async def failover(self, losing):
        self._look()
        self.store._under_way = []  # the old server's
        before = self._where_rows_are()[0]
        await super().failover(losing)
        self._lost |= before - self._where_rows_are()[0]

    async def crash(self, in_calls):
        await super().crash(in_calls)
        self._kept -= self._lost - set().union(*self._where_rows_are())

    async def disk_recovers(self):
        self._not_kept |= self._lost if self._disk_is_bad() else set()
        await super().disk_recovers()

    def check(self):
        super().check()
        if self._disk_is_bad():
            self._kept -= self._lost - self._where_rows_are()[0] - self._where_rows_are()[1]


def tell(turns, seed):
    with capture_logs(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(m, "World", World)
        patch.setattr(delivery, "QUEUE_LIMIT", m.QUEUE_LIMIT)
        patch.setattr(spool, "CHUNK_BYTES", m.CHUNK_BYTES)
        patch.setattr(spool, "CUT_OFF_BYTES", int(os.environ.get("CUT", "900")))
        patch.setattr(sent, "SEGMENT_BYTES", 2000)
        for mod in (delivery, resend, batch_size):
            patch.setattr(mod, "LARGEST_BATCH", 3)
        try:
            trio.run(partial(m.live_through, turns, seed), clock=MockClock(autojump_threshold=0))
        except BaseException as e:
            open(os.environ.get("OUT", "/tmp/crew/break/fail.txt"), "a").write(repr((len(turns), turns, seed, repr(e)[:150])) + "\n")
            raise

FAIL = m.turn("failover", st.sampled_from([0, 1, 3, 10, 100]))
DB = st.one_of(
    m.turn("database", st.sampled_from([None, None, None, *m.Mishap])),
    m.turn("database_once", st.sampled_from(m.Mishap)),
    m.turn("latency", st.sampled_from([0.0, 0.0, 0.01, 0.5, 1.9, 2.1, 15.0])),
    m.turn("freeze"), m.turn("thaw", st.booleans()), m.turn("drop_schema", st.booleans()))
ENDS = st.one_of(m.turn("kill"), m.turn("goodbye", st.sampled_from([0.0, 0.001, 1.2, 2.0, 10.0])))
STORIES = st.lists(
    st.one_of(m.SENDS, m.SENDS, m.SENDS, m.WAITS, m.WAITS, DB, m.DISK, m.ENDS), max_size=70)
NODISK = st.lists(
    st.one_of(m.SENDS, m.SENDS, m.SENDS, m.WAITS, m.WAITS, DB, FAIL, ENDS), max_size=70)
S = dict(max_examples=int(os.environ.get("N", "3000")), deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck), print_blob=False)

@hypothesis.settings(**S)
@hypothesis.given(STORIES, st.integers(0, 2**32))
def test_all(turns, seed):
    tell(turns, seed)

@hypothesis.settings(**S)
@hypothesis.given(NODISK, st.integers(0, 2**32))
def test_nodisk(turns, seed):
    tell(turns, seed)


class LateDisk(m.FakeDisk):
    """A job that was given up ends later, as a thread's does, and the next one waits for it."""

    life = 0

    def restart(self):
        self.life += 1
        super().restart()

    def kill(self):
        self.life += 1
        super().kill()

    async def run(self, job):
        if not self.delay_s:
            return await super().run(job)
        limiter, life = self._one_at_a_time, self.life
        await limiter.acquire_on_behalf_of(token := object())
        done, result, delay_s = trio.Event(), [], self.delay_s

        async def work():
            await trio.sleep(delay_s)
            if life == self.life:
                try:
                    result.append((job(), None))
                except BaseException as error:
                    result.append((None, error))
            limiter.release_on_behalf_of(token)
            done.set()

        trio.lowlevel.spawn_system_task(work)
        await done.wait()
        if not result:
            await trio.sleep_forever()
        value, error = result[0]
        if error:
            raise error
        return value

LATE = st.lists(
    st.one_of(m.SENDS, m.SENDS, m.SENDS, m.WAITS, m.WAITS, DB, m.DISK,
        m.turn("disk_slows", st.sampled_from([0.3, 3.0, 11.0, 20.0])), m.ENDS), max_size=70)

@hypothesis.settings(**S)
@hypothesis.given(LATE, st.integers(0, 2**32))
def test_late(turns, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(m, "FakeDisk", LateDisk)
        tell(turns, seed)
