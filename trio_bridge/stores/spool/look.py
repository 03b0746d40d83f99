"""A look at a spool that a service may be using: takes no lock and changes nothing."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trio_bridge.stores.spool.append_file import AppendFile
from trio_bridge.stores.spool.cursor import Cursor
from trio_bridge.stores.spool.disk import RealDisk
from trio_bridge.stores.spool.files import spool_files
from trio_bridge.stores.spool.foreign import refuse_foreign
from trio_bridge.stores.spool.ownership import refuse_shared

PIECE_BYTES = 1024 * 1024
KERNEL_LOCKS = Path("/proc/locks")


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that records into a spool; `pid` is None if the system doesn't tell."""

    pid: int | None

    def __str__(self) -> str:
        return "another process" if self.pid is None else f"process {self.pid}"


@dataclass(frozen=True, slots=True)
class SpoolLook:
    """`backlog_*`: what is left to replay. `quarantined`: how many lines the quarantine holds."""

    path: Path
    holder: Holder | None
    backlog_rows: int
    backlog_bytes: int
    quarantined: int
    quarantine_path: Path
    free_bytes: int


def look_at_spool(path: Path) -> SpoolLook:
    """What a spool holds now. Blocking.

    Raises:
        OSError: a service of this user could not use it; `in_words` says why.
    """
    files, disk = spool_files(path), RealDisk()
    directory = path.parent
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent  # the service creates missing directories
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(13, "the directory is not writable", str(directory))
    if path.parent == directory:
        refuse_shared(directory)
    refuse_foreign(disk, path, files.lock)
    for file in (files.cursor, files.quarantine, files.lock):
        with suppress(FileNotFoundError):
            disk.close(disk.open(file, create=False))
    backlog_bytes = backlog_rows = 0
    if disk.identity_at(path) is not None:
        backlog_rows, backlog_bytes = _backlog(disk, path, files.cursor)
    return SpoolLook(
        path=path,
        holder=holder_of(path),
        backlog_rows=backlog_rows,
        backlog_bytes=backlog_bytes,
        quarantined=_count_lines(files.quarantine),
        quarantine_path=files.quarantine,
        free_bytes=shutil.disk_usage(directory).free,
    )


def holder_of(path: Path) -> Holder | None:
    """The process that records into this spool. Blocking.

    Where possible the lock is not tried, since holding it for a moment could keep a service from
    starting.
    """
    lock = spool_files(path).lock
    try:
        about = lock.stat()
    except FileNotFoundError:
        return None
    if sys.platform == "linux":
        with suppress(OSError):
            return _named_by_the_kernel(lock, about)
    return _tried(lock)


def _named_by_the_kernel(lock: Path, about: os.stat_result) -> Holder | None:
    """A line is `1: FLOCK  ADVISORY  WRITE 1234 08:01:131085 0 EOF`; see proc(5)."""
    device = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}"
    alike = None
    for line in KERNEL_LOCKS.read_text().splitlines():
        kind, _, _, pid, place = (line.split()[1:] + [""] * 5)[:5]
        where, _, inode = place.rpartition(":")
        if kind == "FLOCK" and inode == str(about.st_ino):
            number = int(pid)
            alike = Holder(number if number > 0 else None)
            if where == device:
                return alike
    # Another file system's file, or ours: for btrfs and overlays the kernel names another device.
    return alike if alike is not None and _tried(lock) is not None else None


def _tried(lock: Path) -> Holder | None:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Holder(None)
    return None


def _backlog(disk: RealDisk, path: Path, cursor: Path) -> tuple[int, int]:
    file = AppendFile(disk, path)
    file.open()
    known = file.size
    try:
        offset = start = Cursor(disk, cursor, file).load()
        rows, last = 0, b"\n"
        while piece := file.read(offset, PIECE_BYTES):
            rows += piece.count(b"\n")
            offset, last = offset + len(piece), piece
        # A last line without newline may be complete.
        return rows + (not last.endswith(b"\n")), offset - start
    except OSError:
        if path.stat().st_size < known:
            return 0, 0  # a service has replayed everything in the meantime
        raise
    finally:
        file.close()


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(piece.count(b"\n") for piece in iter(lambda: file.read(PIECE_BYTES), b""))
    except FileNotFoundError:
        return 0
