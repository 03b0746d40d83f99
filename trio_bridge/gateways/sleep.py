"""Whether the machine has slept: then the wall clock has gone on alone.

The monotonic clock of Linux and macOS does not count the time that a machine is suspended (nor does
a paused virtual machine's), so no timer runs out meanwhile and nothing in memory seems to age.
https://docs.python.org/3/library/time.html#time.monotonic
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

SHORTEST_SLEEP_S = 10.0
"""What is less is taken for a correction of the wall clock. A larger correction is taken for a
sleep, which costs a reconnect and nothing else."""


class SleepWatch:
    """Compares the two clocks each time it is asked."""

    def __init__(self) -> None:
        self._ahead_s: float | None = None

    def slept_s(self, wall: datetime, monotonic_s: float) -> float:
        """How long the machine has slept since the last question; 0 if it has not."""
        before_s, self._ahead_s = self._ahead_s, wall.timestamp() - monotonic_s
        if before_s is None or self._ahead_s - before_s < SHORTEST_SLEEP_S:
            return 0.0
        return self._ahead_s - before_s
