"""A PostgreSQL server on a real disk with fsync on, and rows to put into it."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import trio

from tests.support.rows import record
from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.schema import ensure_bridge_schema
from trio_bridge.stores.embedded.server import open_embedded
from trio_bridge.stores.record import encode_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DISK = Path("/var/tmp")
"""Not /tmp, which may be memory."""

ROWS_AT_A_TIME = 10_000
COLUMNS = (
    "timestamp, contract, delta, gamma, vega, theta, underlying_price, event_id, account, "
    "positions, priced, greeks_age_s, data_type"
)


@asynccontextmanager
async def disk_room() -> AsyncIterator[Path]:
    """An empty directory on the disk, removed at the end; the server's account can enter it."""
    room = Path(tempfile.mkdtemp(prefix="trio_bridge-bench-", dir=DISK))
    room.chmod(0o755)
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)


@asynccontextmanager
async def disk_server(room: Path) -> AsyncIterator[str]:
    """The bridge's own embedded server, unchanged, with its tables; yields the conninfo."""
    async with open_embedded(room / "postgres") as conninfo:
        await make_tables(conninfo)
        yield conninfo


async def make_tables(conninfo: str) -> None:
    """Create both tables, empty."""
    query(conninfo, "DROP TABLE IF EXISTS portfolio_greeks, api_logs")
    connection = await TrioConnection.connect(conninfo, autocommit=True)
    await ensure_bridge_schema(connection)
    connection.drop()
    query(conninfo, "CHECKPOINT")


def query(conninfo: str, statement: LiteralString, *arguments: object) -> list[tuple[Any, ...]]:
    """Run and commit one statement; return its rows, if any."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement, arguments or None)
        return cursor.fetchall() if cursor.description else []


def write_spool(path: Path, rows: int) -> None:
    """A spool file as a long outage leaves it."""
    with path.open("wb") as file:
        for start in range(0, rows, ROWS_AT_A_TIME):
            numbers = range(start, min(rows, start + ROWS_AT_A_TIME))
            file.write(b"".join(encode_line(record(number)) for number in numbers))
    path.chmod(0o600)


async def wait_until(condition: Any, timeout_s: float, every_s: float = 0.05) -> None:
    """Poll until the condition holds.

    Raises:
        trio.TooSlowError: it did not hold in time.
    """
    with trio.fail_after(timeout_s):
        while not condition():
            await trio.sleep(every_s)
