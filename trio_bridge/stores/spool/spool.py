"""The spool: rows that the database has not acknowledged, one JSON line each, in order, on disk.

Beside `<buffer>` lie `<buffer>.cursor` (how far it is acknowledged), `<buffer>.quarantine.jsonl`
(what could not be stored), `<buffer>.sent` (what was acknowledged lately) and `<buffer>.lock`. Rows
are appended, then read in chunks from the acknowledged offset. When everything is acknowledged the
file is emptied; while that never happens, what is acknowledged is cut off once it is large.

What a crash can do:
- during an append: no one counted the rows as written, and a torn end is a damaged line;
- during an acknowledgement: the old cursor is found, or none, and rows are replayed again, which
  their event_id makes harmless;
- between emptying the file and removing the cursor: the cursor does not fit the file (see there).

Bookkeeping never holds up rows: a cursor or a quarantine entry that can't be written now (full
disk) is written later, and until then the acknowledged offset is known in memory only.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

import trio

from trio_bridge.errors import ConfigError, SpoolError, StartError
from trio_bridge.logs import Log
from trio_bridge.model import utc_now
from trio_bridge.stores.record import encode_line
from trio_bridge.stores.spool.append_file import AppendFile
from trio_bridge.stores.spool.chunk import Chunk, SpoolLine, decode_chunk
from trio_bridge.stores.spool.cursor import Cursor
from trio_bridge.stores.spool.disk import RealDisk, cannot_start
from trio_bridge.stores.spool.files import spool_files
from trio_bridge.stores.spool.foreign import refuse_foreign
from trio_bridge.stores.spool.ownership import in_words, remedy_for
from trio_bridge.stores.spool.quarantine import Quarantine, Unfit
from trio_bridge.stores.spool.sent import Sent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from trio_bridge.stores.record import Record, Rejected
    from trio_bridge.stores.spool.disk import Disk

CHUNK_LINES = 1_000
CHUNK_BYTES = 1024 * 1024
"""The most that is read at a time; a longer line can't be replayed."""

DISK_TIMEOUT_S = 10.0
"""A disk that does not answer for this long counts as failed."""

APPEND_TIMEOUT_S = 2.0
"""The same for an append that is not fsynced: rows wait for it on their way to the database."""

CUT_OFF_BYTES = 1024 * 1024
"""So much acknowledged is cut off, if what is left is shorter."""

SET_ASIDE_BYTES = 4 * 1024 * 1024
"""The most that may wait in memory until the quarantine file can be written."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})

T = TypeVar("T")

log = Log()


@dataclass
class _Place:
    """Everything before `offset` is acknowledged; everything before `saved` durably. `base` is the
    position of the file's first byte."""

    offset: int = 0
    saved: int = 0
    base: int = 0
    generation: int = 0
    set_aside: list[Unfit] = field(default_factory=list)


class Spool:
    """Made by `Spool.open`. One process may use it, and does one job at a time (`Disk.run`)."""

    def __init__(
        self, path: Path, disk: Disk, now: Callable[[], datetime], keep: timedelta
    ) -> None:
        self.path = path
        self._disk = disk
        self._lock_fd: int | None = None
        self._file = AppendFile(disk, path)
        files = spool_files(path)
        self._lock_path = files.lock
        self._cursor = Cursor(disk, files.cursor, self._file)
        self.quarantine_path = files.quarantine
        self._quarantine = Quarantine(disk, self.quarantine_path, self._file, now)
        self.sent = Sent(disk, files.sent, keep, now)
        """What was acknowledged lately; its methods block: call them `on_disk`."""
        self._place = _Place()
        self._taken = (0, 0)
        """Of which generation the database has taken what, up to a position that the disk has not
        acknowledged yet."""
        self._fresh = Chunk([], [], 0, 0, -1)
        """The latest lines, of one append or several."""
        self._bookkeeping_fails = False
        self.vanished = 0
        """Bytes of rows that the database did not have yet and that another program took away."""

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        disk: Disk | None = None,
        now: Callable[[], datetime] = utc_now,
        keep: timedelta = timedelta(0),
    ) -> Spool:
        """Lock the spool and find where the last run stopped. What is acknowledged is kept for
        `keep`.

        Missing parent directories are made (mode 0700), and the file (mode 0600).

        Raises:
            ConfigError: another process holds it, or it can't be used (a StartError if that may
                pass by itself); the text is one line for a person.
        """
        spool = cls(path, disk or RealDisk(), now, keep)
        try:
            with trio.fail_after(DISK_TIMEOUT_S):
                await spool._disk.run(spool._open)
        except OSError as error:
            spool.close()
            raise cannot_start(
                f"BRIDGE_BUFFER_PATH={in_words(path, error)}",
                error,
                setting="BRIDGE_BUFFER_PATH",
                remedy=remedy_for(error),
            ) from error
        except trio.TooSlowError:
            text = f"BRIDGE_BUFFER_PATH={path}: the disk does not answer"
            raise StartError(text, setting="BRIDGE_BUFFER_PATH") from None
        except BaseException:
            spool.close()
            raise
        return spool

    @property
    def backlog_bytes(self) -> int:
        """Of rows that are not acknowledged."""
        return max(0, self.end - self.acknowledged)

    @property
    def end(self) -> int:
        """The position of the next row, comparable with `Chunk.end`."""
        return self._place.base + self._file.size

    @property
    def acknowledged(self) -> int:
        """The position of the first row that is not acknowledged."""
        place = self._place
        generation, taken = self._taken
        return max(place.base + place.offset, taken if generation == place.generation else 0)

    @property
    def generation(self) -> int:
        """Another number says that the file lost what was neither acknowledged nor durable."""
        return self._place.generation

    async def append(self, records: Sequence[Record], *, durably: bool = True) -> list[int]:
        """Write all records, in order; return the position behind each. They outlive this process
        when this returns, and the machine if `durably`.

        Raises:
            SpoolError: none of them counts as written; try all of them again later, in order.
        """
        lines = list(map(encode_line, records))
        end = await self.on_disk(
            lambda: self._append(b"".join(lines), durably),
            timeout_s=DISK_TIMEOUT_S if durably else APPEND_TIMEOUT_S,
        )
        places = list(accumulate(map(len, lines), initial=end - sum(map(len, lines))))
        self._remember(
            [SpoolLine(*one) for one in zip(records, lines, places, places[1:], strict=False)]
        )
        return places[1:]

    def _remember(self, lines: list[SpoolLine]) -> None:
        """What was just appended is mostly what is read next."""
        place, fresh = self._place, self._fresh
        if fresh.end == lines[0].start and len(fresh.lines) + len(lines) <= CHUNK_LINES:
            lines = [*fresh.lines, *lines]
        self._fresh = Chunk(lines, [], lines[0].start, lines[-1].end, place.generation, place.base)

    async def sync(self) -> int:
        """Make everything durable that was appended; return the position behind it.

        Raises:
            SpoolError: what is neither acknowledged nor durable must be appended again.
        """
        return await self.on_disk(self._sync)

    async def read(self, max_lines: int = CHUNK_LINES, *, after: Chunk | None = None) -> Chunk:
        """The next lines after the acknowledged offset, or after the chunk `after`, which need not
        be acknowledged yet. Their number and size are bounded.

        Raises:
            SpoolError: the file can't be read now.
        """
        place, fresh = self._place, self._fresh
        ahead = after is not None and after.generation == place.generation
        start = after.end if after is not None and ahead else self.acknowledged
        if (start, place.generation) == (fresh.start, fresh.generation) and max_lines >= len(
            fresh.lines
        ):
            return fresh
        return await self.on_disk(lambda: self._read(max_lines, after))

    def note_taken(self, chunk: Chunk, replayed: int) -> None:
        """The database has committed the first `replayed` lines of the chunk, whenever the disk
        gets to acknowledge that. Not for a chunk with rejected lines."""
        if chunk.generation == self._place.generation and not chunk.unfit:
            self._taken = (chunk.generation, chunk.place_after(replayed))

    async def acknowledge(
        self,
        chunk: Chunk,
        replayed: int,
        rejected: Iterable[Rejected] = (),
        *,
        durably: bool = True,
    ) -> int:
        """The database has committed or `rejected` the first `replayed` lines of the chunk. Returns
        how many lines go to the quarantine: the rejected ones and the damaged ones among them.

        Unless `durably`, a crash before the next durable acknowledgement replays them again.

        Raises:
            SpoolError: the disk does not answer, or too many lines wait for the quarantine.
        """
        unfit = [
            Unfit(reason, line.raw, line.start, line.end, sqlstate)
            for number, sqlstate, reason in rejected
            for line in (chunk.lines[number],)
        ]
        return await self.on_disk(lambda: self._acknowledge(chunk, replayed, unfit, durably))

    async def quarantine(self, record: Record, *, sqlstate: str, reason: str) -> None:
        """Put a row into the quarantine that never was in the spool.

        Raises:
            SpoolError: see `acknowledge`.
        """
        unfit = Unfit(reason, encode_line(record), sqlstate=sqlstate)
        await self.on_disk(lambda: self._set_aside([unfit]))

    @property
    def unsettled(self) -> bool:
        """Whether a cursor or a quarantine entry still has to be written after a failure."""
        return self._bookkeeping_fails

    async def settle(self) -> None:
        """Try again to write what `unsettled` is about.

        Raises:
            SpoolError: the disk does not answer.
        """
        await self.on_disk(self._settle)

    def close(self) -> None:
        """Close all files and release the lock."""
        self._file.close()
        self._quarantine.close()
        self.sent.close()
        if self._lock_fd is not None:
            self._disk.close(self._lock_fd)
            self._lock_fd = None

    async def on_disk(self, job: Callable[[], T], *, timeout_s: float = DISK_TIMEOUT_S) -> T:
        """Run a job of blocking calls after those before it.

        Raises:
            SpoolError: the disk has failed, or not answered in time: then it may still be done.
        """
        with trio.move_on_after(timeout_s):
            try:
                return await self._disk.run(job)
            except OSError as error:
                raise SpoolError(in_words(self.path, error)) from error
        raise SpoolError(f"{self.path}: the disk has not answered for {timeout_s:g} s")

    # Everything below blocks, and runs within `Disk.run`.

    def _open(self) -> None:
        self._disk.make_directory(self.path.parent)
        refuse_foreign(self._disk, self.path, self._lock_path)
        try:
            self._lock_fd = self._disk.open(self._lock_path, create=True)
        except FileExistsError:
            self._lock_fd = self._disk.open(self._lock_path, create=False)
        if not self._disk.lock(self._lock_fd):
            raise ConfigError(
                f"BRIDGE_BUFFER_PATH={self.path}: another process records into this file",
                setting="BRIDGE_BUFFER_PATH",
                remedy="end it, or give this one a file of its own",
            )
        self._file.open()
        self._file.make_private()
        self._quarantine.look()
        self._place.offset = self._place.saved = self._cursor.load()
        self.sent.open()

    def _append(self, lines: bytes, durably: bool) -> int:
        self._settle()
        try:
            self._into_file(lines, durably)
        except OSError as error:
            # Rows that no database has are worth more than copies of those that one has.
            if error.errno not in NO_ROOM or not self.sent.make_room():
                raise
            self._into_file(lines, durably)
        return self.end

    def _into_file(self, lines: bytes, durably: bool) -> None:
        with self._noticing_loss():
            self._file.append(lines, durably=durably)
        self._start_over_if_replaced()

    def _sync(self) -> int:
        with self._noticing_loss():
            self._file.sync()
        return self.end

    @contextmanager
    def _noticing_loss(self) -> Iterator[None]:
        """A failed fsync takes what was appended before it along."""
        losses = self._file.losses
        try:
            yield
        finally:
            if self._file.losses != losses:
                place, size = self._place, self._file.size
                place.offset, place.saved = min(place.offset, size), min(place.saved, size)
                place.generation += 1

    def _read(self, max_lines: int, after: Chunk | None) -> Chunk:
        self._look()
        place = self._place
        ahead = after is not None and after.generation == place.generation
        offset = after.end - place.base if after is not None and ahead else place.offset
        start = place.base + offset
        window = self._file.read(offset, CHUNK_BYTES)
        at_end = offset + len(window) == self._file.size
        parts = window.split(b"\n", max_lines)
        rest = parts.pop()
        chunk = Chunk([], [], start, start, place.generation, place.base)
        if rest and at_end and len(parts) < max_lines:
            parts.append(rest)  # a last line without newline may be complete
        elif not parts and rest:
            return self._too_long(chunk, offset + len(window))
        return decode_chunk(parts, chunk, self.end)

    def _too_long(self, chunk: Chunk, offset: int) -> Chunk:
        while piece := self._file.read(offset, CHUNK_BYTES):
            newline = piece.find(b"\n")
            if newline >= 0:
                offset += newline + 1
                break
            offset += len(piece)
        reason = f"longer than {CHUNK_BYTES} bytes"
        end = chunk.base + offset
        return replace(chunk, unfit=[Unfit(reason, None, chunk.start, end)], end=end)

    def _acknowledge(
        self, chunk: Chunk, replayed: int, rejected: list[Unfit], durably: bool
    ) -> int:
        if chunk.generation != self._place.generation:
            return 0
        upto = chunk.place_after(replayed)
        damaged = [line for line in chunk.unfit if line.end is not None and line.end <= upto]
        taken = {line.start for line in rejected}
        self.sent.add([line.record for line in chunk.lines[:replayed] if line.start not in taken])
        if durably or damaged or rejected or upto == self.end:
            self._set_aside(damaged + rejected, upto=upto)
        else:
            self._place.offset = upto - self._place.base
        return len(damaged) + len(rejected)

    def _set_aside(self, unfit: list[Unfit], upto: int | None = None) -> None:
        place = self._place
        unfit = [line.moved(-place.base) for line in unfit]
        held = sum(len(line.raw or b"") for line in (*place.set_aside, *unfit))
        if place.set_aside and held > SET_ASIDE_BYTES:
            raise SpoolError(f"{self.quarantine_path}: can't be written, and memory is full")
        place.set_aside += unfit
        if upto is not None:
            place.offset = upto - place.base
        self._settle()

    def _settle(self) -> None:
        """Write what only memory holds: the quarantine, then the acknowledged offset."""
        try:
            self._look()  # in a replaced file nothing is acknowledged
            place = self._place
            if place.set_aside:
                self._quarantine.add(place.set_aside)
                place.set_aside = []
            if place.offset and place.offset == self._file.size:
                try:
                    self._file.clear()
                finally:
                    if not self._file.size:
                        self._moved_to_the_front()
                self._cursor.remove()
            elif self._is_worth_cutting_off():
                self._file.drop_before(place.offset)
                self._moved_to_the_front()
                self._cursor.remove()
            elif place.offset != place.saved:
                self._cursor.save(place.offset)
                place.saved = place.offset
        except OSError as error:
            if not self._bookkeeping_fails:
                log.warning("spool: cursor or quarantine can't be written now", reason=str(error))
            self._bookkeeping_fails = True
        else:
            self._bookkeeping_fails = False

    def _is_worth_cutting_off(self) -> bool:
        """The ids of lines of the earlier system depend on their place: they stay there."""
        offset, left = self._place.offset, self._file.size - self._place.offset
        return left < CUT_OFF_BYTES <= offset and offset >= self._file.own_from

    def _moved_to_the_front(self) -> None:
        """The first byte of the file is now the first that is not acknowledged."""
        place = self._place
        place.base += place.offset
        place.offset = place.saved = 0

    def _look(self) -> None:
        self._file.look()
        self._start_over_if_replaced()

    def _start_over_if_replaced(self) -> None:
        """Start from the beginning of the file when another program has changed it."""
        if self._file.gone is None:
            return
        log.error("spool: the file was removed, replaced or shortened by someone else")
        gone, self._file.gone = self._file.gone, None
        self.vanished += len(range(max(gone.start, self._place.offset), gone.stop))
        self._place = _Place(
            base=self._place.base + self._place.offset,
            generation=self._place.generation + 1,
            set_aside=[line for line in self._place.set_aside if line.raw is not None],
        )
