"""Alerts a person: posts warnings, errors and missing rows to BRIDGE_ALERT_URL.

`notice` gets every event on its way to the database and returns at once, whatever the receiver
does; everything else happens in a task of its own. An alert that the receiver does not take is
tried again forever, while later events gather in bounded memory. Trouble with the receiver goes to
the log only: as an event it would be an alert itself.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_bridge.events.rows import (
    CircuitClosed,
    CircuitOpened,
    RowsBegun,
    RowsComplete,
    RowsMissed,
    RowsOnTime,
    RowsOverdue,
    RowsPartial,
    RowsResumed,
    RowsStale,
)
from trio_bridge.events.service import ServiceDied, SteppedBack, TookOver
from trio_bridge.logs import Log
from trio_bridge.model import ApiEvent, Severity, Snapshot, Verdict, utc_now
from trio_bridge.policy.backoff import Backoff
from trio_bridge.policy.digest import Digest, SilenceWatch
from trio_bridge.policy.schedule import INTERVALS_ALLOWED
from trio_bridge.tasks.guests import keep_going
from trio_bridge.tasks.supervisor import State
from trio_bridge.tasks.webhook import NotNowError, RefusedError, Webhook

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from pydantic import SecretStr

    from trio_bridge.events.event import Event
    from trio_bridge.gateways.base import EventSink
    from trio_bridge.model import Item
    from trio_bridge.policy.digest import Bulletin
    from trio_bridge.tasks.supervisor import ConnectionStatus
    from trio_bridge.tasks.ticker import TickerStatus

RETRY_DELAYS_S = (5.0, 10.0, 30.0, 60.0, 300.0)
LOOK_EVERY_S = 1.0
LAST_WORD_S = 3.0
"""For the last alert when the service ends without being asked to."""

GOODBYE_S = 2.0
"""For the last alert after the signal to end, and at least SHORTEST_GOODBYE_S: all in all the
service ends within 3 s."""

SHORTEST_GOODBYE_S = 0.2

ROWS = frozenset(
    one.kind for one in (RowsBegun, RowsMissed, RowsResumed, RowsPartial, RowsStale, RowsComplete)
)
"""What the rows are worth from here on."""

DATABASE = frozenset(one.kind for one in (CircuitOpened, CircuitClosed))
"""Whether they reach the database, or wait in the spool."""

RECORDER = frozenset({TookOver.kind, SteppedBack.kind})
"""Who records."""

TOPICS = {
    kind: topic
    for topic, kinds in {"rows": ROWS, "database": DATABASE, "recorder": RECORDER}.items()
    for kind in kinds
}
"""Of the kinds of one topic only the latest is told, good news too: the last word that the receiver
has heard must be true."""

log = Log()


class Alerts:
    """One receiver's alerts. `notice` anything at any time; `run` posts until cancelled."""

    def __init__(
        self,
        url: SecretStr,
        *,
        after_s: float,
        interval_s: float,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """Alert after `after_s` without a valid row, or three intervals if that is longer."""
        self._webhook = Webhook(url)
        self._after_s = max(after_s, INTERVALS_ALLOWED * interval_s)
        self._now = now
        self._digest = Digest()
        self._news = trio.Event()
        self._in_hand: Bulletin | None = None
        """What is being posted just now, perhaps not for the first time."""
        self._begun = False
        """Whether there has been a row."""

    def notice(self, item: Item) -> None:
        """Take note of a warning, an error, or the end of what was told; never waits.

        What the first row is worth is always told: the last that the receiver has heard, from an
        earlier process, may be that rows are partial or that the service has died. A row that is
        not complete has an event of its own.
        """
        if isinstance(item, Snapshot):
            if not self._begun and item.verdict is Verdict.COMPLETE:
                self.say(RowsBegun())
            self._begun = True
        elif isinstance(item, ApiEvent) and (
            item.status is not Severity.INFO or item.kind in TOPICS
        ):
            self._add(item.timestamp, item.kind or "", item.status, item.message)

    def say(self, event: Event) -> None:
        """Alert about an event that does not go into `api_logs`."""
        self._add(self._now(), event.kind, event.severity, event.message)

    async def run(
        self,
        ticker: TickerStatus,
        connection: ConnectionStatus,
        *,
        emit: EventSink,
        asked_s: Callable[[], float | None],
        stands_by: Callable[[], bool] = lambda: False,
    ) -> None:
        """Post alerts until cancelled; then a last one if there is something to report.

        `stands_by` says whether there need be no rows, because another records. `emit` gets the
        bugs of this task. `asked_s` says when the service was asked to end (Trio's clock); None: it
        was not.
        """
        try:
            await keep_going("alerting", partial(self._work, ticker, connection, stands_by), emit)
        finally:
            now, asked = trio.current_time(), asked_s()
            limit = LAST_WORD_S
            if asked is not None:
                limit = max(SHORTEST_GOODBYE_S, asked + GOODBYE_S - now)
            with trio.move_on_after(limit, shield=True):
                if asked is None:
                    self.say(ServiceDied())
                await self._post_last()
                await self._webhook.aclose()

    async def _work(
        self,
        ticker: TickerStatus,
        connection: ConnectionStatus,
        stands_by: Callable[[], bool],
    ) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_rows, ticker, connection, stands_by)
            await self._post_all()

    def _add(self, at: datetime, kind: str, status: Severity, message: str) -> None:
        now = trio.current_time()
        self._digest.add(at, kind, status, message, now=now, topic=TOPICS.get(kind))
        self._news.set()

    async def _watch_rows(
        self,
        ticker: TickerStatus,
        connection: ConnectionStatus,
        stands_by: Callable[[], bool],
    ) -> None:
        watch = SilenceWatch(self._after_s, now=trio.current_time())
        while True:
            await trio.sleep(LOOK_EVERY_S)
            silence = watch.look(
                now=trio.current_time(),
                right_s=ticker.last_right_s,
                excused=connection.state is State.HOLDING or stands_by(),
            )
            if silence is None:
                continue
            if silence.over:
                self.say(RowsOnTime(silence.lasted_s))
            else:
                self.say(RowsOverdue(silence.lasted_s, _why(ticker)))

    async def _post_all(self) -> None:
        while True:
            while (due_at := self._digest.due_at) > trio.current_time():
                self._news = trio.Event()
                with trio.move_on_at(due_at):
                    await self._news.wait()
            self._in_hand = self._digest.take(trio.current_time())
            await self._deliver(self._in_hand)
            self._in_hand = None

    async def _deliver(self, bulletin: Bulletin) -> None:
        """Post one alert, however long that takes."""
        backoff = Backoff(RETRY_DELAYS_S)
        while True:
            try:
                await self._webhook.post(bulletin)
            except RefusedError as error:
                log.error(
                    "alert refused: check BRIDGE_ALERT_URL",
                    receiver=self._webhook.host,
                    reason=str(error),
                )
                return
            except NotNowError as error:
                delay_s = max(backoff.delay_s, error.after_s)
                log.warning(
                    "alert not taken, trying again",
                    receiver=self._webhook.host,
                    reason=str(error),
                    in_s=delay_s,
                )
                await trio.sleep(delay_s)
                backoff = backoff.attempted()
            else:
                return

    async def _post_last(self) -> None:
        bulletin = self._digest.take(trio.current_time())
        if self._in_hand is not None:
            bulletin = self._in_hand.followed_by(bulletin)
        if not bulletin.lines:
            return
        try:
            await self._webhook.post(bulletin)
        except (RefusedError, NotNowError) as error:
            log.warning(
                "the last alert was not taken", receiver=self._webhook.host, reason=str(error)
            )


def _why(ticker: TickerStatus) -> str:
    if ticker.silent_because is not None:
        return ticker.silent_because
    if ticker.last is not None and ticker.last.delta is None:
        return "not one option has Greeks: rows are NULL"
    return "no slot was served in time: the machine is too busy"
