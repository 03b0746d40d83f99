"""Takes one row per slot of the grid, or none when it would not be true."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from trio_bridge.events.rows import RowsMissed, RowsResumed, SlotsSkipped
from trio_bridge.gateways.readiness import NotReadyError
from trio_bridge.identity import LONGEST_ACCOUNT
from trio_bridge.logs import Log
from trio_bridge.model import AccountSet, Snapshot
from trio_bridge.policy.schedule import STOOD_STILL_S
from trio_bridge.policy.slots import Slots
from trio_bridge.policy.verdicts import VerdictWatch
from trio_bridge.text import moment

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from trio_bridge.gateways.base import EventSink, IBridgeBase
    from trio_bridge.policy.recorders import Recorders

LOOK_EVERY_S = 5.0
"""The clocks are compared at least so often, however long the interval is."""

CATCH_UP_S = 1.0
"""After the process was stopped: the time to read what the gateway has sent and to probe it. With a
long interval the slot may still be served after that."""

TAKEN = "the machine's clock was set back, and there are rows of the times until {until}"
"""No time gets a second row: which of the two would be true?"""

log = Log()


@dataclass
class TickerStatus:
    """What the ticker has done so far, for other tasks to read."""

    rows: int = 0
    skipped: int = 0
    """Slots that could not be served in time."""
    last: Snapshot | None = None
    accounts: tuple[str, ...] = ()
    """Those that `last` covers, by name."""
    silent_because: str | None = None
    """Why there are no rows now; None while there are."""
    silent_slots: int = 0
    last_slot_s: float | None = None
    """When a slot was last served, with a row or without (monotonic clock)."""
    last_right_s: float | None = None
    """When a row with known Greeks was last taken (monotonic clock)."""


class Ticker:
    """Reads the bridge's memory on the grid and hands each row to `put`, which never waits.

    `put_accounts` gets the names behind a key in a row's `account`, before the first row with it.
    """

    def __init__(
        self,
        bridge: IBridgeBase,
        put: Callable[[Snapshot], None],
        *,
        interval_s: float,
        emit: EventSink,
        put_accounts: Callable[[AccountSet], None] = lambda names: None,
        recorders: Recorders | None = None,
    ) -> None:
        self._bridge = bridge
        self._put = put
        self._put_accounts = put_accounts
        self._interval_s = interval_s
        self._emit = emit
        self._recorders = recorders
        self._in_hand: Snapshot | None = None
        self._hand_over_s = math.inf
        self._verdicts = VerdictWatch(interval_s)
        self.status = TickerStatus()

    async def run(self) -> None:
        try:
            await self._run()
        finally:
            self._hand_over()

    async def _run(self) -> None:
        slots = Slots(self._interval_s, self._bridge.look_at_clocks())
        while True:
            await _sleep_until(min(slots.due_s, self._hand_over_s))
            if trio.current_time() >= self._hand_over_s:
                self._hand_over()
            due = slots.look(self._bridge.look_at_clocks())
            if due.skipped and not self._bridge.is_resting:
                self.status.skipped += due.skipped
                self._emit(SlotsSkipped(due.skipped, due.slept_s, due.set_s))
            if due.slot is None:
                continue
            self.status.last_slot_s = trio.current_time()
            if due.taken_until is None:
                self._serve(due.slot, self.status.last_slot_s)
            else:
                self._stay_silent(TAKEN.format(until=moment(due.taken_until)))

    def _serve(self, slot: datetime, now: float) -> None:
        status = self.status
        try:
            snapshot = self._bridge.get_portfolio_greeks(slot)
        except NotReadyError as error:
            self._stay_silent(str(error.blocked))
            return
        if self._recorders is not None:
            snapshot = replace(snapshot, recorder=self._recorders.name)
        if status.silent_because is not None and status.silent_slots and status.rows:
            self._emit(RowsResumed(status.silent_slots, status.silent_because))
        status.silent_because, status.silent_slots = None, 0
        status.rows += 1
        self._name_accounts(snapshot)
        status.last = snapshot
        if snapshot.delta is not None:
            status.last_right_s = now
        self._take_in_hand(snapshot, now)
        self._judge(snapshot, now)
        log.debug(
            "row",
            slot=snapshot.timestamp.isoformat(),
            delta=snapshot.delta,
            gamma=snapshot.gamma,
            vega=snapshot.vega,
            theta=snapshot.theta,
            verdict=str(snapshot.verdict),
            priced=f"{snapshot.priced}/{snapshot.positions}",
            age_s=snapshot.greeks_age_s,
            late_ms=round(snapshot.late_s * 1000, 1),
        )

    def _take_in_hand(self, row: Snapshot, now: float) -> None:
        """Hand it over, at once or so late after its slot that another recorder's comes first."""
        after_s = 0.0
        if self._recorders is not None:
            after_s = self._recorders.hand_over_after_s(row.verdict, now)
        self._in_hand = row
        self._hand_over_s = now + after_s - max(0.0, row.late_s)
        if self._hand_over_s <= now:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._in_hand is not None:
            self._put(self._in_hand)
        self._in_hand, self._hand_over_s = None, math.inf

    def _name_accounts(self, row: Snapshot) -> None:
        status = self.status
        if status.last is not None and status.last.account == row.account:
            return
        status.accounts = tuple(self._bridge.inputs().accounts)
        names = ",".join(sorted(status.accounts))
        if len(names) > LONGEST_ACCOUNT:
            self._put_accounts(AccountSet(row.timestamp, row.account, names))

    def _judge(self, row: Snapshot, now: float) -> None:
        event = self._verdicts.look(
            row.verdict, self._bridge.defects, positions=row.positions, now=now
        )
        if event is not None:
            self._emit(event)

    def _stay_silent(self, reason: str) -> None:
        status = self.status
        self._verdicts.forget()
        status.silent_because = reason
        if self._bridge.is_resting:  # another records: none of ours is missed
            status.silent_slots = 0
            return
        # Before the first row the supervisor's events are enough.
        if not status.silent_slots and status.rows:
            self._emit(RowsMissed(reason))
        status.silent_slots += 1


async def _sleep_until(due_s: float) -> None:
    """Until then, or until the clocks are to be compared again."""
    wake_s = min(due_s, trio.current_time() + LOOK_EVERY_S)
    await trio.sleep_until(wake_s)
    if trio.current_time() - wake_s > STOOD_STILL_S:
        await trio.sleep(CATCH_UP_S)
