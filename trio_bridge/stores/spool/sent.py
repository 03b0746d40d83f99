"""What the database has acknowledged, kept for a while: a failover may take it away again.

The rows lie in order in `<buffer>.sent/`, in segments that are named by the instant of their first
row. Each segment begins with a line about the server that has taken what follows; another such line
follows when that changes. Nothing is fsynced, and nothing waits for it: while the disk refuses,
rows are not kept, and when it is full, the oldest segments make room for rows that no database has.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import orjson

from trio_bridge.logs import Log
from trio_bridge.stores.base import Server
from trio_bridge.stores.record import DamagedLineError, Record, decode_line, encode_line, time_of
from trio_bridge.stores.spool.append_file import AppendFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from trio_bridge.stores.spool.disk import Disk

SEGMENT_BYTES = 1024 * 1024
"""Some 2,500 rows: a search loads one segment."""

PIECE_BYTES = 1024 * 1024

SERVER = "server"
"""In place of a table's name: the line is about the server."""

STAMP = "%Y%m%dT%H%M%S.%fZ"
SEGMENT_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z\+*")

log = Log()


class Sent:
    """The segments in `directory`, for as long as `keep`. All methods block; an OSError comes only
    out of those that read or remove."""

    def __init__(
        self, disk: Disk, directory: Path, keep: timedelta, now: Callable[[], datetime]
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._keep = keep
        self._now = now
        self._file: AppendFile | None = None
        self._fails = False
        self.server: Server | None = None
        """The one that has taken the newest row."""
        self.newest: Record | None = None

    @property
    def keeps(self) -> bool:
        return bool(self._keep)

    def open(self) -> None:
        """Find the newest row and its server, if it is not older than `keep`."""
        if self._keep:
            try:
                self._find_newest()
            except OSError as error:
                log.warning("what was sent can't be read", reason=str(error))

    def _find_newest(self) -> None:
        self._forget_old()
        for path in reversed(self.segments()):
            for record in self._lines(path):
                if record.table == SERVER:
                    self.server = Server(*orjson.loads(record.row))
                else:
                    self.newest = record
            if self.newest is not None:
                break
        if self.newest is not None and self._is_old(self.newest):
            self._forget_all()

    def add(self, records: Sequence[Record]) -> None:
        """Keep these rows."""
        if self._keep and records:
            self.newest = records[-1]
            self._write(b"".join(map(encode_line, records)))

    def taken_by(self, server: Server) -> None:
        """What follows goes to this server. What another database has taken is not kept: the rows
        of two can't be told apart."""
        if not self._keep or server == self.server:
            return
        if self.server is not None and self.server.data != server.data:
            self._forget_all()
        self.server = server
        self._write(_about(server))

    def segments(self) -> list[Path]:
        """The files, the oldest first."""
        names = self._disk.names(self._directory)
        return [self._directory / name for name in names if SEGMENT_NAME.fullmatch(name)]

    def records(self, segment: Path) -> list[Record]:
        """The rows of a segment in the order in which they were taken, without damaged ones."""
        return [record for record in self._lines(segment) if record.table != SERVER]

    def make_room(self) -> bool:
        """Remove the oldest segment; False if there is none."""
        for path in self.segments():
            if self._file is not None and path == self._file.path:
                self.close()
            self._disk.unlink(path)
            return True
        return False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, lines: bytes) -> None:
        try:
            self._segment().append(lines, durably=False)
        except OSError as error:
            if not self._fails:
                log.warning("acknowledged rows are not kept for a failover", reason=str(error))
            self._fails = True
            self.close()
        else:
            self._fails = False

    def _segment(self) -> AppendFile:
        if self._file is not None and self._file.size < SEGMENT_BYTES:
            return self._file
        self.close()
        self._disk.make_directory(self._directory)
        self._forget_old()
        name = self._now().strftime(STAMP)
        *_, last = ["", *(path.name for path in self.segments())]
        # After the clock was set back the order of the names must stay that of the rows.
        file = AppendFile(self._disk, self._directory / (name if name > last else last + "+"))
        file.open()
        self._file = file
        if self.server is not None:
            file.append(_about(self.server), durably=False)
        return file

    def _forget_old(self) -> None:
        """A segment is too old when the next one is."""
        oldest = (self._now() - self._keep).strftime(STAMP)
        paths = self.segments()
        for path, following in pairwise(paths):
            if following.name < oldest:
                self._disk.unlink(path)

    def _forget_all(self) -> None:
        self.newest = None
        while self.make_room():
            pass

    def _is_old(self, record: Record) -> bool:
        time = time_of(record)
        return time is not None and time < self._now() - self._keep

    def _lines(self, path: Path) -> Iterator[Record]:
        fd = self._disk.open_to_read(path)
        try:
            offset, content = 0, b""
            while piece := self._disk.pread(fd, PIECE_BYTES, offset):
                offset += len(piece)
                content += piece
        finally:
            self._disk.close(fd)
        for line in content.split(b"\n"):
            try:
                yield decode_line(line, offset=0)
            except DamagedLineError:
                continue  # torn by a crash: the database has the row


def _about(server: Server) -> bytes:
    return encode_line(Record(SERVER, orjson.dumps(list(server))))
