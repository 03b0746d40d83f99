"""What runs beside the recording is its guest: its bugs are told and end in here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import structlog
import trio

from trio_bridge.events.service import PartBroke
from trio_bridge.policy.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_bridge.gateways.base import EventSink

RESTART_DELAYS_S = (1.0, 5.0, 30.0, 60.0)

log = structlog.get_logger()


async def keep_going(name: str, run: Callable[[], Awaitable[object]], emit: EventSink) -> NoReturn:
    """Run a guest until cancelled, again whenever it has broken down."""
    backoff = Backoff(RESTART_DELAYS_S)
    while True:
        began_s = trio.current_time()
        try:
            await run()
        except* Exception as group:
            backoff = backoff.lost(up_s=trio.current_time() - began_s)
            log.error(f"{name} broke down", exc_info=group)
            emit(PartBroke(name, backoff.delay_s))
        await trio.sleep(backoff.delay_s)
        backoff = backoff.attempted()
