"""How far apart rows were meant to be at each time: every start of the service records its interval
as a number of its event in `api_logs`."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from trio_bridge.events.service import ServiceStarted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from trio_bridge.stores.database.connection import TrioConnection

_STARTED = f"""
    SELECT "timestamp", (numbers ->> 'interval_s')::float8 AS interval_s
    FROM api_logs WHERE kind = '{ServiceStarted.kind}' AND numbers ? 'interval_s'
"""
_STARTS = f"""
    ({_STARTED} AND "timestamp" < %(start)s ORDER BY "timestamp" DESC LIMIT 1)
    UNION ALL ({_STARTED} AND "timestamp" >= %(start)s AND "timestamp" < %(end)s)
    ORDER BY "timestamp"
"""


class Intervals(NamedTuple):
    """The intervals in seconds: `first_s` until the first of the `starts`, which are in order, and
    after each start its own, in `started_s`."""

    first_s: float
    starts: Sequence[datetime] = ()
    started_s: Sequence[float] = ()

    def at(self, instant: datetime) -> float:
        number = bisect_right(self.starts, instant)
        return self.started_s[number - 1] if number else self.first_s

    def longer(self, start: datetime, end: datetime) -> float:
        """The longer one of the two ends: no sooner was a row due after a change."""
        return max(self.at(start), self.at(end))

    def shortest(self, start: datetime, end: datetime) -> float:
        """Of those from `start` to `end`."""
        changes = self.started_s[bisect_right(self.starts, start) : bisect_right(self.starts, end)]
        return min([self.at(start), *changes])


async def read_intervals(
    connection: TrioConnection, start: datetime, end: datetime, *, today_s: float
) -> Intervals:
    """From `start` to `end`; before the first recorded start today's. Raises psycopg's errors."""
    cursor = await connection.execute(_STARTS, {"start": start, "end": end})
    starts = await cursor.fetchall()
    return Intervals(float(today_s), [at for at, _ in starts], [each_s for _, each_s in starts])
