"""What a bridge has seen, against what the database holds in the end.

Every row that the ticker takes is one line of its debug log, with the row's timestamp. That is the
ledger. Whatever was broken meanwhile, the table must hold exactly these rows, once, in order, when
`trio-bridge flush` has brought in what the last bridge left in its spool; only a process that was
killed may take with it what was younger than the promise (`SAFE_WITHIN_S`).

Nothing here depends on how fast the machine is just now: the tests wait for so many rows or for a
word in the log instead of seconds, and a busy machine only makes them slower.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import trio

from tests.support.command import run_command
from tests.support.database import fetch
from tests.support.process import PATIENCE_S, ServiceProcess, running_service
from trio_bridge.events.rows import RowsSentAgain
from trio_bridge.rows import TABLES
from trio_bridge.stores.spool.files import spool_files

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.support.postgres import PostgresServer

DB_TIMEOUT_S = 0.5
SAFE_WITHIN_S = DB_TIMEOUT_S + 1.0
FLUSH_INTERVAL_S = 0.5
POLL_INTERVAL_S = 0.1
ROWS_UNTIL_SAFE = round(SAFE_WITHIN_S / POLL_INTERVAL_S)
"""That time in rows: a machine that is too busy for the promise is so for the ticker as well."""

KNOWN_ALREADY = "23505"
"""The SQLSTATE of a unique violation."""

BUFFER = ".portfolio_bridge_buffer.jsonl"

SETTINGS: dict[str, Any] = {
    "BRIDGE_POLL_INTERVAL": POLL_INTERVAL_S,
    "BRIDGE_DB_TIMEOUT": DB_TIMEOUT_S,
    "BRIDGE_FLUSH_INTERVAL": FLUSH_INTERVAL_S,
    "BRIDGE_RECONNECT_BACKOFF": "0.2",
    "BRIDGE_LOG_FORMAT": "json",
    "BRIDGE_LOG_LEVEL": "debug",
}


@dataclass
class Run:
    """One life of a bridge: the rows it took, and when it was killed, if it was."""

    output: str
    killed_at: datetime | None = None
    rows: list[datetime] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = []
        for line in self.output.splitlines():
            if not line.startswith("{") or not line.endswith("}"):
                continue  # torn by the kill
            entry = orjson.loads(line)
            if entry["event"] == "row":
                self.rows.append(datetime.fromisoformat(entry["slot"]))

    @property
    def promised(self) -> set[datetime]:
        """The rows that must be there, whatever happened."""
        if self.killed_at is None:
            return set(self.rows)
        safe = self.killed_at - timedelta(seconds=SAFE_WITHIN_S)
        return {row for row in self.rows[:-ROWS_UNTIL_SAFE] if row <= safe}


def bridge(home: Path, **settings: Any) -> AbstractAsyncContextManager[ServiceProcess]:
    """A service with a quick pace and a ledger in its output."""
    return running_service(home, **{**SETTINGS, **settings})


async def more_rows(service: ServiceProcess, rows: int) -> None:
    """Wait until the bridge has taken so many more, wherever it puts them."""
    wanted = len(Run(service.output).rows) + rows
    with trio.fail_after(PATIENCE_S):
        while len(Run(service.output).rows) < wanted:
            assert service.process.returncode is None, service.output[-2000:]
            await trio.sleep(0.05)


async def check(spool: Path, conninfo: str, runs: list[Run], *, at_least: int = 1) -> None:
    """Nothing missing, nothing twice, nothing unknown, in order of `timestamp` by `id`."""
    flushed = await run_command(
        spool.parent, "flush", BRIDGE_BUFFER_PATH=spool, DATABASE_URL=conninfo
    )
    assert flushed.code == 0, flushed
    stored = [at for (at,) in fetch(conninfo, "SELECT timestamp FROM portfolio_greeks ORDER BY id")]
    taken = {row for run in runs for row in run.rows}
    promised = {row for run in runs for row in run.promised}
    assert len(promised) >= at_least, "the test took too few rows to mean anything"
    assert sorted(promised - set(stored)) == [], "rows are missing"
    assert len(stored) == len(set(stored)), "rows came twice"
    # The last log line of a killed process may be torn, its row stored all the same.
    unknown = set(stored) - taken
    assert len(unknown) <= sum(run.killed_at is not None for run in runs)
    assert stored == sorted(stored), "rows overtook one another"
    _check_suffixes(runs, set(stored))
    refused = [entry for entry in quarantined(spool) if entry.get("sqlstate") == KNOWN_ALREADY]
    assert refused == [], "rows that were there already were taken for poison"
    events = fetch(
        conninfo,
        "SELECT count(*), count(DISTINCT event_id),"
        " bool_and(timestamp >= before) FROM (SELECT event_id, timestamp,"
        " lag(timestamp) OVER (ORDER BY id) AS before FROM api_logs) AS log",
    )
    total, distinct, in_order = events[0]
    assert total == distinct, "events came twice"
    assert in_order is not False, "events overtook one another"


class Key(NamedTuple):
    """What identifies a row or an event."""

    table: str
    event_id: str


def acknowledged(home: Path) -> set[Key]:
    """What a database has acknowledged, as the bridge keeps it."""
    segments = spool_files(home / BUFFER).sent.glob("*")
    lines = (line for path in segments for line in path.read_bytes().splitlines())
    return {key for line in lines if (key := key_of(line)) is not None}


def key_of(line: bytes) -> Key | None:
    """Of a line in a spool; None if it is not a row."""
    entry = orjson.loads(line)
    return Key(entry["table"], entry["row"]["event_id"]) if entry["table"] in TABLES else None


def stored(server: PostgresServer) -> set[Key]:
    """What this server holds."""
    found = server.execute(
        "SELECT 'portfolio_greeks', event_id::text FROM portfolio_greeks"
        " UNION ALL SELECT 'api_logs', event_id::text FROM api_logs"
    )
    return {Key(*key) for key in found}


def sent_again(server: PostgresServer) -> list[int]:
    """The number of rows in each event about it."""
    found = server.execute(
        "SELECT numbers->'rows' FROM api_logs WHERE kind = %s ORDER BY id", [RowsSentAgain.kind]
    )
    return [rows for (rows,) in found]


def quarantined(spool: Path) -> list[dict[str, Any]]:
    """The entries beside this spool."""
    path = spool.with_name(f"{spool.name}.quarantine.jsonl")
    return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def _check_suffixes(runs: list[Run], stored: set[datetime]) -> None:
    """What a killed process took with it is the end of its rows, without a hole before it."""
    for run in runs:
        there = [row in stored for row in run.rows]
        assert there == sorted(there, reverse=True), "a hole before rows that are there"
