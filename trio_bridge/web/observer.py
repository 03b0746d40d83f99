"""Watches one service and counts what happens in it.

The service reports every row and event when it is on its way, and again when it is safe: committed
in the database or fsynced in the spool. Only safe rows count for "is it well?".
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import orjson
import trio

from trio_bridge.events.rows import named
from trio_bridge.model import ApiEvent, Severity, Snapshot, Verdict
from trio_bridge.policy.schedule import INTERVALS_ALLOWED
from trio_bridge.risk.verdict import suffices
from trio_bridge.rows import API_LOGS, PORTFOLIO_GREEKS
from trio_bridge.status import status_of
from trio_bridge.tasks.supervisor import State
from trio_bridge.text import count

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_bridge.model import Item
    from trio_bridge.service import Service
    from trio_bridge.status import BridgeStatus
    from trio_bridge.stores.record import Record
    from trio_bridge.web.streams import Hub

RECENT_ROWS = 2_000
"""Held in memory for charts while the database does not have the rows yet: almost three hours."""

STALLED_S = 10.0
"""A ticker that has served no slot for this long (or three intervals) has stopped."""


@dataclass
class Observer:
    """Call `watch` once. Everything is read from memory, on Trio's thread.

    Attributes:
        lateness, time_to_safe: each takes the seconds of one row.
        hub: gets each safe row and event, as the JSON that was stored.
        events: how many events there have been, by status.
    """

    service: Service
    lateness: Callable[[float], None]
    time_to_safe: Callable[[float], None]
    hub: Hub
    events: dict[Severity, int] = field(default_factory=lambda: dict.fromkeys(Severity, 0))
    recent: deque[bytes] = field(default_factory=lambda: deque(maxlen=RECENT_ROWS))
    """The last safe rows, as the JSON that was stored."""
    safe_rows: int = 0
    safe_verdict: Verdict = Verdict.BLIND
    safe_delta: float | None = None
    """Those of the last row that became safe."""
    safe_s: float = -math.inf
    """When it became safe (monotonic clock)."""
    began_s: float = field(default_factory=trio.current_time)

    def watch(self) -> None:
        self.service.watchers.append(self._on_its_way)
        self.service.safe_watchers.append(self._safe)

    def unwatch(self) -> None:
        self.service.watchers.remove(self._on_its_way)
        self.service.safe_watchers.remove(self._safe)

    def _on_its_way(self, item: Item) -> None:
        if isinstance(item, ApiEvent):
            self.events[item.status] += 1
        elif isinstance(item, Snapshot):
            self.lateness(max(0.0, item.late_s))

    def _safe(self, record: Record, waited_s: float) -> None:
        if record.table == PORTFOLIO_GREEKS.name:
            self.safe_rows += 1
            self.recent.append(record.row)
            self.time_to_safe(waited_s)
            row = orjson.loads(record.row)
            self.safe_verdict, self.safe_delta = Verdict(row["verdict"]), row["delta"]
            self.safe_s = trio.current_time()
            self.hub.send("row", record.row)
        elif record.table == API_LOGS.name:
            self.hub.send("event", record.row)

    def recent_json(self, seconds: float = math.inf) -> bytes:
        """The rows of about the last `seconds` that became safe, as a JSON list."""
        rows = min(len(self.recent), seconds // self.interval_s + 1)
        return b"[%s]" % b",".join(islice(self.recent, len(self.recent) - int(rows), None))

    def status(self) -> BridgeStatus:
        return status_of(self.service, self.verdict())

    def verdict(self) -> Verdict:
        """The last safe row's; BLIND when none became safe within the last three intervals, STANDBY
        when none has to."""
        if self.service.bridge.stands_by:
            return Verdict.STANDBY
        late = trio.current_time() - self.safe_s > INTERVALS_ALLOWED * self.interval_s
        return Verdict.BLIND if late else self.safe_verdict

    @property
    def interval_s(self) -> float:
        return self.service.settings.poll_interval_s

    def not_ready_because(self) -> str | None:
        """Why there is no row that BRIDGE_READY allows, the cause first; None when there is, or
        while this standby leaves that to another and could take over."""
        verdict, ready = self.verdict(), self.service.settings.ready
        if verdict is Verdict.STANDBY or suffices(verdict, self.safe_delta, ready):
            return None
        if verdict is not Verdict.BLIND:
            defects = named([str(one) for one in self.service.bridge.defects()])
            return ": ".join(filter(None, (verdict, defects)))
        gateway, ticker = self.service.supervisor.status, self.service.ticker.status
        delivery = self.service.delivery
        if ticker.silent_because is not None:
            if gateway.state is State.CONNECTED:
                return f"no rows: {ticker.silent_because}"
            detail = f": {gateway.reason}" if gateway.reason else ""
            return f"no rows: {gateway.state}{detail}"
        if delivery.waiting:
            return f"{count(delivery.waiting, 'row')} not safe: neither database nor disk takes any"
        if ticker.rows == 0:
            return "no row yet: just started"
        return f"no row within {INTERVALS_ALLOWED} intervals of {self.interval_s:g} s"

    def stands_by_because(self) -> str | None:
        """Who records in place of this standby; None when it records itself, or could not."""
        bridge = self.service.bridge
        return str(bridge.readiness.why(trio.current_time())) if bridge.stands_by else None

    def stalled_because(self) -> str | None:
        """Why the process counts as dead although it answers; None when it does not."""
        last_s = self.service.ticker.status.last_slot_s
        silent_s = trio.current_time() - (self.began_s if last_s is None else last_s)
        if silent_s <= max(STALLED_S, INTERVALS_ALLOWED * self.interval_s):
            return None
        return f"the ticker has not moved for {silent_s:.0f} s"
