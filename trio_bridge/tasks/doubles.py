"""Checks, now and then, whether another service records our accounts into the same database."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import trio

from trio_bridge.errors import StoreError
from trio_bridge.events.rows import SlotsDoubled, SlotsSingle
from trio_bridge.model import utc_now
from trio_bridge.policy.doubles import doubled_slots, look_back_s

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from trio_bridge.gateways.base import EventSink
    from trio_bridge.model import RecentRow
    from trio_bridge.tasks.ticker import TickerStatus

    RecentRows = Callable[[datetime, datetime], Awaitable[Sequence[RecentRow]]]
    """Reads the rows between two instants, in order. Raises StoreError."""

FIRST_LOOK_S = 60.0
LOOK_EVERY_S = 600.0
LOOK_TIMEOUT_S = 10.0


async def watch_for_doubles(
    read: RecentRows,
    ticker: TickerStatus,
    *,
    interval_s: float,
    emit: EventSink,
    now: Callable[[], datetime] = utc_now,
) -> None:
    """Report when it begins and when it has ended, until cancelled. `interval_s` is the ticker's.

    A database that does not answer is asked again the next time: delivery reports that.
    """
    reported = False
    await trio.sleep(FIRST_LOOK_S)
    while True:
        if ticker.last is not None and (rows := await _last_rows(read, now(), interval_s)):
            taken = [(row.at, row.accounts) for row in rows]
            doubled = doubled_slots(taken, interval_s, ours=ticker.accounts)
            if doubled is not None and not reported:
                emit(SlotsDoubled(doubled.slots, tuple(doubled.accounts)))
            elif doubled is None and reported:
                emit(SlotsSingle())
            reported = doubled is not None
        await trio.sleep(LOOK_EVERY_S)


async def _last_rows(read: RecentRows, at: datetime, interval_s: float) -> Sequence[RecentRow]:
    """None of them when the database does not answer."""
    back = timedelta(seconds=look_back_s(interval_s))
    with trio.move_on_after(LOOK_TIMEOUT_S), suppress(StoreError):
        return await read(at - back, at + back)  # another machine's clock may be ahead of ours
    return ()
