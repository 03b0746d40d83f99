"""Delivery's own events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from trio_bridge.delivery.breaker import BreakerState
from trio_bridge.events.rows import (
    CircuitChanged,
    CircuitClosed,
    CircuitOpened,
    RowsDropped,
    RowsQuarantined,
)
from trio_bridge.logs import Log

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from trio_bridge.delivery.breaker import Transition
    from trio_bridge.events.event import Event

REPORT_INTERVAL_S = 60.0
"""At most one event per interval reports quarantined rows. Otherwise a database that rejects the
reports as well would cause reports without end."""

CHANGES = {
    BreakerState.CLOSED: CircuitClosed,
    BreakerState.OPEN: CircuitOpened,
    BreakerState.HALF_OPEN: CircuitChanged,
}

log = Log()


@dataclass
class _Gap:
    """Rows dropped since the last report."""

    rows: int
    first: datetime
    last: datetime


class DeliveryNotices:
    """Gives each event to `emit`; dropped and quarantined rows are counted into one event."""

    def __init__(self, emit: Callable[[Event], None], *, quarantine_path: Path) -> None:
        self.emit = emit
        self._quarantine_path = quarantine_path
        self._gap: _Gap | None = None
        self._unreported = 0
        self._reported_at: float | None = None

    def end(self) -> None:
        """Report what is still unreported, without waiting for the interval."""
        self._reported_at = None
        self.quarantined(0)

    def changed(self, transition: Transition | None) -> None:
        """Report a change of the circuit breaker, if there was one."""
        if transition is not None:
            self.emit(CHANGES[transition.after](*transition))

    def dropped(self, timestamp: datetime) -> None:
        """A row is lost; it is reported when there is room again (`gap_ended`)."""
        if self._gap is None:
            log.error("row dropped: neither the database nor the disk takes any")
            self._gap = _Gap(1, timestamp, timestamp)
        else:
            self._gap.rows += 1
            self._gap.last = timestamp

    def gap_ended(self) -> None:
        if self._gap is not None:
            gap, self._gap = self._gap, None
            self.emit(RowsDropped(gap.rows, gap.first, gap.last))

    def quarantined(self, rows: int) -> None:
        """Count more rows, and report them and earlier ones if a report is due."""
        if rows:
            log.error("rows put into the quarantine", rows=rows)
        self._unreported += rows
        now = trio.current_time()
        due = self._reported_at is None or now - self._reported_at >= REPORT_INTERVAL_S
        if self._unreported and due:
            unreported, self._unreported, self._reported_at = self._unreported, 0, now
            self.emit(RowsQuarantined(unreported, str(self._quarantine_path)))
