"""What a person should know of the positions although each row is as true as it can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_bridge.events.data import CurrenciesMixed, TypeUnknown
from trio_bridge.risk.greeks import KNOWN_TYPES, OPTION_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_bridge.events.event import Event
    from trio_bridge.model import Position


class Remarks:
    """Says once which types add nothing, and which currencies are added up unconverted."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._unknown_types: set[str] = set()
        self._currencies: frozenset[str] = frozenset()

    def on(self, positions: Sequence[Position]) -> None:
        """The positions have changed."""
        self._mention_unknown_types(positions)
        self._mention_currencies(positions)

    def _mention_unknown_types(self, positions: Sequence[Position]) -> None:
        for sec_type in {position.sec_type for position in positions} - KNOWN_TYPES:
            if sec_type not in self._unknown_types:
                self._unknown_types.add(sec_type)
                self._emit(TypeUnknown(sec_type))

    def _mention_currencies(self, positions: Sequence[Position]) -> None:
        held = (one.currency for one in positions if one.sec_type in OPTION_TYPES)
        before, self._currencies = self._currencies, frozenset(filter(None, held))
        if len(self._currencies) > 1 and self._currencies != before:
            self._emit(CurrenciesMixed(tuple(sorted(self._currencies))))
