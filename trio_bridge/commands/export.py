"""`export`: a time range as CSV or Parquet, to a file or to standard output."""

from __future__ import annotations

import os
import re
import sys
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from trio_bridge.commands.database import open_database
from trio_bridge.commands.parquet import ParquetFile, import_pyarrow
from trio_bridge.errors import ConfigError
from trio_bridge.stores.reading.export import export_batches, export_csv
from trio_bridge.text import count, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_bridge.config import Settings
    from trio_bridge.rows import Table

STANDARD_OUTPUT = "-"
AGO_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


Format = Literal["csv", "parquet"]

_AGO = re.compile(r"(\d+)([smhdw])")


def parse_moment(text: str, *, now: datetime) -> datetime:
    """A date or time in ISO 8601 (UTC unless it says otherwise), or `24h`: that long ago.

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
            f"{text!r} is not a time: 2026-01-31, 2026-01-31T14:30, 2026-01-31T14:30+01:00 (UTC "
            "without an offset), or how long ago: 90m, 24h, 7d, 4w"
        ) from None
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is before the year 1 or after 9999 in UTC") from None


async def run_export(
    settings: Settings,
    table: Table,
    *,
    since: datetime,
    until: datetime,
    output: str,
    kind: Format | None = None,
) -> None:
    """Write the range; a file appears when it is complete, and only then.

    Raises:
        ConfigError: there is no database, or the file can't be written, or pyarrow is missing.
        StoreError: the database can't be read, or was lost on the way.
    """
    kind = kind or _kind_of(output)
    if until <= since:
        raise ConfigError(
            f"--to {until:%Y-%m-%d %H:%M:%S} UTC is not after --from {since:%Y-%m-%d %H:%M:%S} UTC"
        )
    write = _write_csv
    if kind == "parquet":
        import_pyarrow()
        write = _write_parquet
    async with open_database(settings) as conninfo:
        with _open(output) as file:
            rows = await write(file, conninfo, table, since, until)
            written = 0 if output == STANDARD_OUTPUT else file.tell()
    if output != STANDARD_OUTPUT:
        print(
            f"{count(rows, 'row')} of {table.name} in {output} ({size(written)})", file=sys.stderr
        )


def _kind_of(output: str) -> Format:
    """The format that a file's name asks for.

    Raises:
        ConfigError: one that is not written here: a spreadsheet would not open it.
    """
    match Path(output).suffix.lower():
        case ".parquet":
            return "parquet"
        case "" | ".csv" | ".txt":
            return "csv"
        case other:
            raise ConfigError(
                f"--output {output}: no {other} can be written",
                remedy="name a .csv (every spreadsheet opens it) or a .parquet, or add --format",
            )


async def _write_csv(
    file: IO[bytes], conninfo: str, table: Table, since: datetime, until: datetime
) -> int:
    rows = -1  # the header
    async with aclosing(export_csv(conninfo, table, since=since, until=until)) as pieces:
        async for records in pieces:
            file.writelines(records)
            rows += len(records)
    return rows


async def _write_parquet(
    file: IO[bytes], conninfo: str, table: Table, since: datetime, until: datetime
) -> int:
    rows = 0
    parquet = ParquetFile(file, table)
    async with aclosing(export_batches(conninfo, table, since=since, until=until)) as batches:
        async for batch in batches:
            parquet.write(batch)
            rows += len(batch)
    parquet.close()
    return rows


@contextmanager
def _open(output: str) -> Iterator[IO[bytes]]:
    if output == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    if not path.name:
        raise ConfigError(f"--output {output}: is a directory")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("xb") as file:
            yield file
        unfinished.replace(path)
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
