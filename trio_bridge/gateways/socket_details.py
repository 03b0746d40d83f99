"""Contract details, for what positions leave out: exchange, multiplier, the future underneath."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from trio_bridge.gateways.socket_positions import Holdings

AGAIN_S = 60.0
"""How long until a request without an answer, or with one that leaves something out, is made again.
An answer counts until then, so that a gateway that is slow for long gets through, too."""

LOOK_AGAIN_S = 5.0
"""How often that is looked after while nothing changes."""

GAP_S = 0.05
UNDERLYINGS_GAP_S = 0.25
"""Between two requests: what is left of the gateway's message rate is for market data, and most of
it while details only tell which future an option is on."""


async def learn_details(holdings: Holdings, ask: Callable[[int], Awaitable[None]]) -> None:
    """Keep asking for what is still unknown; `ask` must end by itself and never fail."""
    asked: dict[int, float] = {}

    def due(con_ids: Iterable[int]) -> int | None:
        recently = trio.current_time() - AGAIN_S
        return next((one for one in con_ids if asked.get(one, -math.inf) <= recently), None)

    async with trio.open_nursery() as nursery:
        while True:
            gap_s, changed = GAP_S, holdings.changed
            con_id = due(holdings.view.lacking_details)
            if con_id is None:
                gap_s = UNDERLYINGS_GAP_S
                con_id = due(holdings.view.lacking_underlyings)
            if con_id is None:
                with trio.move_on_after(LOOK_AGAIN_S):
                    await changed.wait()
                continue
            asked[con_id] = trio.current_time()
            nursery.start_soon(ask, con_id)
            await trio.sleep(gap_s)
