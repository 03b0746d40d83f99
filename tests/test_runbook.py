"""What the runbook tells people to do works, and it knows every message there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.database import fetch
from tests.support.rows import event, snapshot
from tests.test_events import CATALOGUE, EXAMPLES
from trio_bridge.rows import TABLES
from trio_bridge.stores.database.catalog import read_table
from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.postgres import PostgresStore
from trio_bridge.stores.database.schema import plan
from trio_bridge.stores.record import record_of

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer
    from trio_bridge.events.event import Event

PROJECT = Path(__file__).parent.parent
RUNBOOK = (PROJECT / "docs" / "runbook.md").read_text("utf-8")
FLAT = " ".join(RUNBOOK.split())


def section(title: str) -> str:
    """The text below a heading, up to the next one of its kind."""
    found = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", RUNBOOK, re.DOTALL | re.MULTILINE
    )
    assert found is not None, title
    return found[1]


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", section(title), re.DOTALL)


# The short name for the commands


def test_the_short_name_needs_no_rights_of_the_caller(tmp_path: Path) -> None:
    """Only root and the service's user may enter the directory with the settings, so only with
    sudo's rights is it there."""
    (definition,) = (line for line in section("Install").splitlines() if line.startswith("tb() "))
    settings, program = tmp_path / "settings", tmp_path / "program"
    program.write_text('#!/bin/sh\npwd; printf "%s\\n" "$@"\n')
    program.chmod(0o755)
    for installed, here in (
        ("/etc/trio-bridge", settings),
        ("/opt/trio-bridge/.venv/bin/trio-bridge", program),
    ):
        assert installed in definition
        definition = definition.replace(installed, str(here))
    user = '[ "$1 $2 $3" = "-H -u trio-bridge" ] && shift 3'
    sudo = f'sudo() {{ {user} && mkdir {settings} && "$@"; }}'
    done = subprocess.run(
        ["bash", "-c", f"{sudo}\n{definition}\ntb export --from '7 d'"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{settings}\nexport\n--from\n7 d\n", "")


# Messages


def explained() -> dict[str, str]:
    """Kind → severity, as the tables of messages have them."""
    rows = re.findall(r"^\| `([\w.]+)` \|.*\| (info|warning|error) \|", RUNBOOK, re.MULTILINE)
    assert len(rows) == len({kind for kind, _ in rows}), "a kind is explained twice"
    return dict(rows)


def test_every_event_is_explained_and_nothing_else() -> None:
    assert explained() == {one.kind: one.severity.value for one in CATALOGUE}


@pytest.mark.parametrize("one", CATALOGUE, ids=lambda one: str(one.kind))
def test_the_text_of_an_event_is_found(one: type[Event]) -> None:
    """Whoever searches for what he has read: the words of the example, around what varies."""
    (row,) = (line for line in RUNBOOK.splitlines() if line.startswith(f"| `{one.kind}` |"))
    quoted = row.split(" | ")[1]
    (text, *more) = re.findall(r"`([^`]+)`", quoted)
    assert not more
    pattern = ".*".join(map(re.escape, text.split("…")))
    assert re.fullmatch(pattern, EXAMPLES[one].message, re.DOTALL), EXAMPLES[one].message


# Links


def test_every_link_leads_somewhere() -> None:
    headings = re.findall(r"^#+ (.*)$", RUNBOOK, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", RUNBOOK)) <= anchors


def test_every_file_of_ours_is_there() -> None:
    named = set(re.findall(r"/opt/trio-bridge/((?:scripts|docs|\.env)[\w./-]*)", RUNBOOK))
    assert named
    assert [name for name in named if not (PROJECT / name).exists()] == []


def test_every_version_that_is_named_is_one() -> None:
    done = subprocess.run(
        ["git", "-C", PROJECT, "tag"], capture_output=True, text=True, check=False
    )
    assert {*re.findall(r"\bv\d+\.\d+\.\d+\b", RUNBOOK)} <= {*done.stdout.split()}


# SQL


def run_sql(server: PostgresServer, text: str) -> None:
    """As a person does, with psql."""
    psql = server.installation.bindir / "psql"
    done = subprocess.run(
        [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", server.url],
        input=f"SET client_min_messages = warning;\n{text}",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


async def write(server: PostgresServer, *numbers: int, at: datetime | None = None) -> int:
    store = PostgresStore(server.conninfo)
    await store.ensure_schema()
    new = await store.write([record_of(snapshot(number, at)) for number in numbers])
    await store.write([record_of(event("something", at))])
    await store.aclose()
    return new


def rows_of(server: PostgresServer) -> list[float]:
    return [
        delta
        for (delta,) in fetch(server.conninfo, "SELECT delta FROM portfolio_greeks ORDER BY id")
    ]


async def test_retention_by_deleting_and_by_thinning_out(own_postgres: PostgresServer) -> None:
    deletion, thinning, *_ = blocks("Retention", "sql")
    now = datetime.now(UTC)
    await write(own_postgres, 1, at=now - timedelta(days=800))
    old = (now - timedelta(days=400)).replace(second=0, microsecond=0)
    for number in range(2, 28):  # two minutes and ten seconds
        await write(own_postgres, number, at=old + timedelta(seconds=5 * (number - 2)))
    await write(own_postgres, 28, 29, at=now)
    run_sql(own_postgres, thinning)
    assert rows_of(own_postgres) == [1, 2, 14, 26, 28, 29]
    run_sql(own_postgres, deletion)
    assert rows_of(own_postgres) == [2, 14, 26, 28, 29]


async def test_retention_by_partitions(own_postgres: PostgresServer) -> None:
    _, _, partition, months, dropping = blocks("Retention", "sql")
    now = datetime.now(UTC)
    await write(own_postgres, 1, 2, 3, at=now)
    before = snapshot(4, now)
    store = PostgresStore(own_postgres.conninfo)
    await store.write([record_of(before)])
    run_sql(own_postgres, partition)
    run_sql(own_postgres, months)
    run_sql(own_postgres, months)  # as often as you like

    connection = await TrioConnection.connect(own_postgres.conninfo, autocommit=True)
    assert not plan("portfolio_greeks", await read_table(connection, "portfolio_greeks"))
    await connection.close()
    assert rows_of(own_postgres) == [1, 2, 3, 4]
    assert await store.write([record_of(before)]) == 0  # a replay is recognised
    later = now + timedelta(days=32)
    for number in range(5, 17):  # through the year, over every border between two months
        assert await write(own_postgres, number, at=later) == 1
        later += timedelta(days=27)
    assert sorted(rows_of(own_postgres)) == list(range(1, 17))
    run_sql(own_postgres, dropping)
    assert sorted(rows_of(own_postgres)) == list(range(5, 17))
    await store.aclose()


async def test_back_up_and_restore(
    own_postgres: PostgresServer, postgres: PostgresServer, tmp_path: Path
) -> None:
    dump, restore = tmp_path / "bridge.dump", "pg_restore"
    bindir = own_postgres.installation.bindir
    commands = "\n".join(blocks("Back up and restore", "sh"))
    tables = [f"--table={table}" for table in TABLES]
    assert f"pg_dump --format=custom {' '.join(tables)}" in commands
    assert "pg_restore --no-owner --dbname=" in commands
    await write(own_postgres, 1, 2, 3)
    subprocess.run(
        [
            bindir / "pg_dump",
            "--format=custom",
            *tables,
            f"--file={dump}",
            own_postgres.url,
        ],
        check=True,
    )
    empty = postgres.new_database()
    target = f"--dbname={postgres.url_of(empty)}"
    again = ["--single-transaction", "--clean", "--if-exists"]
    assert " ".join(again[:1]) in FLAT
    for options in ([], again):
        subprocess.run([bindir / restore, "--no-owner", *options, target, dump], check=True)
        connection = await TrioConnection.connect(postgres.conninfo_of(empty), autocommit=True)
        for table in TABLES:
            assert not plan(table, await read_table(connection, table))
        await connection.close()
    store = PostgresStore(postgres.conninfo_of(empty))
    assert await store.write([record_of(snapshot(4))]) == 1  # numbers go on where they stopped
    await store.aclose()
    postgres.drop_database(empty)


# Quarantine


def test_lines_come_back_from_the_quarantine_as_they_were(tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed here")
    look, back = blocks("Rows in quarantine", "sh")
    name = ".portfolio_bridge_buffer.jsonl"
    line = '{"table":"api_logs","row":{"message":"a \\"quoted\\" word"},"crc":"00000000"}'
    about = {"quarantined_at": "2026-01-02T00:00:00Z", "reason": "value out of range"}
    (tmp_path / f"{name}.quarantine.jsonl").write_text(json.dumps({**about, "line": line}) + "\n")
    script = re.findall(r"sh -c '(.*?)'", look + back, re.DOTALL)
    assert len(script) == 2
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    said = subprocess.run(
        ["sh", "-c", script[0]], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout == "2026-01-02T00:00:00Z\tvalue out of range\n"
    subprocess.run(["sh", "-c", script[1]], env=environment, cwd="/", check=True)
    assert (tmp_path / name).read_text() == line + "\n"
    assert not (tmp_path / f"{name}.quarantine.jsonl").exists()
