"""What can never be replayed, kept with the reason for a person to look at.

`<buffer>.quarantine.jsonl` holds one JSON object a line: `quarantined_at`, `reason`, `sqlstate`
(of the database's refusal; null for a damaged line), `offset` (where the line began in the spool;
null for a row that never was there) and the line itself: `line` if it is UTF-8 text, else
`line_base64`. A very long line is split into several such objects, numbered by `part`.

A line is written here, and fsynced, before it counts as acknowledged; a crash between the two
writes it twice.
"""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from trio_bridge.stores.spool.append_file import AppendFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from trio_bridge.stores.spool.disk import Disk

PART_BYTES = 256 * 1024
"""How much of a long line is held in memory at a time."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """A line that is not replayed. `raw` is None if it is too long to be held in memory."""

    reason: str
    raw: bytes | None
    start: int | None = None
    end: int | None = None
    sqlstate: str | None = None

    def moved(self, by: int) -> Unfit:
        """The same with `by` added to its places, if it has any."""
        if self.start is None or self.end is None:
            return self
        return replace(self, start=self.start + by, end=self.end + by)


class Quarantine:
    """The file at `path`, created with its first entry. All methods block and raise OSError."""

    def __init__(
        self, disk: Disk, path: Path, spool: AppendFile, now: Callable[[], datetime]
    ) -> None:
        self._disk = disk
        self._file = AppendFile(disk, path)
        self._spool = spool
        self._now = now
        self._opened = False

    def add(self, lines: Iterable[Unfit]) -> None:
        """Write the lines, durably."""
        if not self._opened:
            self._file.open()
            self._opened = True
        batch: list[bytes] = []
        length = 0
        for line in lines:
            for entry in self._entries(line):
                batch.append(entry)
                length += len(entry)
                if length >= PART_BYTES:
                    self._file.append(b"".join(batch))
                    batch, length = [], 0
        if batch:
            self._file.append(b"".join(batch))

    def look(self) -> None:
        """Find out, before it is needed, whether the file that is there can be used."""
        with suppress(FileNotFoundError):
            self._disk.close(self._disk.open(self._file.path, create=False))

    def close(self) -> None:
        self._file.close()

    def _entries(self, line: Unfit) -> Iterator[bytes]:
        about: dict[str, Any] = {
            "quarantined_at": self._now(),
            "reason": line.reason,
            "sqlstate": line.sqlstate,
            "offset": line.start,
        }
        if line.raw is not None:
            yield _entry(about, line.raw)
            return
        assert line.start is not None
        assert line.end is not None
        for part, offset in enumerate(range(line.start, line.end, PART_BYTES), 1):
            piece = self._spool.read(offset, min(PART_BYTES, line.end - offset))
            yield _entry({**about, "part": part}, piece)


def _entry(about: dict[str, Any], raw: bytes) -> bytes:
    raw = raw.removesuffix(b"\n")
    try:
        about = {**about, "line": raw.decode()}
    except UnicodeDecodeError:
        about = {**about, "line_base64": b64encode(raw).decode()}
    return orjson.dumps(about, option=orjson.OPT_APPEND_NEWLINE)
