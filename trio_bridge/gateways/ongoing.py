"""Reports a thing once, or when it begins and when it ends, however often it is noticed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from trio_bridge.events.event import Event


class Ongoing:
    """What is going on, each under a key. It may outlive a connection: what survives a reconnect
    is then not reported twice.

    Args:
        clock: monotonic, seconds.
    """

    def __init__(self, emit: Callable[[Event], None], clock: Callable[[], float]) -> None:
        self._emit = emit
        self._clock = clock
        self._begun: dict[Hashable, tuple[str, float]] = {}

    def once(self, key: Hashable, event: Event) -> None:
        """Report it unless something was reported under this key."""
        if key not in self._begun:
            self.begin(key, event)

    def begin(self, key: Hashable, event: Event) -> None:
        """It has begun: reported once, and again when it becomes an event of another kind."""
        kind, since = self._begun.get(key, ("", self._clock()))
        if kind != event.kind:
            self._begun[key] = (event.kind, since)
            self._emit(event)

    def end(self, key: Hashable, ended: Callable[[float], Event]) -> None:
        """It is over; harmless if it had not begun. `ended` gets how many seconds it lasted."""
        begun = self._begun.pop(key, None)
        if begun is not None:
            self._emit(ended(self._clock() - begun[1]))
