"""Why an option has no current Greeks, in words for its holder. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_bridge.gateways.socket.market_data.feed import ANSWER_S
from trio_bridge.model import PositionState, Trouble

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trio_bridge.gateways.socket.market_data.feed import MarketLine
    from trio_bridge.gateways.socket.market_data.lines import MarketLines

NO_DETAILS = Trouble(PositionState.WAITING, "the gateway has not described the contract yet")
NO_LINE = Trouble(PositionState.WAITING, "it waits for a market data line")
ASKED = Trouble(PositionState.WAITING, "its market data have been requested")
SILENT = Trouble(PositionState.NO_DATA, "the gateway sends no computation for it")
INCOMPLETE = Trouble(PositionState.NO_DATA, "the gateway has not computed all of its Greeks")
ELSEWHERE = Trouble(
    PositionState.REFUSED, "another session of yours has its market data (10197): log out there"
)


def troubles_of(
    con_ids: Iterable[int], lines: MarketLines, feed: Mapping[int, MarketLine], now: float
) -> dict[int, Trouble]:
    """Those of these options that have no current Greeks, each with the reason."""
    found = {}
    for con_id in con_ids:
        line = feed.get(con_id)
        if line is None:
            found[con_id] = NO_DETAILS
        elif not line.complete or line.current_until(now) is not None:
            found[con_id] = _trouble(con_id, lines, line, now)
    return found


def _trouble(con_id: int, lines: MarketLines, line: MarketLine, now: float) -> Trouble:
    if (why := lines.why(con_id)) is not None:
        return why
    if lines.competing or lines.stopped(con_id):
        return ELSEWHERE
    if line.request_id is None:
        return NO_LINE
    if line.doubts:
        return Trouble(
            PositionState.NO_DATA, f"a market data farm is down: {', '.join(line.doubts)}"
        )
    if line.seen is not None and not line.complete:
        return INCOMPLETE
    return SILENT if line.dumb or now > line.asked_at + ANSWER_S else ASKED
