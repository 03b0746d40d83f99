"""Contains the bugs of what runs beside the recording: they are reported and end here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import trio

from trio_bridge.events.service import PartBroke
from trio_bridge.logs import Log
from trio_bridge.policy.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_bridge.gateways.base import EventSink

RESTART_DELAYS_S = (1.0, 5.0, 30.0, 60.0)

log = Log()


async def keep_going(name: str, run: Callable[[], Awaitable[object]], emit: EventSink) -> NoReturn:
    """Run it until cancelled, and again whenever it fails."""
    backoff = Backoff(RESTART_DELAYS_S)
    while True:
        began_s = trio.current_time()
        try:
            await run()
        except* Exception as group:
            backoff = backoff.lost(up_s=trio.current_time() - began_s)
            log.error(f"{name} failed", exc_info=group)
            emit(PartBroke(name, backoff.delay_s))
        await trio.sleep(backoff.delay_s)
        backoff = backoff.attempted()
