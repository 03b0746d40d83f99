"""`export` gives exactly the rows of the range, streamed, and a file only when it is whole."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from contextlib import aclosing
from datetime import UTC, datetime, timedelta, timezone
from itertools import chain
from typing import TYPE_CHECKING

import psutil
import pytest
import trio

from tests.commands.test_tail import AT, write
from tests.support.command import run_command, run_process
from tests.support.process import clean_environment
from tests.support.rows import event, snapshot
from trio_bridge.commands.export import parse_moment
from trio_bridge.rows import PORTFOLIO_GREEKS
from trio_bridge.stores.reading import export

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T14:30", datetime(2026, 1, 31, 14, 30, tzinfo=UTC)),
        ("2026-01-31T14:30-05:00", datetime(2026, 1, 31, 19, 30, tzinfo=UTC)),
        ("2026-01-31 14:30:15Z", datetime(2026, 1, 31, 14, 30, 15, tzinfo=UTC)),
        ("90m", NOW - timedelta(minutes=90)),
        ("24h", NOW - timedelta(hours=24)),
        ("7d", NOW - timedelta(days=7)),
        ("0s", NOW),
    ],
)
def test_moments(text: str, moment: datetime) -> None:
    assert parse_moment(text, now=NOW) == moment
    assert parse_moment(text, now=NOW).tzinfo == timezone.utc  # noqa: UP017  # that very zone


@pytest.mark.parametrize("text", ["yesterday", "", "2026-13-01", "-5h", "5y", "99999999999d"])
def test_what_is_no_moment_says_what_one_looks_like(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time: 2026-01-31, |too long ago"):
        parse_moment(text, now=NOW)


@pytest.mark.parametrize("text", ["0001-01-01T00:00+14:00", "9999-12-31T23:00-05:00"])
def test_a_moment_beyond_the_calendar_says_so(text: str) -> None:
    with pytest.raises(ValueError, match="before the year 1 or after 9999"):
        parse_moment(text, now=NOW)


@pytest.fixture
async def filled(fresh_database: str) -> str:
    await write(
        fresh_database,
        *(snapshot(number, AT + timedelta(seconds=5 * number)) for number in range(20)),
        event('a "quoted", word\nand a line', AT + timedelta(seconds=7)),
    )
    return fresh_database


async def test_the_rows_of_the_range_in_order(tmp_path: Path, filled: str) -> None:
    done = await run_process(
        tmp_path,
        "export",
        "--from=2026-01-02T14:30:05",
        "--to=2026-01-02T15:31:00+01:00",
        DATABASE_URL=filled,
    )
    assert done.code == 0, done
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert [row["delta"] for row in rows] == [str(number) for number in range(1, 12)]
    assert rows[0]["timestamp"] == "2026-01-02T14:30:05.000000Z"
    assert ",".join(rows[0]) == (
        "timestamp,account,delta,gamma,vega,theta,underlying_price,positions,priced,"
        "greeks_age_s,data_type,currency,gamma_error,verdict,late_s,recorder"
    )
    assert rows[0]["vega"] == "-3.25"


async def test_events_keep_their_quotes_and_lines(tmp_path: Path, filled: str) -> None:
    done = await run_command(
        tmp_path, "export", "--events", "--from=2026-01-02", DATABASE_URL=filled
    )
    (row,) = csv.DictReader(io.StringIO(done.out))
    assert row["message"] == 'a "quoted", word\nand a line'


async def test_into_a_file(tmp_path: Path, filled: str) -> None:
    (tmp_path / "rows.csv").write_text("what was there before")
    done = await run_command(
        tmp_path, "export", "--from=2026-01-02", "-o", "rows.csv", DATABASE_URL=filled
    )
    assert done.code == 0
    assert done.out == ""
    assert "20 rows of portfolio_greeks in rows.csv" in done.err
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 21
    assert [path.name for path in tmp_path.glob("*rows*")] == ["rows.csv"]


async def test_a_range_without_rows_is_a_header(tmp_path: Path, filled: str) -> None:
    done = await run_command(tmp_path, "export", DATABASE_URL=filled)
    assert done.code == 0
    assert len(done.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "yesterday"], "'yesterday' is not a time"),
        (["-o", "/nowhere/rows.csv"], "--output /nowhere/rows.csv: No such file or directory"),
        (["-o", "."], "--output .: is a directory"),
        (["-o", "rows.xlsx"], "--output rows.xlsx: no .xlsx can be written"),
        (
            ["--from", "2026-01-03", "--to", "2026-01-02"],
            "--to 2026-01-02 00:00:00 UTC is not after",
        ),
        (["--from", "1h", "--to", "2h"], "is not after --from"),
    ],
)
async def test_bad_input_is_one_line(
    tmp_path: Path, filled: str, arguments: list[str], said: str
) -> None:
    done = await run_command(tmp_path, "export", *arguments, DATABASE_URL=filled)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert not [*tmp_path.glob("*rows*")]


async def test_any_name_will_do_when_the_format_is_given(tmp_path: Path, filled: str) -> None:
    arguments = ["export", "--from=2026-01-02", "-o", "rows.dat", "--format", "csv"]
    assert (await run_command(tmp_path, *arguments, DATABASE_URL=filled)).code == 0
    assert (tmp_path / "rows.dat").read_text().startswith("timestamp,")


async def test_batches_join_without_a_seam(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "BATCH_ROWS", 7)
    until = AT + timedelta(days=1)
    batches = export.export_batches(filled, PORTFOLIO_GREEKS, since=AT, until=until)
    async with aclosing(batches):
        found = [[row[2] for row in batch] async for batch in batches]
    assert [len(batch) for batch in found] == [7, 7, 6]
    assert [*chain.from_iterable(found)] == list(range(20))


@pytest.mark.parametrize(("piece_bytes", "most_records"), [(1, 1), (200, 3), (100_000, 21)])
async def test_pieces_of_csv_join_without_a_seam(
    filled: str, monkeypatch: pytest.MonkeyPatch, piece_bytes: int, most_records: int
) -> None:
    monkeypatch.setattr(export, "PIECE_BYTES", piece_bytes)
    until = AT + timedelta(days=1)
    async with aclosing(
        export.export_csv(filled, PORTFOLIO_GREEKS, since=AT, until=until)
    ) as pieces:
        found = [piece async for piece in pieces]
    assert max(map(len, found)) == most_records
    records = list(csv.DictReader(b"".join(chain.from_iterable(found)).decode().splitlines()))
    assert [record["delta"] for record in records] == [str(number) for number in range(20)]


async def test_parquet_has_the_same_rows_with_their_types(tmp_path: Path, filled: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")
    for output, arguments in (("rows.parquet", []), ("events.parquet", ["--events"])):
        done = await run_command(
            tmp_path,
            *("export", "--from=2026-01-02", "-o", output, *arguments),
            DATABASE_URL=filled,
        )
        assert done.code == 0, done
    assert "1 row of api_logs in events.parquet" in done.err
    rows = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [row["delta"] for row in rows] == [float(number) for number in range(20)]
    assert rows[1]["timestamp"] == AT + timedelta(seconds=5)
    assert rows[1]["positions"] == 3
    assert rows[1]["data_type"] == "live"
    (one,) = parquet.read_table(tmp_path / "events.parquet").to_pylist()
    assert one["message"] == 'a "quoted", word\nand a line'


async def test_parquet_without_pyarrow_is_one_line_that_says_what_to_install(
    tmp_path: Path, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # how Python notes that there is none
    done = await run_command(tmp_path, "export", "-o", "rows.parquet", DATABASE_URL=filled)
    assert done.code == 2
    assert f"{sys.executable} -m pip install pyarrow" in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "rows.parquet").exists()


async def test_no_file_appears_when_the_database_goes(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    await write(own_postgres.conninfo, snapshot(1, AT))
    own_postgres.execute(
        "CREATE FUNCTION fail(double precision) RETURNS double precision LANGUAGE plpgsql AS "
        "$$ BEGIN IF $1 = 900 THEN RAISE 'lost'; END IF; RETURN $1; END $$"
    )
    own_postgres.execute("ALTER TABLE portfolio_greeks RENAME TO kept")
    own_postgres.execute(
        "CREATE VIEW portfolio_greeks AS SELECT kept.id, timestamp, contract, account, "
        "fail(number) AS delta, gamma, vega, theta, underlying_price, positions, priced, "
        "greeks_age_s, data_type, currency, gamma_error, verdict, late_s, recorder "
        "FROM kept, generate_series(1, 1000) AS number"
    )
    done = await run_command(
        tmp_path, "export", "--from=2026-01-01", "-o", "rows.csv", DATABASE_URL=own_postgres.url
    )
    assert done.code == 1
    assert "lost" in done.err
    assert list(tmp_path.glob("*rows*")) == []


async def test_a_reader_that_goes_away_is_no_error(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    await write(own_postgres.conninfo, snapshot(1, AT))
    own_postgres.execute(
        "INSERT INTO portfolio_greeks (timestamp, delta) SELECT '2026-01-02', n "
        "FROM generate_series(1, 50000) AS n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_bridge", "export", "--from=2026-01-01"],
        cwd=tmp_path,
        env=clean_environment(tmp_path, DATABASE_URL=own_postgres.url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        await trio.to_thread.run_sync(process.stdout.readline)
        process.stdout.close()
        said = await trio.to_thread.run_sync(process.stderr.read)
        assert await trio.to_thread.run_sync(process.wait) == 141
    assert said == b""


async def test_memory_does_not_grow_with_the_range(
    tmp_path: Path, own_postgres: PostgresServer
) -> None:
    await write(own_postgres.conninfo, snapshot(1, AT))
    own_postgres.execute(
        "INSERT INTO portfolio_greeks (timestamp, delta, account) "
        "SELECT '2026-01-02'::timestamptz + n * interval '5 s', n, repeat('U', 50) "
        "FROM generate_series(1, 100000) AS n"
    )
    process = psutil.Popen(
        [sys.executable, "-m", "trio_bridge", "export", "--from=2026-01-01", "--to=2027-01-01"],
        cwd=tmp_path,
        env=clean_environment(tmp_path, DATABASE_URL=own_postgres.url),
        stdout=subprocess.PIPE,
    )
    with process:
        first = await trio.to_thread.run_sync(process.stdout.read, 1_000_000)
        before = process.memory_info().rss
        middle = await trio.to_thread.run_sync(process.stdout.read, 8_000_000)
        after = process.memory_info().rss
        rest = await trio.to_thread.run_sync(process.stdout.read)
        assert process.wait() == 0
    assert (first + middle + rest).count(b"\n") == 100_002
    assert after - before < 5_000_000
