"""A slow disk (each job 3 s, nothing fails) and a healthy database: what is committed never leaves the queue,
each retry appends all of it once more, and at the bound new rows are dropped."""
import trio
from tests.delivery.sinks import BUFFER, Sinks, now, numbers, KEEP, running
from trio_bridge.stores.fake import FakeStore
from trio_bridge.stores.spool.fake_disk import FakeDisk
from trio_bridge.stores.spool.spool import Spool


class SlowDisk(FakeDisk):
    """As a thread does: a job that was given up ends later, and the next waits for it."""

    async def run(self, job):
        if not self.delay_s:
            return await super().run(job)
        await self._one_at_a_time.acquire_on_behalf_of(token := object())
        done = trio.Event()
        result = []

        async def work():
            await trio.sleep(self.delay_s)
            try:
                result.append((job(), None))
            except Exception as error:
                result.append((None, error))
            self._one_at_a_time.release_on_behalf_of(token)
            done.set()

        trio.lowlevel.spawn_system_task(work)
        await done.wait()
        value, error = result[0]
        if error:
            raise error
        return value


async def test_a_slow_disk(autojump_clock):
    store, disk = FakeStore(), SlowDisk()
    async with running(store, disk) as sinks:
        await trio.sleep(1)
        disk.delay_s = 3.0
        for n in range(360):
            sinks.send(n)
            await trio.sleep(5)
            if n % 40 == 39:
                print(n, "in queue", sinks.delivery.waiting, "spool", len(disk.content(BUFFER)), "committed", len(numbers(store)), sinks.state())
        waiting, size = sinks.delivery.waiting, len(disk.content(BUFFER))
        disk.delay_s = 0.0
        await trio.sleep(130)
        print(sinks.delivery.waiting, len(numbers(store)))
    assert waiting < 10 and size < 100_000
