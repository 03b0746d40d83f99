"""The clock on which time passes only while every task waits."""

from __future__ import annotations

import time
from functools import partial

import pytest
import trio

from tests.support.patient_clock import GIVE_UP_AFTER_S, LATE_S, PatientClock, until


@pytest.fixture
def clock() -> PatientClock:
    return PatientClock()


async def test_a_minute_is_over_in_seconds(clock: PatientClock) -> None:
    began = time.monotonic()
    await trio.sleep(60)
    assert time.monotonic() - began < 30
    assert 60 <= trio.current_time() <= 60 + LATE_S


async def test_work_takes_no_time(clock: PatientClock) -> None:
    with trio.fail_after(0.5):
        for _ in range(10):
            time.sleep(0.01)  # noqa: ASYNC251  # busy, or paused
            await trio.lowlevel.checkpoint()
    assert trio.current_time() == 0


async def test_a_pause_during_a_wait_delays_nothing_beyond_the_next_deadline(
    clock: PatientClock,
) -> None:
    clock.rate = 1e9  # as if the machine had slept for very long in each wait
    for second in range(1, 5):
        await trio.sleep(1)
        assert second <= trio.current_time() <= second * (1 + 2 * LATE_S)


async def test_what_has_arrived_is_seen_before_patience_ends(clock: PatientClock) -> None:
    """A peer in the same event loop that responds after real work is never too late."""

    async def answer(stream: trio.SocketStream) -> None:
        async for data in stream:
            time.sleep(0.02)  # noqa: ASYNC251
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for _ in range(20):
                with trio.fail_after(0.2):
                    await stream.send_all(b"?")
                    assert await stream.receive_some() == b"?"
        nursery.cancel_scope.cancel()


async def test_waiting_in_vain_ends_with_the_complaint(clock: PatientClock) -> None:
    clock.rate *= 50
    with pytest.raises(AssertionError, match="waited in vain for rain"):
        await until(lambda: False, every_s=10, complaint=lambda: "for rain")
    assert trio.current_time() >= GIVE_UP_AFTER_S
