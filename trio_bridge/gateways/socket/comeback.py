"""Whether a gateway's link to Interactive Brokers is back although it does not say so. Pure.

After 1100 a gateway owes 1101 or 1102, and sometimes neither comes: its farms report that they are
well, ticks go on, and a bridge that waits for the code waits for ever. What the gateway has missed
meanwhile nobody knows, so the cure is a new connection.
"""

from __future__ import annotations

import math
from typing import Final

FARMS_WELL: Final = frozenset({2104, 2106, 2158})
FARMS_BROKEN: Final = frozenset({2103, 2105, 2157})

WELL_S: Final = 60.0
"""Farms that were well, or ticks that came, for this long: the link is up."""

TICK_GAP_S: Final = 15.0
"""Ticks that are further apart than this don't go on: they begin again."""

PATIENCE_S: Final = 300.0
"""After this long without any sign a new connection finds out."""


class Comeback:
    """Watches one outage at a time. All instants are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.over()

    def begin(self, code: int, now: float) -> None:
        """The link is lost, says this code."""
        self._code = code
        self._lost_at = now

    def over(self) -> None:
        """The gateway says that the link is back, or there was no outage."""
        self._code = 0
        self._lost_at = self._well_since = self._ticking_since = math.inf
        self._ticked_at = -math.inf
        self._ticks = -1

    def heard(self, code: int, now: float) -> None:
        """The gateway has sent this code, with whatever meaning."""
        if code in FARMS_BROKEN:
            self._well_since = math.inf
        elif code in FARMS_WELL and self._lost_at < math.inf:
            self._well_since = min(self._well_since, now)

    def look(self, ticks: int, now: float) -> str:
        """Why to connect again, or empty.

        Args:
            ticks: how many market data messages there have been since the connection began.
            now: the present.
        """
        if self._lost_at == math.inf:
            return ""
        if ticks != self._ticks >= 0:
            if now - self._ticked_at > TICK_GAP_S:
                self._ticking_since = now
            self._ticked_at = now
        self._ticks = ticks
        if now - self._well_since >= WELL_S:
            return self._because(WELL_S, ", although its data farms are well")
        if now - self._ticked_at <= TICK_GAP_S and now - self._ticking_since >= WELL_S:
            return self._because(WELL_S, ", although market data comes")
        return self._because(PATIENCE_S) if now - self._lost_at >= PATIENCE_S else ""

    def _because(self, seconds: float, sign: str = "") -> str:
        return (
            f"the gateway lost its link ({self._code}) and has not said for {seconds:.0f} s that "
            f"it is back{sign}: connecting again"
        )
