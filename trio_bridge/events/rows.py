"""Events of rows: taken or not, and on their way into the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_bridge.events.event import ERROR, WARNING, Event
from trio_bridge.text import count, duration

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


NAMED = 5
"""Contracts that a sentence names; it counts the others."""


class RowsMissed(Event):
    """The first slot without a row, and why."""

    kind = "rows.missed"
    severity = WARNING
    says = "no rows: {reason}"
    reason: str


class RowsResumed(Event):
    """`slots` is the number of those without a row."""

    kind = "rows.resumed"
    says = "recording again after {slots:missed slot} ({reason})"
    slots: int
    reason: str


def named(contracts: Sequence[str]) -> str:
    """The first ones, and how many more there are."""
    others = len(contracts) - NAMED
    more = f" and {others:,} more" if others > 0 else ""
    return f"{'; '.join(contracts[:NAMED])}{more}"


class RowsPartial(Event):
    """The sums of the rows from here on lack `missing` of the `positions` held; `contracts` are
    their names, states and reasons."""

    kind = "rows.partial"
    severity = WARNING
    missing: int
    positions: int
    contracts: tuple[str, ...]

    @property
    def text(self) -> str:
        lacking = f"{self.missing:,} of {count(self.positions, 'position')} not in the sums"
        return f"partial: {lacking}: {named(self.contracts)}"


class RowsStale(Event):
    """The sums of the rows from here on contain old data of `old` of the `positions` held;
    `contracts` are their names and ages."""

    kind = "rows.stale"
    severity = WARNING
    old: int
    positions: int
    contracts: tuple[str, ...]

    @property
    def text(self) -> str:
        data = f"old data of {self.old:,} of {count(self.positions, 'position')}"
        return f"stale: {data}: {named(self.contracts)}"


class RowsComplete(Event):
    """The end of both: `rows` were partial or stale, over `lasted_s` seconds."""

    kind = "rows.complete"
    says = "complete rows again, after {rows:row} that lacked something, over {lasted_s:.0f} s"
    rows: int
    lasted_s: float


class RowsBegun(Event):
    """For alerts only: the first row since the start, and a complete one.

    What an earlier process said last may have been bad; this one can't know.
    """

    kind = "rows.begun"
    says = "recording complete rows since the start"


class SlotsSkipped(Event):
    """The process did not run when a row was due, or the wall clock never showed that time: the
    machine was asleep for `slept_s`, and the clock was set by `set_s`."""

    kind = "rows.skipped"
    severity = WARNING
    slots: int
    slept_s: float = 0.0
    set_s: float = 0.0

    @property
    def text(self) -> str:
        if self.slept_s > abs(self.set_s):
            why = f"the machine was asleep for {duration(self.slept_s)}"
        elif self.set_s > 0:
            by = duration(self.set_s)
            why = f"the machine's clock was set forward by {by}, or the machine was paused"
        else:
            why = "the machine was busy, or the process was stopped"
        return f"{count(self.slots, 'slot')} skipped: {why}"


class SlotsDoubled(Event):
    """Sums over the table count them twice."""

    kind = "rows.doubled"
    severity = WARNING
    says = (
        "{slots} of the last slots hold two rows of {accounts}: another service records into this "
        "database too"
    )
    advises = "stop one of the two"
    slots: int
    accounts: tuple[str, ...]


class SlotsSingle(Event):
    kind = "rows.single"
    says = "each slot holds one row again"


class RowsOverdue(Event):
    """For alerts only."""

    kind = "rows.overdue"
    severity = ERROR
    says = "no valid row for {lasted_s:.0f} s: {reason}"
    lasted_s: float
    reason: str


class RowsOnTime(Event):
    """For alerts only: the end of the above."""

    kind = "rows.on_time"
    says = "valid rows again, after {lasted_s:.0f} s without one"
    lasted_s: float


class CircuitChanged(Event):
    """The circuit breaker's state before and after: CLOSED, OPEN or HALF_OPEN."""

    kind = "database.circuit_changed"
    says = "database circuit {before} → {after}: {reason}"
    before: str
    after: str
    reason: str


class CircuitOpened(CircuitChanged):
    """`after` is OPEN: rows go to the spool."""

    kind = "database.circuit_opened"
    severity = WARNING


class CircuitClosed(CircuitChanged):
    """`after` is CLOSED: every row is in the database."""

    kind = "database.circuit_closed"


class RowsQuarantined(Event):
    """The database will never take them."""

    kind = "rows.quarantined"
    severity = ERROR
    says = "{rows:row} could not be stored: see {path}"
    rows: int
    path: str


class RowsSentAgain(Event):
    """The database had acknowledged them, and lacked them when it answered again."""

    kind = "rows.sent_again"
    severity = WARNING
    says = (
        "the database had lost {rows:row} from {first} to {last} that it had acknowledged: "
        "sent again"
    )
    rows: int
    first: str
    last: str


class SpoolUnwritable(Event):
    """While the database is down, `limit` rows is all that memory holds."""

    kind = "spool.unwritable"
    severity = ERROR
    says = (
        "the spool can't be written: rows go to the database from memory, where up to {limit:row} "
        "can wait: {reason}"
    )
    limit: int
    reason: str


class SpoolTakenAway(Event):
    """`bytes_gone` of rows were in it that the database did not have yet."""

    kind = "spool.taken_away"
    severity = ERROR
    says = (
        "another program moved, removed or cut the spool: {bytes_gone:byte} of rows that the "
        "database did not have went with it"
    )
    advises = (
        "keep log rotation away from {path}; if the file was moved, BRIDGE_BUFFER_PATH=THAT_FILE "
        "trio-bridge flush stores its rows"
    )
    bytes_gone: int
    path: str


class RowsSafe(Event):
    """The end of `SpoolUnwritable`."""

    kind = "spool.writable"
    says = "all rows are safe again"


class RowsDropped(Event):
    """The only possible loss: memory had no room for these rows."""

    kind = "rows.dropped"
    severity = ERROR
    says = "{rows:row} from {first} to {last} dropped: neither the database nor the disk took any"
    rows: int
    first: datetime
    last: datetime
