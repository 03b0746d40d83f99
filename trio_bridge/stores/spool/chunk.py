"""A piece of the spool: which of its lines can be replayed and which can't."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from trio_bridge.rows import TABLES
from trio_bridge.stores.record import DamagedLineError, Record, decode_line
from trio_bridge.stores.spool.quarantine import Unfit


class SpoolLine(NamedTuple):
    """A line that can be replayed; `end` is the position at which the next one begins."""

    record: Record
    raw: bytes
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive lines of the spool: `lines` can be replayed, those in `unfit` can't.

    All positions count from where the file began when it was opened: they stay true when what is
    acknowledged is cut off. `base` is that of the file's first byte now.
    """

    lines: list[SpoolLine]
    unfit: list[Unfit]
    start: int
    end: int
    generation: int
    base: int = 0

    def __bool__(self) -> bool:
        """Whether it holds anything."""
        return self.end > self.start

    def place_after(self, lines: int) -> int:
        """The position behind the first of its `lines` that can be replayed."""
        if lines == len(self.lines):
            return self.end
        return self.lines[lines - 1].end if lines else self.start


def decode_chunk(parts: list[bytes], chunk: Chunk, size: int) -> Chunk:
    """Fill an empty chunk with the lines that begin at its start; `size` is where the file ends."""
    lines, unfit, start = chunk.lines, chunk.unfit, chunk.start
    for raw in parts:
        end = min(start + len(raw) + 1, size)
        if raw:
            try:
                record = decode_line(raw, offset=start - chunk.base)
            except DamagedLineError as error:
                unfit.append(Unfit(str(error), raw, start, end))
            else:
                if record.table in TABLES:
                    lines.append(SpoolLine(record, raw, start, end))
                else:
                    unfit.append(Unfit("unknown table", raw, start, end))
        start = end
    return replace(chunk, end=start)
