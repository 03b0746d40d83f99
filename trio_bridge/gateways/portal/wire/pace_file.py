"""The pace that all processes of one user on one machine keep together towards one gateway.

The gateway counts requests by the machine they come from, not by the process: a `check` beside a
service, or two services, must together stay within each limit. For each they share a small file in
memory that holds when each of the last requests stops counting.

Each access opens the file, locks it for some microseconds and closes it: the kernel unlocks what a
process held that crashed. The instants are the system's monotonic clock, which is the same for all
processes; a restart of the machine empties the directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import trio

from trio_bridge.config import is_loopback

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

IN_MEMORY: Final = Path("/dev/shm")
"""Linux has it everywhere, and a service without access to /tmp or to homes sees the same one."""

BUSY_S: Final = 0.005
MOST_BUSY: Final = 200
"""How often to find it locked: a second. Nobody holds the lock for so long, unless stopped (Ctrl-Z)
in that very instant."""

LARGEST: Final = 4096


def pace_file_of(url: str) -> Path:
    """The file for the gateway at this URL; all names of this machine mean the same one."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    name = "localhost" if is_loopback(host) else host.replace("/", "_")
    directory = IN_MEMORY if IN_MEMORY.is_dir() else Path(tempfile.gettempdir())
    return directory / f"trio_bridge.{os.getuid()}.{name}.{parts.port or parts.scheme}"


class PaceFile:
    """One process's part in the shared pace.

    Args:
        path: the file, made when it is missing.
        most: how many requests of all processes together may count at any time.
        counts_s: for how long each counts, from when it is sent, and again from its end.
        say: takes the reason, once, when the file cannot be used; the process then keeps its own
            pace only.
        now: the system's monotonic clock.
    """

    def __init__(
        self,
        path: Path,
        most: int,
        counts_s: float,
        *,
        say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._most = most
        self._counts_s = counts_s
        self._say = say
        self._now = now
        self._is_usable = True

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Wait until one more request may be sent, and hold its place until it has ended."""
        until = await self._enter()
        try:
            yield
        finally:
            self.count(1, instead_of=until)

    def count(self, requests: int, *, instead_of: float = 0.0) -> None:
        """These may have arrived just now; they take the place of that one."""

        def change(counting: list[float]) -> float:
            if instead_of in counting:
                counting.remove(instead_of)
            counting.extend([self._now() + self._counts_s] * requests)
            return 0.0

        if self._is_usable:
            self._change(change)

    async def _enter(self) -> float:
        """Wait for a place; return until when it counts, or 0 if it could not be taken."""
        busy = 0
        while self._is_usable and busy < MOST_BUSY:
            until = self._now() + self._counts_s

            def take(counting: list[float], until: float = until) -> float:
                if len(counting) >= self._most:
                    return min(counting)
                counting.append(until)
                return 0.0

            free_at = self._change(take)
            if free_at == 0.0:
                return until
            busy = busy + 1 if free_at is None else 0
            await trio.sleep(BUSY_S if free_at is None else max(free_at - self._now(), BUSY_S))
        return 0.0

    def _change(self, change: Callable[[list[float]], float]) -> float | None:
        """Apply a change to the instants until which requests count, while the file is locked;
        None: it is locked by another process, or cannot be used."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(self._path, flags, 0o600)
            try:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
                    raise PermissionError(errno.EPERM, "it belongs to somebody else")
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                counting = self._read(file)
                result = change(counting)
                written = os.pwrite(file, struct.pack(f"{len(counting)}d", *counting), 0)
                os.ftruncate(file, written)
            finally:
                os.close(file)
        except BlockingIOError:
            return None
        except OSError as error:
            self._is_usable = False
            self._say(f"{self._path}: {error.strerror or error}")
            return None
        return result

    def _read(self, file: int) -> list[float]:
        now = self._now()
        content = os.read(file, LARGEST)
        found = struct.iter_unpack("d", content[: len(content) // 8 * 8])
        # What is further ahead than a period was not written by the clock since this start.
        return [one for (one,) in found if now < one <= now + self._counts_s]
