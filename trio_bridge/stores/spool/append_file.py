"""A file that only grows at its end, and each append is there as a whole or did not happen.

An append is durable, or it is as safe as the operating system until `sync`.

The rules, each of which matters on real disks:
- A descriptor whose write or fsync failed is never fsynced again: the second fsync says OK although
  the kernel has already dropped the data. The file is opened again and cut back to what is known to
  be durable, and the caller writes its data again.
- A write may be short. What a failed append left is cut off or, if even that fails, ended with a
  newline, so that the next line never starts in the middle of a torn one.
- Before each use the file is checked: another program may have removed, replaced or extended it,
  and offsets into our file mean nothing in another one.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from trio_bridge.stores.spool.disk import Disk, FileIdentity


class AppendFile:
    """The file at `path`, created if missing. All methods block and raise OSError."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self.path = path
        self._fd: int | None = None
        self.identity: FileIdentity | None = None
        self._seam: int | None = None
        """The offset at which a newline goes before the next line; None if the last line is durable
        and ours. What an earlier process or a failed append left may be torn. A newline that is
        there already is written again, because it may not be durable."""
        self._seam_below: int | None = None
        """The same, should what is not durable get lost."""
        self.size = 0
        """Bytes: what was there at the opening and what appends have added."""
        self.durable = 0
        """How many of them outlive the machine."""
        self.losses = 0
        """How often an fsync has failed: what was not durable by then is lost."""
        self.own_from = 0
        """All bytes behind this offset are this process's."""
        self.gone: range | None = None
        """The offsets whose bytes another program took away when it removed, replaced or shortened
        the file: others mean nothing any more either. Nothing is read or cut off until the owner
        resets it."""

    def open(self) -> None:
        """Open the file and make its present content durable."""
        fd = self._open_or_make()
        try:
            # Even if the file was there: the process that made it may have been killed before this.
            self._disk.sync_directory(self.path.parent)
            self.identity = self._disk.identity(fd)
            self._take_as_is(fd)
            if self.size:
                self._disk.fsync(fd)
            self.durable = self.size
        except BaseException:
            self._close(fd)
            raise
        self._fd = fd

    def look(self) -> None:
        """Bring `size` and `gone` up to date with what other programs did to the file."""
        self._usable()

    def append(self, lines: bytes, *, durably: bool = True) -> None:
        """Write whole lines; if it raises, none of them counts as written.

        If an fsync fails, that is true of everything that was not `durable` yet, too.
        """
        fd = self._usable()
        start, data = self.size, lines
        if self._seam is not None:
            start, data = self._seam, b"\n" + lines
        try:
            self._write(fd, data, start)
        except BaseException:
            self._give_up(fd, keep=self.size)
            raise
        if durably:
            self._fsync(fd)
        elif self._seam is not None:
            self._seam_below = self._seam
        self.size = start + len(data)
        self._seam = None
        if durably:
            self._all_durable()

    def sync(self) -> None:
        """Make everything durable; if it raises, only `durable` bytes are left."""
        if self.durable < self.size:
            self._fsync(self._usable())
            self._all_durable()

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset`; fewer than `length` only at the end."""
        fd = self._unreplaced()
        length = min(length, self.size - offset)
        pieces = []
        while length > 0:
            piece = self._disk.pread(fd, length, offset)
            if not piece:
                raise OSError(errno.EIO, "the file is shorter than it was")
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def clear(self) -> None:
        """Empty the file, unless another program has added to it since the last look; durably, if
        anything in it was.

        If it raises, `size` tells whether the file is empty; its content may return after a crash.
        """
        fd = self._unextended()
        try:
            self._disk.truncate(fd, 0)
        except BaseException:
            self._give_up(fd, keep=self.size)
            raise
        durable = self.durable
        self.size = self.own_from = 0
        self._seam = None
        self._all_durable()
        if durable:
            self._fsync(fd)

    def drop_before(self, offset: int) -> None:
        """Put a file without the bytes before `offset` in its place; what is left is durable.

        If it raises, nothing has changed, or all of it has and may come back after a crash.
        """
        old = self._unextended()
        rest = self.read(offset, self.size - offset)
        temporary = self.path.with_name(self.path.name + ".new")
        self._disk.unlink(temporary)
        fd = self._disk.open(temporary, create=True)
        try:
            self._write(fd, rest, 0)
            self._disk.fsync(fd)
            self._disk.rename(temporary, self.path)
        except BaseException:
            self._close(fd)
            raise
        self._close(old)
        self._fd, self.identity = fd, self._disk.identity(fd)
        self.size = len(rest)
        self._all_durable()
        self.own_from = max(0, self.own_from - offset)
        if self._seam is not None:
            self._seam -= offset
        self._disk.sync_directory(self.path.parent)

    def make_private(self) -> None:
        self._disk.make_private(self._usable())

    def close(self) -> None:
        if self._fd is not None:
            self._close(self._fd)
            self._fd = None

    def _usable(self) -> int:
        """The descriptor, after a check for what other programs did to the file."""
        if self._disk.identity_at(self.path) != self.identity:
            self.gone = range(self.size)
            self.close()
            self.open()
        elif self._fd is None:
            self._reopen()
        elif (found := self._disk.size(self._fd)) != self.size:
            self._notice_loss(found)
            self._take_as_is(self._fd)
        assert self._fd is not None
        return self._fd

    def _unreplaced(self) -> int:
        """The descriptor for work at an offset, which means nothing in a replaced file."""
        fd = self._usable()
        if self.gone is not None:
            raise OSError(errno.ESTALE, "the file was replaced")
        return fd

    def _unextended(self) -> int:
        known = self.size
        fd = self._unreplaced()
        if self.size != known:
            raise OSError(errno.EAGAIN, "somebody else has added to the file")
        return fd

    def _notice_loss(self, found: int) -> None:
        if found < self.size:
            self.gone = range(found, self.size)

    def _take_as_is(self, fd: int) -> None:
        size = self._disk.size(fd)
        ends_in_newline = size > 0 and self._disk.pread(fd, 1, size - 1) == b"\n"
        self._seam = size - ends_in_newline if size else None
        self.size = self.own_from = size
        self.durable = min(self.durable, size)

    def _reopen(self) -> None:
        """Open the same file after a failure and cut off what the failure left."""
        fd = self._open_again()
        try:
            found = self._disk.size(fd)
            if found > self.size:
                self._cut_back(fd)
            elif found < self.size:
                self._notice_loss(found)
                self._take_as_is(fd)
        except BaseException:
            self._close(fd)
            raise
        self._fd = fd

    def _open_again(self) -> int:
        try:
            return self._disk.open(self.path, create=False)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            # A file system becomes read-only after an error of its disk; what it holds can be read.
            return self._disk.open_to_read(self.path)

    def _cut_back(self, fd: int) -> None:
        try:
            self._disk.truncate(fd, self.size)
        except OSError:
            # The torn end stays, as a line of its own.
            self._take_as_is(fd)

    def _write(self, fd: int, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = self._disk.pwrite(fd, view, offset)
            if written <= 0:
                raise OSError(errno.EIO, "nothing could be written")
            offset += written
            view = view[written:]

    def _all_durable(self) -> None:
        self.durable = self.size
        self._seam_below = None

    def _fsync(self, fd: int) -> None:
        try:
            self._disk.fsync(fd)
        except BaseException:
            if self._seam_below is not None:
                self._seam = self._seam_below
            self.losses += 1
            self._give_up(fd, keep=self.durable)
            raise

    def _give_up(self, fd: int, *, keep: int) -> None:
        self._fd = None
        self._close(fd)
        self.size = keep
        # At once if possible, so that a crash leaves no torn end; otherwise before the next use.
        with contextlib.suppress(OSError):
            self._reopen()

    def _open_or_make(self) -> int:
        try:
            return self._disk.open(self.path, create=False)
        except FileNotFoundError:
            return self._disk.open(self.path, create=True)

    def _close(self, fd: int) -> None:
        # After a failed fsync, close reports the same failure again, but it does close.
        with contextlib.suppress(OSError):
            self._disk.close(fd)
