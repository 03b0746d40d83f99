"""What an alert says, and when: soon if something is new, rarely if it only continues.

A night without a gateway brings hundreds of warnings that differ only in a number. So the events of
one kind become one line, the latest one's, with a count. A kind not seen for an hour is reported
within seconds; one that continues, after 1, 2, 4, … 60 minutes. Memory is bounded, however long the
alerts cannot be delivered.

Pure: times are passed in (monotonic seconds).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    from trio_bridge.model import Severity

GATHER_S = 2.0
"""Related events arrive close together: one alert covers them all."""

CLOSEST_S = 10.0
"""The least time between two alerts, whatever happens: receivers rate-limit their senders."""

FIRST_REPEAT_S = 60.0
LONGEST_REPEAT_S = 3600.0
FORGOTTEN_AFTER_S = 3600.0
"""A kind not seen for this long counts as new again."""

MOST_KINDS = 50
"""Kinds in one alert (further events are only counted), and kinds that are remembered."""


class DigestLine(NamedTuple):
    """The latest event of a kind, and how often the kind occurred since the last alert."""

    at: datetime
    kind: str
    status: Severity
    message: str
    times: int


class Bulletin(NamedTuple):
    """One alert: its lines in the order in which their kinds first occurred."""

    lines: tuple[DigestLine, ...]
    left_out: int = 0

    def followed_by(self, later: Bulletin) -> Bulletin:
        return Bulletin(self.lines + later.lines, self.left_out + later.left_out)


@dataclass(slots=True)
class _Heard:
    heard_s: float
    wait_s: float
    """The least time from the last report of this kind to the next."""
    reported_s: float = -math.inf


class Digest:
    """Gathers events (`add`) until an alert is due (`due_at`), then returns it (`take`)."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Heard] = {}
        self._lines: dict[str, DigestLine] = {}
        self._left_out = 0
        self._taken_s = -math.inf
        self.due_at = math.inf
        """When the next alert is due; infinity while there is nothing to report."""

    def add(
        self,
        at: datetime,
        kind: str,
        status: Severity,
        message: str,
        *,
        now: float,
        topic: str | None = None,
    ) -> None:
        """Take an event; of those of one topic (by default its kind) only the latest is told."""
        self._forget(now)
        topic = topic or kind
        heard = self._kinds.get(topic)
        if heard is None:
            if len(self._kinds) >= MOST_KINDS and not self._make_room():
                self._left_out += 1  # the alert to come is full
                return
            heard = self._kinds[topic] = _Heard(now, FIRST_REPEAT_S)
        heard.heard_s = now
        known = self._lines.get(topic)
        times = 1 if known is None else known.times + 1
        self._lines[topic] = DigestLine(at, kind, status, message, times)
        due_s = max(now + GATHER_S, heard.reported_s + heard.wait_s, self._taken_s + CLOSEST_S)
        self.due_at = min(self.due_at, due_s)

    def take(self, now: float) -> Bulletin:
        """Return and clear everything added since the last call."""
        bulletin = Bulletin(tuple(self._lines.values()), self._left_out)
        for key in self._lines:
            kind = self._kinds[key]
            if kind.reported_s > -math.inf:
                kind.wait_s = min(2 * kind.wait_s, LONGEST_REPEAT_S)
            kind.reported_s = now
        self._lines = {}
        self._left_out = 0
        self.due_at = math.inf
        self._taken_s = now
        return bulletin

    def _make_room(self) -> bool:
        """Forget the reported kind that has been silent longest; False: none is reported yet."""
        reported = (key for key in self._kinds if key not in self._lines)
        silent = min(reported, key=lambda key: self._kinds[key].heard_s, default=None)
        if silent is None:
            return False
        del self._kinds[silent]
        return True

    def _forget(self, now: float) -> None:
        for key, kind in list(self._kinds.items()):
            if key not in self._lines and now - kind.heard_s >= FORGOTTEN_AFTER_S:
                del self._kinds[key]


class RowSilence(NamedTuple):
    """There was no valid row for this long; `over`: there is one again now."""

    lasted_s: float
    over: bool


class SilenceWatch:
    """Reports once when there has been no valid row for too long, and once when that is over.

    Args:
        after_s: how long is too long.
        now: when the watch begins.
    """

    def __init__(self, after_s: float, *, now: float) -> None:
        self._after_s = after_s
        self._since_s = now
        self._reported = False

    def look(self, *, now: float, right_s: float | None, excused: bool) -> RowSilence | None:
        """What to report now, if anything.

        `right_s` is when the last valid row was taken. While `excused` (the bridge waits out a
        reset window) no silence begins or grows; one already reported continues.
        """
        if right_s is not None and right_s > self._since_s:
            lasted_s, self._since_s = right_s - self._since_s, right_s
            if self._reported:
                self._reported = False
                return RowSilence(lasted_s, over=True)
        if self._reported:
            return None
        if excused:
            self._since_s = now
        if now - self._since_s < self._after_s:
            return None
        self._reported = True
        return RowSilence(now - self._since_s, over=False)
