"""A wall clock that moves with Trio's (virtual) one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import trio

EASTERN = ZoneInfo("America/New_York")


class WallClock:
    """Call it for the time: `start` plus the time on Trio's clock since its first use.

    `jump` moves it against the monotonic clock, as a correction or a suspended machine does.
    """

    def __init__(self, start: datetime) -> None:
        self._start = start.astimezone(UTC)
        self._began: float | None = None

    def __call__(self) -> datetime:
        if self._began is None:
            self._began = trio.current_time()
        return self._start + timedelta(seconds=trio.current_time() - self._began)

    def jump(self, by: timedelta) -> None:
        self()
        self._start += by


def eastern(*when: int) -> datetime:
    """A time in New York."""
    return datetime(*when, tzinfo=EASTERN)  # type: ignore[misc, arg-type]
