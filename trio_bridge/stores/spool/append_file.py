"""A file that only grows at its end, and whose growth is either durable or did not happen.

The rules, each of them seen to matter on real disks:
- A descriptor whose write or fsync failed is never fsynced again: the second fsync says OK although
  the kernel has already thrown the data away. The file is opened anew, cut back to what is known to
  be durable, and the caller writes its data again.
- A write may be short; what a failed append left behind is cut off, or, when even that fails,
  ended by a newline, so that the next line never starts in the middle of a torn one.
- A file that was removed, replaced or added to under our feet is noticed before each use: what
  others put there is never taken for what we know.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from trio_bridge.stores.spool.disk import Disk, FileIdentity


class AppendFile:
    """The file at `path`; it is made when it is missing. All methods block and raise OSError."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self.path = path
        self._fd: int | None = None
        self.identity: FileIdentity | None = None
        self._seam: int | None = None
        """Where a newline has to be written before the next line; None when the last one is ours
        and durable. What others left there, an earlier process or a failed append, may be torn; and
        a newline that can be read may be gone after a crash, so it is written once more."""
        self.size = 0
        """Bytes that are durable: everything an append has acknowledged, or that was there."""
        self.replaced = False
        """Set when somebody else removed, replaced or shortened the file: offsets mean nothing, and
        nothing is read or cut off until the owner has noticed and set it back."""

    def open(self) -> None:
        """Open the file and take its present content as durable."""
        fd = self._open_or_make()
        try:
            if not self._disk.is_regular(fd):
                raise OSError(errno.EINVAL, "not a regular file")
            # Even when the file was there: whoever made it may have been killed before this.
            self._disk.sync_directory(self.path.parent)
            self.identity = self._disk.identity(fd)
            self._take_as_is(fd)
        except BaseException:
            self._close(fd)
            raise
        self._fd = fd

    def look(self) -> None:
        """See what others did to the file in the meantime: `size` and `replaced` tell of it."""
        self._usable()

    def append(self, lines: bytes) -> None:
        """Write whole lines and fsync them; when it raises, none of them counts as written."""
        fd = self._usable()
        start, data = self.size, lines
        if self._seam is not None:
            start, data = self._seam, b"\n" + lines
        try:
            self._write(fd, data, start)
            self._disk.fsync(fd)
        except BaseException:
            self._give_up(fd)
            raise
        self.size = start + len(data)
        self._seam = None

    def read(self, offset: int, length: int) -> bytes:
        """Durable bytes from `offset`; fewer than `length` only at the end."""
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
        """Cut the file down to nothing, durably.

        When it raises, `size` tells whether it is cut; it may still come back after a crash.
        What others have added since the last look is not cut off.
        """
        known = self.size
        fd = self._unreplaced()
        if self.size != known:
            raise OSError(errno.EAGAIN, "somebody else has added to the file")
        try:
            self._disk.truncate(fd, 0)
            self.size = 0
            self._seam = None
            self._disk.fsync(fd)
        except BaseException:
            self._give_up(fd)
            raise

    def make_private(self) -> None:
        self._disk.make_private(self._usable())

    def close(self) -> None:
        if self._fd is not None:
            self._close(self._fd)
            self._fd = None

    def _usable(self) -> int:
        """The descriptor, after a look at what others did to the file in the meantime."""
        if self._disk.identity_at(self.path) != self.identity:
            self.replaced = True
            self.close()
            self.open()
        elif self._fd is None:
            self._reopen()
        elif (found := self._disk.size(self._fd)) != self.size:
            self.replaced |= found < self.size
            self._take_as_is(self._fd)
        assert self._fd is not None
        return self._fd

    def _unreplaced(self) -> int:
        """For what speaks of a place in the file: in another file it would be anybody's rows."""
        fd = self._usable()
        if self.replaced:
            raise OSError(errno.ESTALE, "the file was replaced")
        return fd

    def _take_as_is(self, fd: int) -> None:
        size = self._disk.size(fd)
        ends_in_newline = size > 0 and self._disk.pread(fd, 1, size - 1) == b"\n"
        self._seam = size - ends_in_newline if size else None
        self.size = size

    def _reopen(self) -> None:
        """Open the same file after a failure and cut off what the failure left behind."""
        fd = self._open_again()
        try:
            found = self._disk.size(fd)
            if found > self.size:
                self._cut_back(fd)
            elif found < self.size:
                self.replaced = True
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
            # As file systems become after an error of their disk: what it holds is still there.
            return self._disk.open_to_read(self.path)

    def _cut_back(self, fd: int) -> None:
        try:
            self._disk.truncate(fd, self.size)
        except OSError:
            # The torn end stays; it becomes a line of its own.
            self._take_as_is(fd)

    def _write(self, fd: int, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = self._disk.pwrite(fd, view, offset)
            if written <= 0:
                raise OSError(errno.EIO, "nothing could be written")
            offset += written
            view = view[written:]

    def _give_up(self, fd: int) -> None:
        self._fd = None
        self._close(fd)
        # At once if possible, so that a crash now finds no torn end; otherwise before the next use.
        with contextlib.suppress(OSError):
            self._reopen()

    def _open_or_make(self) -> int:
        try:
            return self._disk.open(self.path, create=False)
        except FileNotFoundError:
            return self._disk.open(self.path, create=True)

    def _close(self, fd: int) -> None:
        # After a failed fsync close reports the same failure again; the descriptor is gone anyway.
        with contextlib.suppress(OSError):
            self._disk.close(fd)
