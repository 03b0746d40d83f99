"""The system calls of the spool, behind one small interface.

Everything that must survive a crash goes through it, so that `stores.spool.fake_disk` can stand in
for a disk that fails at any call, fills up, tears writes, or forgets what was not fsynced.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import trio

from trio_bridge.errors import ConfigError, StartError
from trio_bridge.stores.spool.ownership import open_own, refuse_shared
from trio_bridge.threads import NoThreadError, in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700


class FileIdentity(NamedTuple):
    """Identifies a file whatever its name; another file under the same name differs."""

    device: int
    inode: int


PASSING = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.EAGAIN,
    }
)
"""Failures of a disk or a machine that may end without a change of settings."""


def cannot_start(text: str, cause: OSError, *, setting: str, remedy: str = "") -> ConfigError:
    """The error for a file or directory of ours that can't be used because of `cause`."""
    return (StartError if cause.errno in PASSING else ConfigError)(
        text, setting=setting, remedy=remedy
    )


class Disk(Protocol):
    """Blocking calls that mean the same, and raise the same OSErrors, as their namesakes in `os`.

    Call them in a function that is given to `run`.
    """

    def open(self, path: Path, *, create: bool) -> int:
        """Open for reading and writing; `create` makes a new file (mode 0600).

        Raises:
            UnsafeFileError: it is a link, not a regular file, or another user's.
        """
        ...

    def open_to_read(self, path: Path) -> int:
        """As `open`."""
        ...

    def close(self, fd: int) -> None: ...

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """Returns fewer bytes than `length` only at the end of the file."""
        ...

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """Write as much as fits; return the number of bytes."""
        ...

    def truncate(self, fd: int, length: int) -> None: ...

    def fsync(self, fd: int) -> None: ...

    def size(self, fd: int) -> int: ...

    def identity(self, fd: int) -> FileIdentity: ...

    def identity_at(self, path: Path) -> FileIdentity | None:
        """The file that has this name now; None if there is none."""
        ...

    def make_private(self, fd: int) -> None:
        """Set mode 0600."""
        ...

    def lock(self, fd: int) -> bool:
        """Take the file's exclusive lock without waiting; False if another process has it."""
        ...

    def rename(self, source: Path, target: Path) -> None: ...

    def unlink(self, path: Path) -> None:
        """Remove the file if it exists."""
        ...

    def names(self, directory: Path) -> list[str]:
        """The names in it, sorted; none if it does not exist."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Make new, renamed and removed names in this directory durable."""
        ...

    def make_directory(self, path: Path) -> None:
        """Create the directory and its parents (mode 0700) if they are missing.

        Raises:
            UnsafeFileError: others may write into it.
        """
        ...

    async def run(self, job: Callable[[], T]) -> T:
        """Run one job of blocking calls at a time, without blocking the event loop.

        When it is cancelled the job still runs to its end, and the next one waits for that.
        """
        ...


class RealDisk:
    """The operating system's files; jobs run in a worker thread."""

    def __init__(self) -> None:
        # A thread keeps its token until it ends, even when its task was cancelled: so an abandoned
        # job and its successor never run at the same time.
        self._one_at_a_time = trio.CapacityLimiter(1)

    def open(self, path: Path, *, create: bool) -> int:
        return open_own(path, os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0), PRIVATE_FILE)

    def open_to_read(self, path: Path) -> int:
        return open_own(path, os.O_RDONLY, PRIVATE_FILE)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return os.pread(fd, length, offset)

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def truncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def identity(self, fd: int) -> FileIdentity:
        about = os.fstat(fd)
        return FileIdentity(about.st_dev, about.st_ino)

    def identity_at(self, path: Path) -> FileIdentity | None:
        try:
            about = path.lstat()
        except FileNotFoundError:
            return None
        return FileIdentity(about.st_dev, about.st_ino)

    def make_private(self, fd: int) -> None:
        os.fchmod(fd, PRIVATE_FILE)

    def lock(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def names(self, directory: Path) -> list[str]:
        try:
            return sorted(path.name for path in directory.iterdir())
        except FileNotFoundError:
            return []

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def make_directory(self, path: Path) -> None:
        # Path.mkdir applies `mode` to the last part only; the parents shall be private too.
        for part in (*reversed(path.parents), path):
            if not part.exists():
                part.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
                self.sync_directory(part.parent)
        refuse_shared(path)

    async def run(self, job: Callable[[], T]) -> T:
        try:
            return await in_thread(job, limiter=self._one_at_a_time, abandon_on_cancel=True)
        except NoThreadError:
            # Better to block everything for one fsync than to leave a row unsafe.
            async with self._one_at_a_time:
                return job()
