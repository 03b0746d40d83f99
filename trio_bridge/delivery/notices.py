"""What delivery itself has to say, as rows of `api_logs` behind the rows that are waiting already.

These events take the way of all rows. They are not sent through the channel: then the writer could
wait for itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import trio

from trio_bridge.delivery.breaker import BreakerState
from trio_bridge.events.rows import CircuitChanged, CircuitOpened, RowsDropped, RowsQuarantined
from trio_bridge.logs import log_event

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from trio_bridge.delivery.breaker import Transition
    from trio_bridge.events.event import Event
    from trio_bridge.model import ApiEvent, ApiMode, Snapshot

REPORT_INTERVAL_S = 60.0
"""Quarantined rows are reported as one event per interval. This also bounds what happens when the
database rejects the report itself."""

log = structlog.get_logger()


@dataclass
class _Gap:
    """Rows dropped since the last report of it."""

    rows: int
    first: datetime
    last: datetime


class DeliveryNotices:
    """Each is logged at once, and becomes an event that goes to `accept`."""

    def __init__(
        self,
        accept: Callable[[ApiEvent], None],
        *,
        api_mode: ApiMode,
        quarantine_path: Path,
        now: Callable[[], datetime],
    ) -> None:
        self._accept = accept
        self._api_mode = api_mode
        self._quarantine_path = quarantine_path
        self._now = now
        self._channel: trio.MemoryReceiveChannel[Snapshot | ApiEvent] | None = None
        self._held: deque[Event] = deque()
        self._gap: _Gap | None = None
        self._unreported = 0
        self._reported_at: float | None = None

    def follow(self, receive: trio.MemoryReceiveChannel[Snapshot | ApiEvent]) -> None:
        """Stay behind the rows that are still in this channel."""
        self._channel = receive

    def end(self) -> None:
        """Nothing comes from the channel any more, and what is to be reported has to be now."""
        self._channel = None
        self._reported_at = None
        self.quarantined(0)
        self.pass_on()

    def say(self, event: Event) -> None:
        log_event(event)
        self._held.append(event)
        if not self._row_on_its_way():
            self.pass_on()

    def pass_on(self) -> None:
        """Give out what is held; its time is now."""
        while self._held:
            self._accept(self._held.popleft().as_row(self._now(), self._api_mode))

    def changed(self, transition: Transition | None) -> None:
        """The circuit breaker, if it did change."""
        if transition is not None:
            opened = transition.after is BreakerState.OPEN
            self.say((CircuitOpened if opened else CircuitChanged)(*transition))

    def dropped(self, timestamp: datetime) -> None:
        """A row is lost; it is told when there is room again (`gap_ended`)."""
        if self._gap is None:
            log.error("row dropped: neither the database nor the disk takes any")
            self._gap = _Gap(1, timestamp, timestamp)
        else:
            self._gap.rows += 1
            self._gap.last = timestamp

    def gap_ended(self) -> None:
        if self._gap is not None:
            gap, self._gap = self._gap, None
            self.say(RowsDropped(gap.rows, gap.first, gap.last))

    def quarantined(self, rows: int) -> None:
        """So many more; also asks whether a report of earlier ones is due."""
        if rows:
            log.error("rows put into the quarantine", rows=rows)
        self._unreported += rows
        now = trio.current_time()
        due = self._reported_at is None or now - self._reported_at >= REPORT_INTERVAL_S
        if self._unreported and due:
            unreported, self._unreported, self._reported_at = self._unreported, 0, now
            self.say(RowsQuarantined(unreported, str(self._quarantine_path)))

    def _row_on_its_way(self) -> bool:
        """Whether the channel has given out a row that its one receiver has not accepted yet.

        An event of ours would come in front of that row although its time is later. The receiver
        calls `pass_on` when it has caught up.
        """
        return self._channel is not None and self._channel.statistics().tasks_waiting_receive == 0
