"""The disk hangs after a row was appended (at its read): the rows are all in memory and the database is healthy, but
nothing reaches it for as long as the disk hangs; the events blame the database."""
import trio
from tests.delivery.sinks import numbers, running, circuit
from tests.delivery.test_02 import SlowDisk
from trio_bridge.stores.fake import FakeStore
from trio_bridge.delivery.breaker import BreakerState


class HangsAtRead(SlowDisk):
    armed = False

    async def run(self, job):
        if self.armed and "read" in job.__qualname__:
            self.armed, self.delay_s = False, 3600.0
        return await super().run(job)


async def test_a_hung_disk_keeps_no_row_from_a_healthy_database(autojump_clock):
    store, disk = FakeStore(), HangsAtRead()
    async with running(store, disk) as sinks:
        await trio.sleep(1)
        disk.armed = True
        for n in range(120):
            sinks.send(n)
            await trio.sleep(5)
        got, waiting, state = len(numbers(store)), sinks.delivery.waiting, sinks.state()
        print(got, waiting, state)
        disk.delay_s = 0.0
        await trio.sleep(4000)
    assert got > 100
