"""Reports a thing once, or when it begins and when it ends, however often it is noticed. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
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


CALM_S = 60.0
"""What has not come again for this long is over."""


@dataclass(slots=True)
class _Bout:
    ended: Callable[[int, float], Event]
    since: float
    times: int = 1
    over_at: float = math.inf


class Recurring:
    """What comes and goes, again and again: reported when it comes first, and with the number of
    times and the seconds from the first to the last when it has stayed away for `CALM_S`.

    Args:
        clock: monotonic, seconds.
    """

    def __init__(self, emit: Callable[[Event], None], clock: Callable[[], float]) -> None:
        self._emit = emit
        self._clock = clock
        self._bouts: dict[Hashable, _Bout] = {}

    def comes(self, key: Hashable, event: Event, ended: Callable[[int, float], Event]) -> None:
        """It is there, perhaps once more. `ended` gets the number of times and the seconds."""
        bout = self._bouts.get(key)
        if bout is None:
            self._bouts[key] = _Bout(ended, self._clock())
            self._emit(event)
        else:
            bout.times += 1
            bout.over_at = math.inf

    def goes(self, key: Hashable) -> None:
        """It is gone, perhaps not for long; harmless if it was not there."""
        bout = self._bouts.get(key)
        if bout is not None:
            bout.over_at = min(bout.over_at, self._clock())

    def look(self) -> None:
        """Report what has stayed away for long enough."""
        now = self._clock()
        for key, bout in list(self._bouts.items()):
            if now >= bout.over_at + CALM_S:
                del self._bouts[key]
                self._emit(bout.ended(bout.times, bout.over_at - bout.since))
