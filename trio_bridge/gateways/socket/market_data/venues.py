"""Where to ask for a contract's market data. Pure.

A position names an exchange that market data may refuse (200) while another one brings them: so the
next is tried before the contract is given up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

BARE = ""
"""No exchange: the contract's id alone."""


class Venues:
    """Which exchanges have refused which contract, and which one then served it."""

    def __init__(self) -> None:
        self._refused: dict[int, list[str]] = {}
        self._serving: dict[int, str] = {}

    def next_of(self, con_id: int, exchanges: Iterable[str]) -> str | None:
        """The exchange that serves the contract, else the first of these that has not refused;
        None: all have."""
        if (serving := self._serving.get(con_id)) is not None:
            return serving
        refused = self._refused.get(con_id, ())
        return next((one for one in exchanges if one not in refused), None)

    def serves(self, con_id: int, exchange: str) -> None:
        """After others have refused, this one has brought data."""
        self._serving[con_id] = exchange

    def refuse(self, con_id: int, exchange: str) -> None:
        """This exchange answers 200 about the contract."""
        self._serving.pop(con_id, None)
        refused = self._refused.setdefault(con_id, [])
        if exchange not in refused:
            refused.append(exchange)

    def refused(self, con_id: int) -> tuple[str, ...]:
        """The exchanges that have refused, oldest first."""
        return tuple(self._refused.get(con_id, ()))

    def forget(self, con_id: int) -> None:
        """Begin with the first again."""
        self._refused.pop(con_id, None)
