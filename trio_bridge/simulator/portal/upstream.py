"""What lies behind the gateway: five connections to the real servers, and an unbounded queue.

Seen on the real one (build of April 2023): it is a proxy without memory of who asked. A request
whose client gave up is sent all the same, and when upstream comes back, everything is sent at once.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTIONS: Final = 5

T = TypeVar("T")


class Reach(Enum):
    """How upstream takes requests."""

    WELL = "well"
    HANGING = "hanging"
    REFUSED = "refused"


class Upstream:
    """Well by default; tests let it hang or refuse."""

    def __init__(self) -> None:
        self._reach = Reach.WELL
        self._back = trio.Event()
        self._connections = trio.Semaphore(CONNECTIONS)

    @property
    def queued(self) -> int:
        """Requests that wait for one of the connections."""
        return self._connections.statistics().tasks_waiting

    @property
    def is_well(self) -> bool:
        return self._reach is Reach.WELL

    def hang(self) -> None:
        """Five more requests are sent and stay without an answer; the others wait in the queue."""
        self._stop(Reach.HANGING)

    def refuse(self) -> None:
        """Requests reach nobody, and the gateway says nothing of it: no answer, not even later."""
        self._stop(Reach.REFUSED)

    def come_back(self) -> None:
        """Answer what was sent, and be sent all that is queued, at once."""
        self._reach = Reach.WELL
        self._back.set()

    async def send(self, take: Callable[[], T]) -> T:
        """Pass a request on; `take` is called when upstream gets it.

        Returns:
            What `take` returned, when upstream answers.
        """
        if self._reach is Reach.REFUSED:
            await trio.sleep_forever()
        if self._reach is Reach.WELL:
            return take()
        async with self._connections:
            taken = take()
            await self._back.wait()
        return taken

    async def well(self) -> None:
        """Wait until upstream can be reached."""
        while not self.is_well:
            await self._back.wait()

    def _stop(self, reach: Reach) -> None:
        self._reach = reach
        self._back = trio.Event()
