"""`export`: a time range as CSV, to a file or to standard output."""

from __future__ import annotations

import os
import re
import sys
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING

from trio_bridge.commands.database import open_database
from trio_bridge.commands.text import count, size
from trio_bridge.errors import ConfigError
from trio_bridge.stores.export import export_csv

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_bridge.config import Settings

STANDARD_OUTPUT = "-"
AGO_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

_AGO = re.compile(r"(\d+)([smhdw])")


def parse_moment(text: str, *, now: datetime) -> datetime:
    """A date or time in ISO 8601 (UTC unless it says otherwise), or `24h`: so long ago.

    Raises:
        ValueError: it is neither.
    """
    if ago := _AGO.fullmatch(text.strip()):
        try:
            return now - timedelta(**{AGO_UNITS[ago[2]]: int(ago[1])})
        except OverflowError:
            raise ValueError(f"{text!r} is too long ago") from None
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"{text!r} is no time: 2026-01-31, 2026-01-31T14:30, 2026-01-31T14:30+01:00 (without "
            "an offset it is UTC), or so long ago: 90m, 24h, 7d, 4w"
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


async def run_export(
    settings: Settings, table: str, *, since: datetime, until: datetime, output: str
) -> None:
    """Write the CSV; a file appears when it is complete, and only then.

    Raises:
        ConfigError: there is no database, or the file can't be written.
        StoreError: the database can't be read, or was lost on the way.
    """
    async with open_database(settings) as conninfo:
        with _open(output) as file:
            lines = written = 0
            async with aclosing(export_csv(conninfo, table, since=since, until=until)) as pieces:
                async for piece in pieces:
                    file.write(piece)
                    written += len(piece)
                    lines += 1  # COPY gives one line a piece
    if output != STANDARD_OUTPUT:
        rows = count(max(0, lines - 1), "row")
        print(f"{rows} of {table} in {output} ({size(written)})", file=sys.stderr)


@contextmanager
def _open(output: str) -> Iterator[IO[bytes]]:
    if output == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("xb") as file:
            yield file
        unfinished.replace(path)
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
