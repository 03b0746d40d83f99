"""Takes one row per slot of the grid, or none when it would not be true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from trio_bridge.events.rows import RowsMissed, RowsResumed, SlotsSkipped
from trio_bridge.gateways.readiness import NotReadyError
from trio_bridge.logs import Log
from trio_bridge.model import Snapshot, utc_now
from trio_bridge.policy.schedule import STOOD_STILL_S, Grid
from trio_bridge.policy.verdicts import VerdictWatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from trio_bridge.gateways.base import EventSink, IBridgeBase
    from trio_bridge.gateways.readiness import Blocked

CATCH_UP_S = 1.0
"""After the process was stopped: the time to read what the gateway has sent and to probe it. With a
long interval the slot may still be served after that."""

log = Log()


@dataclass
class TickerStatus:
    """What the ticker has done so far, for other tasks to read."""

    rows: int = 0
    skipped: int = 0
    """Slots that could not be served in time."""
    last: Snapshot | None = None
    last_lateness_s: float = 0.0
    silent_because: Blocked | None = None
    """Why there are no rows now; None while there are."""
    silent_slots: int = 0
    last_slot_s: float | None = None
    """When a slot was last served, with a row or without (monotonic clock)."""
    last_right_s: float | None = None
    """When a row with known Greeks was last taken (monotonic clock)."""


class Ticker:
    """Reads the bridge's memory on the grid and hands each row to `put`, which never waits."""

    def __init__(
        self,
        bridge: IBridgeBase,
        put: Callable[[Snapshot], None],
        *,
        interval_s: float,
        emit: EventSink,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._bridge = bridge
        self._put = put
        self._interval_s = interval_s
        self._emit = emit
        self._now = now
        self._verdicts = VerdictWatch(interval_s)
        self.status = TickerStatus()

    async def run(self) -> None:
        # The wall clock first: what passes between the two readings makes rows late, not early.
        wall = self._now()
        grid = Grid.aligned(self._interval_s, now=trio.current_time(), wall=wall)
        served = -1
        while True:
            slot, skipped = grid.next_slot(served, trio.current_time())
            if skipped:
                self.status.skipped += skipped
                self._emit(SlotsSkipped(skipped))
                served = slot - 1
            await trio.sleep_until(grid.at(slot))
            if trio.current_time() - grid.at(slot) > STOOD_STILL_S:
                await trio.sleep(CATCH_UP_S)
            if not grid.in_time(slot, trio.current_time()):
                continue  # woken too late: the next round counts this slot as skipped
            served = slot
            self._serve(lateness_s=trio.current_time() - grid.at(slot))

    def _serve(self, *, lateness_s: float) -> None:
        status = self.status
        status.last_slot_s = trio.current_time()
        try:
            snapshot = self._bridge.get_portfolio_greeks()
        except NotReadyError as error:
            self._stay_silent(error.blocked)
            return
        if status.silent_because is not None and status.rows:
            self._emit(RowsResumed(status.silent_slots, str(status.silent_because)))
        status.silent_because, status.silent_slots = None, 0
        status.rows += 1
        status.last, status.last_lateness_s = snapshot, lateness_s
        if snapshot.delta is not None:
            status.last_right_s = status.last_slot_s
        self._put(snapshot)
        self._judge(snapshot, status.last_slot_s)
        log.debug(
            "row",
            taken_at=snapshot.timestamp.isoformat(),
            delta=snapshot.delta,
            gamma=snapshot.gamma,
            vega=snapshot.vega,
            theta=snapshot.theta,
            verdict=str(snapshot.verdict),
            priced=f"{snapshot.priced}/{snapshot.positions}",
            age_s=snapshot.greeks_age_s,
            late_ms=round(lateness_s * 1000, 1),
        )

    def _judge(self, row: Snapshot, now: float) -> None:
        event = self._verdicts.look(
            row.verdict, self._bridge.defects, positions=row.positions, now=now
        )
        if event is not None:
            self._emit(event)

    def _stay_silent(self, reason: Blocked) -> None:
        status = self.status
        self._verdicts.forget()
        # Before the first row the supervisor's events are enough.
        if status.silent_because is None and status.rows:
            self._emit(RowsMissed(str(reason)))
        status.silent_because = reason
        status.silent_slots += 1
