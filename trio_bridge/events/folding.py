"""Where people read events, a run of some kinds is one line: the last of them, and how many there
were. An outage of hours must not fill a page with attempts. In `api_logs` each keeps its row.
Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from trio_bridge.events.gateway import Reconnecting
from trio_bridge.events.rows import CircuitChanged, CircuitOpened

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDED: Final = (Reconnecting.kind, CircuitOpened.kind, CircuitChanged.kind)
"""Attempts at the gateway and at the database."""


E = TypeVar("E")


def folded(events: Iterable[E]) -> list[tuple[E, int]]:
    """Events or their rows in their order, each with how many it stands for. Anything else that
    stands between two ends a run."""
    lines: list[tuple[E, int]] = []
    for event in events:
        times, kind = 1, getattr(event, "kind", None)
        if lines and kind in FOLDED and getattr(lines[-1][0], "kind", None) == kind:
            times += lines.pop()[1]
        lines.append((event, times))
    return lines


def with_count(message: str | None, times: int) -> str:
    """The line of a message that stands for this many."""
    return f"{message}" if times == 1 else f"{message} ({times:,} times)"
