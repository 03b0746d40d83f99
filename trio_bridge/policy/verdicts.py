"""What to report about the verdicts of the rows, one after the other. Pure.

A row that is worse than what was last reported is reported at once; better ones when all rows have
been better for a while. A position that flickers is one event then, not two a minute.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trio_bridge.events.rows import RowsComplete, RowsPartial, RowsStale
from trio_bridge.model import OLD, Defect, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_bridge.events.event import Event

INTERVALS_HELD = 12
"""One minute of rows, with the usual interval."""


class VerdictWatch:
    """Give it each row; it returns the event to report, if any.

    Args:
        interval_s: how far apart rows are.
    """

    def __init__(self, interval_s: float) -> None:
        self._hold_s = INTERVALS_HELD * interval_s
        self.forget()

    def forget(self) -> None:
        """There are no rows any more, and that is reported: the next ones are a new beginning."""
        self._reported = Verdict.COMPLETE
        self._named: frozenset[str] = frozenset()
        self._reported_at = self._so_bad_at = self._since = -math.inf
        self._rows = 0

    def look(
        self,
        verdict: Verdict,
        defects: Callable[[], Sequence[Defect]],
        *,
        positions: int,
        now: float,
    ) -> Event | None:
        """What to report about a row.

        Args:
            verdict: the row's.
            defects: gives what keeps it from being complete; asked only if something does.
            positions: how many are held.
            now: monotonic, seconds.
        """
        if verdict is Verdict.COMPLETE is self._reported:
            return None
        self._rows += verdict is not Verdict.COMPLETE
        worse = verdict.rank - self._reported.rank
        if worse >= 0:
            self._so_bad_at = now
        elif now - self._so_bad_at < self._hold_s:
            return None
        if verdict is Verdict.COMPLETE:
            event = RowsComplete(self._rows, self._so_bad_at - self._since)
            self.forget()
            return event
        found = defects()
        names = frozenset(one.contract for one in found)
        if worse == 0 and (names <= self._named or now - self._reported_at < self._hold_s):
            return None
        if self._reported is Verdict.COMPLETE:
            self._since = now
        self._reported, self._reported_at = verdict, now
        self._named |= names
        self._so_bad_at = now
        return _rows_are(verdict, found, positions)


def _rows_are(verdict: Verdict, found: Sequence[Defect], positions: int) -> Event:
    if verdict is Verdict.STALE:
        return RowsStale(len(found), positions, tuple(map(str, found)))
    left_out = [str(one) for one in found if one.state != OLD]
    return RowsPartial(len(left_out), positions, tuple(left_out))
