"""Reports what befalls many contracts at once in one event. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from trio_bridge.events.event import Event

GATHER_S = 2.0
LONGEST_GATHER_S = 60.0
"""A burst ends this long after its last case, or after its first."""

NAMED = 5
"""How many cases of a burst are named; the others are counted."""


class MakeEvent(Protocol):
    """Makes the event of a burst: `contract` names the first few cases, `contracts` counts all."""

    def __call__(self, *, contract: str, contracts: int) -> Event: ...


@dataclass(slots=True)
class _Burst:
    make: MakeEvent
    since: float
    last_at: float
    names: dict[int, str] = field(default_factory=dict)


class Bursts:
    """Many contracts with the same trouble within seconds are one event, and each contract is named
    for the same trouble only once.

    Args:
        clock: monotonic, seconds.
    """

    def __init__(self, emit: Callable[[Event], None], clock: Callable[[], float]) -> None:
        self._emit = emit
        self._clock = clock
        self._said: set[tuple[Hashable, int]] = set()
        self._bursts: dict[Hashable, _Burst] = {}

    def add(self, key: Hashable, con_id: int, name: str, make: MakeEvent) -> None:
        """The trouble `key` of one contract; the burst's first decides how the event is made."""
        if (key, con_id) in self._said:
            return
        self._said.add((key, con_id))
        now = self._clock()
        burst = self._bursts.setdefault(key, _Burst(make, now, now))
        burst.last_at = now
        burst.names[con_id] = name

    def drop(self, key: Hashable) -> None:
        """It has turned out to be something else."""
        self._bursts.pop(key, None)

    def withdraw(self, key: Hashable, con_id: int) -> None:
        """This contract's trouble is over; what has not been said yet is not said."""
        burst = self._bursts.get(key)
        if burst is not None and burst.names.pop(con_id, None) is not None:
            self._said.discard((key, con_id))

    def look(self, *, at_once: bool = False) -> None:
        """Report the bursts that are over, or (`at_once`) all."""
        now = self._clock()
        for key, burst in list(self._bursts.items()):
            ends_at = min(burst.last_at + GATHER_S, burst.since + LONGEST_GATHER_S)
            if at_once or now >= ends_at:
                del self._bursts[key]
                if names := list(burst.names.values()):
                    self._emit(burst.make(contract=named(names), contracts=len(names)))


def named(names: Sequence[str]) -> str:
    """`A`, `A, B`, `A, B, C, D, E and 295 more`."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
