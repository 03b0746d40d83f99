"""Which lines a broken data farm (2103) puts in doubt. Pure.

The gateway names the farm, but not whose data it brings, and farms on which none of our options is
flap for hours. So all lines are doubted at first: their Greeks age from the break until they speak.
A line that speaks while the farm is broken is not on it, and neither are those of its kind: quiet
ones among them are cleared. Nothing is subscribed again because a farm broke or is back: every line
that stays silent is renewed anyway within a minute of its last word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_bridge.gateways.socket.market_data.feed import MarketLine

IN_FLIGHT_S = 1.0
"""What comes this soon after the break may have been under way."""

LIVELY_S = 10.0
"""A line that spoke by itself this shortly before the break was not quiet: only its own next word
clears it."""


class Farms:
    """What is known about the farms of one connection. `lines` are the feed's own."""

    def __init__(self, lines: Mapping[int, MarketLine], clock: Callable[[], float]) -> None:
        self._lines = lines
        self._clock = clock
        self._broken: dict[str, float] = {}
        self._elsewhere: set[tuple[str, tuple[str, str]]] = set()
        """Farms, each with a kind of option that is not on it."""

    def broke(self, farm: str) -> None:
        """It is broken from now on; harmless when that was known."""
        if farm in self._broken:
            return
        now = self._broken[farm] = self._clock()
        for line in self._lines.values():
            line.refresh(now)
            if (farm, _kind(line)) not in self._elsewhere or line.unasked_at > now - LIVELY_S:
                line.doubts.setdefault(farm, now)

    def mended(self, farm: str) -> None:
        """It works again; what has been silent since the break stays doubted until it speaks."""
        self._broken.pop(farm, None)

    def heard(self, line: MarketLine) -> None:
        """The line has spoken."""
        for farm, since in self._broken.items():
            known = (farm, _kind(line))
            if line.heard_at <= since + IN_FLIGHT_S or known in self._elsewhere:
                continue
            self._elsewhere.add(known)
            for other in self._lines.values():
                was_quiet = other.unasked_at <= since - LIVELY_S
                if was_quiet and _kind(other) == known[1]:
                    other.doubts.pop(farm, None)


def _kind(line: MarketLine) -> tuple[str, str]:
    """Options of one type and currency share a farm, as a rule (`usopt`, `usfuture`, `eufarm`)."""
    return line.contract.secType, line.contract.currency
