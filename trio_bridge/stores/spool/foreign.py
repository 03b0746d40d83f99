"""Is a file that is there a spool, or something of the user's that BRIDGE_BUFFER_PATH names by
mistake?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_bridge.stores.record import looks_like_ours
from trio_bridge.stores.spool.ownership import UnsafeFileError

if TYPE_CHECKING:
    from pathlib import Path

    from trio_bridge.stores.spool.disk import Disk

PIECE_BYTES = 1024 * 1024
"""Read at a time; a longer line is none of ours."""


def refuse_foreign(disk: Disk, path: Path, lock: Path) -> None:
    """Leave a file alone that never was a spool: a spool is emptied when its rows are replayed.

    One that has a lock beside it was, whatever is in it now; otherwise one line has to look like
    ours. Blocking; opens the file for reading only.

    Raises:
        UnsafeFileError: it holds something, and not one such line.
    """
    if disk.identity_at(path) is None or disk.identity_at(lock) is not None:
        return
    fd = disk.open_to_read(path)
    try:
        offset, rest = 0, b""
        while piece := disk.pread(fd, PIECE_BYTES, offset):
            offset += len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            if any(map(looks_like_ours, lines)):
                return
            rest = rest[:PIECE_BYTES]
        if not offset or looks_like_ours(rest):
            return
    finally:
        disk.close(fd)
    raise UnsafeFileError(
        path, "holds something else than rows", "name a file that does not exist yet"
    )
