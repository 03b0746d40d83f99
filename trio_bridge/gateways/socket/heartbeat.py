"""Whether the gateway is alive: does it answer reqCurrentTime?"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from trio_bridge.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Callable

PROBE_TIMEOUT_S = 5.0


class Heartbeat:
    """`probe` may be called from any task; `run`, where asyncio's loop is current, sends its
    requests by `ask`.

    After a miss, the late answer to an earlier request is as good as a new one: a gateway that is
    catching up may leave the second of two requests unanswered.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._requests, self._requested = trio.open_memory_channel[None](1)
        self._answer = trio.Event()
        self._probing = False
        self._missed = False

    def answered(self) -> None:
        """The gateway has sent its time."""
        self._answer.set()

    async def run(self) -> None:
        async for _ in self._requested:
            self._ask()

    async def probe(self) -> None:
        """Wait for a sign of life.

        Raises:
            GatewayError: none came in time.
        """
        if self._probing:
            raise GatewayError("the last probe is still under way")
        if not self._missed:
            self._answer = trio.Event()
        self._probing = self._missed = True
        try:
            if not self._answer.is_set():
                with suppress(trio.WouldBlock):
                    self._requests.send_nowait(None)
            with trio.move_on_after(PROBE_TIMEOUT_S):
                await self._answer.wait()
                self._missed = False
                return
        finally:
            self._probing = False
        raise GatewayError(f"no answer to a probe within {PROBE_TIMEOUT_S:g} s")
