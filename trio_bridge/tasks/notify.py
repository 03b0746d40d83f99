"""Reports the service's state to the service manager: sd_notify(3), without a library.

systemd passes the address of a datagram socket in NOTIFY_SOCKET ("@" means a leading NUL, the
abstract namespace) and, with WatchdogSec=, how often it wants to hear from us in WATCHDOG_USEC.
https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import trio

from trio_bridge.logs import Log
from trio_bridge.policy.schedule import INTERVALS_ALLOWED

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from trio_bridge.tasks.ticker import TickerStatus

PINGS_PER_TIMEOUT = 4
"""The manual asks for two; a busy machine may delay one."""

REPORT_EVERY_S = 10.0
"""How often the line in `systemctl status` is renewed when there is no watchdog."""

log = Log()


class Notifier:
    """The socket of the service manager. Without one every method does nothing."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        """How long it waits for a sign of life; None: it doesn't wait for one."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """Take the variables out of the environment: a child (PostgreSQL speaks this protocol, too)
        must not report in our name."""
        address = environment.pop("NOTIFY_SOCKET", "")
        interval = environment.pop("WATCHDOG_USEC", "")
        process = environment.pop("WATCHDOG_PID", "") or str(os.getpid())
        ours = interval.isdigit() and int(interval) > 0 and process == str(os.getpid())
        return cls(address, int(interval) / 1e6 if ours else None)

    @property
    def is_heard(self) -> bool:
        """Whether there is a service manager at all."""
        return self._socket is not None

    def tell(self, **variables: object) -> None:
        """Send an assignment of each; never waits and never raises, whether or not it arrives."""
        if self._socket is None:
            return
        lines = (f"{name}={' '.join(str(value).split())}" for name, value in variables.items())
        with suppress(OSError):  # its queue is full, or it is gone
            self._socket.sendto("\n".join(lines).encode(), self._address)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


async def keep_informed(
    notifier: Notifier,
    ticker: TickerStatus,
    *,
    interval_s: float,
    describe: Callable[[], str],
    stopping: trio.Event,
) -> None:
    """READY=1 now, WATCHDOG=1 while the ticker runs, STOPPING=1 when the service begins to end.

    `interval_s` is the ticker's; `describe` gives the line for `systemctl status`.
    """
    if not notifier.is_heard:
        return
    notifier.tell(READY=1, STATUS=describe())
    watchdog_s = notifier.watchdog_s
    pause_s = REPORT_EVERY_S if watchdog_s is None else watchdog_s / PINGS_PER_TIMEOUT
    began_s = trio.current_time()
    complained = False
    while not stopping.is_set():
        last_s = began_s if ticker.last_slot_s is None else ticker.last_slot_s
        # With one slot an hour, the time between two slots is not a standstill.
        if trio.current_time() - last_s <= max(INTERVALS_ALLOWED * interval_s, pause_s):
            notifier.tell(STATUS=describe(), WATCHDOG=1)
        elif not complained:
            complained = True
            log.error("the ticker has stopped: no more signs of life for the service manager")
        with trio.move_on_after(pause_s):
            await stopping.wait()
    notifier.tell(STOPPING=1, STATUS="making the last rows safe")
