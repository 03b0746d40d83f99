"""Who records our accounts, whether we do, and how soon a row is handed over. Pure.

Recorders of the same accounts need no agreement: a slot's row is stored once, whichever comes
first. All they know of each other is the rows in the database.

A standby takes over when `PATIENCE` intervals pass without a new row, counted from the instant at
which it saw the last one: so it does not matter how far the clocks of the two machines are apart. A
database that can't be asked shows no new row either. It steps back when the other has come back for
good, which it can only see if the other gets its slots: so a standby hands every row over late. Of
two standbys that record at the same time, the one whose name comes first goes on.

A recorder that is always first never sees the others' rows. So a row that is not complete is handed
over late for the first few, and now and then after that: if another one's complete row takes the
slot, the others are seen, and from then on go first for as long as they are there.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trio_bridge.events.service import SteppedBack, TookOver
from trio_bridge.identity import as_standby, is_standby
from trio_bridge.model import Verdict
from trio_bridge.policy.schedule import INTERVALS_ALLOWED, TOLERANCE
from trio_bridge.text import moment

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from trio_bridge.events.event import Event

PATIENCE = 1.5
"""Intervals without a new row, after which a standby takes over: a row may be half of one late."""

ROWS_TO_STEP_BACK = 2
"""Within `RECENT`. One row may be the last of a recorder that has just died."""

RECENT = 3.0
"""Intervals. Older rows come out of a spool: they do not show that their recorder lives."""

YIELD = 0.2
LONGEST_YIELD_S = 1.0
"""How long after its slot a row that is not complete is handed over, in intervals, and at most: it
is not safe before."""

YIELD_AS_STANDBY = TOLERANCE
LONGEST_YIELD_AS_STANDBY_S = 2.5
"""The same of every row of a standby: the other's may be so late, or its clock so far behind."""

FIRST_YIELDED = 3
YIELDED_EVERY = 12
"""Of the rows in a row that are not complete."""

LOOK_AHEAD = 0.1
"""Intervals before the next row may come, and between two looks then."""

SHORTEST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 30.0
SHORTEST_LOOK_S = 1.0
LONGEST_LOOK_S = 5.0

UNNAMED = "a service of an older version"


class Recorders:
    """Tell it what each look at the database has brought (`saw`, `failed`), and then `decide`.

    Args:
        name: ours, as in `identity.recorder`.
        interval_s: between the slots of the grid.
        stands_by: whether this is a standby (BRIDGE_STANDBY).
    """

    def __init__(self, name: str, interval_s: float, *, stands_by: bool) -> None:
        self.name = as_standby(name) if stands_by else name
        """Ours, as our rows have it."""
        self.stands_by = stands_by
        self.is_resting = stands_by
        """Whether the recording is left to another."""
        self.takeovers = 0
        self._interval_s = interval_s
        self._other = ""
        self._newest: datetime | None = None
        """The newest slot of another recorder, and whose it is."""
        self._news_s = -math.inf
        """When that was seen first."""
        self._alive_s = -math.inf
        """When another's row came while we looked. What is there at our first look may be the last
        of our own process before this one."""
        self._trouble = ""
        """Why the last look has failed."""
        self._able_since_s = math.inf
        self._returned = 0
        """Rows that show the return of one that goes first."""
        self._imperfect = 0
        """Our rows since the last complete one."""

    def saw(self, rows: Iterable[tuple[datetime, str]], now: float, wall: datetime) -> None:
        """Take the slots of the last rows of our accounts, each with its recorder; "": unknown."""
        self._trouble = ""
        theirs = [(slot, name) for slot, name in rows if name != self.name]
        news = [row for row in theirs if self._newest is None or row[0] > self._newest]
        if not news:
            return
        if now - self._news_s > RECENT * self._interval_s:
            self._returned = 0
        if any(self._goes_first(name) and self._is_recent(slot, wall) for slot, name in news):
            self._returned += 1
        if self._newest is not None:
            self._alive_s = now
        self._newest, self._other = max(news)
        self._news_s = now

    def failed(self, why: str) -> None:
        """The database could not be asked."""
        self._trouble = why

    def decide(self, now: float, *, is_able: bool) -> Event | None:
        """Whether a standby begins or ceases to record.

        Args:
            is_able: whether it could give rows if it did not rest.
        """
        if not self.stands_by:
            return None
        if not self.is_resting:
            return self._step_back() if self._returned >= ROWS_TO_STEP_BACK else None
        self._able_since_s = min(self._able_since_s, now) if is_able else math.inf
        if now < self.due_s:
            return None
        self.is_resting = False
        self.takeovers += 1
        self._returned = 0
        return TookOver(self._why())

    def _step_back(self) -> Event:
        self.is_resting = True
        self._able_since_s = math.inf
        return SteppedBack(self._named)

    @property
    def due_s(self) -> float:
        """When a resting standby takes over if there is no new row until then."""
        return max(self._news_s, self._able_since_s) + PATIENCE * self._interval_s

    def next_look_s(self, now: float, *, took_s: float) -> float:
        """When to look again, after a look that took this long. A database that does not answer
        may go on working on each question: it gets time for it."""
        interval_s = self._interval_s
        if not self.is_resting:
            pause_s = interval_s / 2 if self.stands_by else interval_s
            if self._trouble:
                pause_s = max(pause_s, took_s)
            return now + min(max(pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
        pause_s = max(LOOK_AHEAD * interval_s, SHORTEST_PAUSE_S)
        next_row_s = self._news_s + (1 - LOOK_AHEAD) * interval_s
        latest_s = min(max(self.due_s, now + SHORTEST_PAUSE_S), now + LONGEST_PAUSE_S)
        return min(max(now + pause_s, next_row_s), latest_s)

    def look_limit_s(self, now: float) -> float:
        """How long a look may take."""
        if self.is_resting and self.due_s < math.inf:
            least_s = max(LOOK_AHEAD * self._interval_s, SHORTEST_PAUSE_S)
            return min(max(self.due_s - now, least_s), LONGEST_LOOK_S)
        return min(max(self._interval_s, SHORTEST_LOOK_S), LONGEST_LOOK_S)

    def hand_over_after_s(self, verdict: Verdict, now: float) -> float:
        """How long after its slot to hand this row over. To be asked once for each."""
        if self.stands_by:
            return min(YIELD_AS_STANDBY * self._interval_s, LONGEST_YIELD_AS_STANDBY_S)
        if verdict is Verdict.COMPLETE:
            self._imperfect = 0
            return 0.0
        self._imperfect += 1
        is_trial = self._imperfect <= FIRST_YIELDED or self._imperfect % YIELDED_EVERY == 0
        if is_trial or self.other(now) is not None:
            return min(YIELD * self._interval_s, LONGEST_YIELD_S)
        return 0.0

    def other(self, now: float) -> str | None:
        """Who else has recorded our accounts within the last intervals, as far as was seen."""
        is_there = now - self._alive_s <= INTERVALS_ALLOWED * self._interval_s
        return self._named if is_there else None

    def rests_because(self, now: float) -> str:
        other = self.other(now)
        return "nobody is seen recording" if other is None else f"{other} records"

    @property
    def _named(self) -> str:
        return self._other or UNNAMED

    def _goes_first(self, name: str) -> bool:
        return not is_standby(name) or name < self.name

    def _is_recent(self, slot: datetime, wall: datetime) -> bool:
        return abs((wall - slot).total_seconds()) <= RECENT * self._interval_s

    def _why(self) -> str:
        if self._trouble:
            return f"the database can't be asked: {self._trouble}"
        if self._newest is None:
            return "nobody else has recorded these accounts lately"
        return f"no row from {self._named} since {moment(self._newest)}"
