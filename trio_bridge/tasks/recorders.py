"""Watches who records our accounts, and lets a standby record or rest (`policy/recorders.py`)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import trio

from trio_bridge.errors import StoreError
from trio_bridge.model import utc_now
from trio_bridge.policy.schedule import STOOD_STILL_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import NoReturn

    from trio_bridge.gateways.base import EventSink, IBridgeBase
    from trio_bridge.policy.recorders import Recorders
    from trio_bridge.tasks.doubles import RecentRows

LOOK_BACK = 12
"""Intervals: the clocks of two recorders may be so far apart."""


class RecorderWatch:
    """`run` it until cancelled; when it has failed it may be run again.

    Args:
        interval_s: between the slots of the grid.
        now: the wall clock.
    """

    def __init__(
        self,
        recorders: Recorders,
        bridge: IBridgeBase,
        *,
        interval_s: float,
        emit: EventSink,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._recorders = recorders
        self._bridge = bridge
        self._back = timedelta(seconds=LOOK_BACK * interval_s)
        self._emit = emit
        self._now = now
        self._accounts: frozenset[str] = frozenset()
        self._rest_or_wake()

    async def run(self, read: RecentRows) -> NoReturn:
        """Every look is bounded: a database that does not answer shows no rows."""
        while True:
            began_s = trio.current_time()
            limit_s = self._recorders.look_limit_s(began_s)
            await self._look(read, limit_s)
            took_s = trio.current_time() - began_s
            # After a pause of the whole process there may be rows that this look has not seen.
            if took_s < limit_s + STOOD_STILL_S:
                self._decide()
            await trio.sleep_until(self._recorders.next_look_s(trio.current_time(), took_s=took_s))

    async def _look(self, read: RecentRows, limit_s: float) -> None:
        if self._bridge.is_connected():
            self._accounts = frozenset(self._bridge.inputs().accounts)
        wall = self._now()
        with trio.move_on_after(limit_s) as limit:
            try:
                rows = await read(wall - self._back, wall + self._back)
            except StoreError as error:
                self._recorders.failed(str(error))
            else:
                ours = [(row.at, row.recorder or "") for row in rows if self._is_ours(row.accounts)]
                self._recorders.saw(ours, trio.current_time(), wall)
        if limit.cancelled_caught:
            self._recorders.failed(f"no answer within {limit_s:.1f} s")

    def _is_ours(self, accounts: str | None) -> bool:
        return frozenset((accounts or "").split(",")) == self._accounts

    def _decide(self) -> None:
        now = trio.current_time()
        event = self._recorders.decide(now, is_able=self._bridge.stands_by)
        if event is not None:
            self._emit(event)
        self._rest_or_wake()

    def _rest_or_wake(self) -> None:
        recorders = self._recorders
        because = recorders.rests_because(trio.current_time()) if recorders.is_resting else None
        self._bridge.rest(because)
