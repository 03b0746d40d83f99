"""A fast clock for tests with real sockets; it waits for every task that has work to do."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

RATE: Final = 50.0
"""Seconds on Trio's clock per real second of idleness."""

GRACE_S: Final = 0.001
"""Real time at the start of each wait that does not count: sent data may arrive during it."""

LATE_S: Final = 1e-6
"""On Trio's clock: no task wakes exactly at a deadline, where float rounding would decide."""


class PatientClock(trio.abc.Clock, trio.abc.Instrument):
    """Trio's clock, on which time passes only while every task waits.

    Bridge and simulator share a test's event loop. On a clock that merely runs faster than the real
    one, each millisecond of work, or of a pause on a busy machine, makes every task late, and time
    limits fail for no fault of the code. Here work takes no time, and no wait lasts beyond the next
    deadline: whatever has arrived by then is seen no later than that deadline.

    So a busy machine makes a test slower, but does not change the order of events. How long work
    takes cannot be tested with this clock.
    """

    def __init__(self, rate: float = RATE) -> None:
        self.rate = rate
        self._now = 0.0
        self._next_deadline = math.inf
        self._waiting_since: float | None = None

    def start_clock(self) -> None:
        trio.lowlevel.add_instrument(self)

    def current_time(self) -> float:
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        self._next_deadline = deadline
        return GRACE_S + (deadline - self._now) / self.rate if deadline > self._now else 0.0

    def before_io_wait(self, timeout: float) -> None:
        self._waiting_since = time.perf_counter() if timeout > 0 else None

    def after_io_wait(self, timeout: float) -> None:
        if self._waiting_since is None:
            return
        idle_s = time.perf_counter() - self._waiting_since - GRACE_S
        if idle_s > 0:
            latest = max(self._now, self._next_deadline + LATE_S)
            self._now = min(self._now + idle_s * self.rate, latest)


GIVE_UP_AFTER_S: Final = 300.0


async def until(
    condition: Callable[[], object], *, every_s: float, complaint: Callable[[], str]
) -> None:
    """Poll until the condition holds; fail with the complaint if it never does.

    "Never" is a time on Trio's clock. On the patient clock only time in which every task waited
    counts, so a busy machine does not use it up; real time ends the wait only if Trio's clock has
    stopped.
    """
    give_up_at = trio.current_time() + GIVE_UP_AFTER_S
    really_give_up_at = time.monotonic() + GIVE_UP_AFTER_S
    while not condition():
        waiting = trio.current_time() < give_up_at and time.monotonic() < really_give_up_at
        assert waiting, f"waited in vain {complaint()}"
        await trio.sleep(every_s)
