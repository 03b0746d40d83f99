"""How far the spool is acknowledged, in a small file beside it that is replaced as a whole.

The cursor only saves work: replaying rows again is harmless, but skipping unreplayed rows loses
them. So it names the file and holds a digest of the bytes just before its offset, and it counts
only if both match. A cursor from before the spool was emptied and filled again is thus ignored.
"""

from __future__ import annotations

import contextlib
import errno
from hashlib import blake2b
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from pathlib import Path

    from trio_bridge.stores.spool.append_file import AppendFile
    from trio_bridge.stores.spool.disk import Disk

DIGESTED_BYTES = 512
"""More than one whole row, and the event_id in it is unique."""

LARGEST_CURSOR = 4096


class Cursor:
    """The file at `path`, about the spool `file`. All methods block and raise OSError."""

    def __init__(self, disk: Disk, path: Path, file: AppendFile) -> None:
        self._disk = disk
        self._file = file
        self.path = path
        self._temporary = path.with_name(path.name + ".new")
        self._may_exist = True

    def load(self) -> int:
        """The acknowledged offset; 0 if there is no cursor or it does not match the spool."""
        try:
            fd = self._disk.open(self.path, create=False)
        except FileNotFoundError:
            return 0
        try:
            content = self._disk.pread(fd, LARGEST_CURSOR, 0)
        finally:
            self._disk.close(fd)
        try:
            value = orjson.loads(content)
            offset = value["offset"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return 0
        if not isinstance(offset, int) or not 0 < offset <= self._file.size:
            return 0
        return offset if value == self._describe(offset) else 0

    def save(self, offset: int) -> None:
        """Make the offset durable; a crash leaves the old cursor or the new one, both whole."""
        content = orjson.dumps(self._describe(offset))
        self._may_exist = True
        self._disk.unlink(self._temporary)
        fd = self._disk.open(self._temporary, create=True)
        try:
            if self._disk.pwrite(fd, content, 0) != len(content):
                raise OSError(errno.ENOSPC, "short write")
            self._disk.fsync(fd)
        finally:
            with contextlib.suppress(OSError):
                self._disk.close(fd)
        self._disk.rename(self._temporary, self.path)
        self._disk.sync_directory(self.path.parent)

    def remove(self) -> None:
        """Forget the offset, durably."""
        if self._may_exist:
            self._disk.unlink(self.path)
            self._disk.sync_directory(self.path.parent)
            self._may_exist = False

    def _describe(self, offset: int) -> dict[str, object]:
        start = max(0, offset - DIGESTED_BYTES)
        before = self._file.read(start, offset - start)
        # Not the device: its number may change at the next boot.
        return {
            "offset": offset,
            "inode": self._file.identity.inode if self._file.identity else 0,
            "digest": blake2b(before, digest_size=16).hexdigest(),
        }
