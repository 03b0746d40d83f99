"""What a user should know about the positions, although the rows are correct."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_bridge.events.data import CurrenciesMixed, TypeUnknown
from trio_bridge.gateways.ongoing import Ongoing
from trio_bridge.risk.greeks import KNOWN_TYPES, OPTION_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_bridge.events.event import Event
    from trio_bridge.model import Position


class Remarks:
    """Reports each type that is not known, and each mix of currencies."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._said = Ongoing(emit, trio.current_time)
        self._currencies: frozenset[str] = frozenset()

    def on(self, positions: Sequence[Position]) -> None:
        """The positions have changed."""
        for sec_type in {position.sec_type for position in positions} - KNOWN_TYPES:
            self._said.once(sec_type, TypeUnknown(sec_type))
        held = (one.currency for one in positions if one.sec_type in OPTION_TYPES)
        before, self._currencies = self._currencies, frozenset(filter(None, held))
        if len(self._currencies) > 1 and self._currencies != before:
            self._emit(CurrenciesMixed(tuple(sorted(self._currencies))))
