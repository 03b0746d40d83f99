"""What lies in the spool's place, and a disk that fails under it, with the real service."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest
import trio

from tests.faults.ledger import BUFFER, Run, bridge, check, more_rows, quarantined
from tests.faults.test_database import in_thread, say_goodbye, wait_until_replayed
from tests.support.database import fetch, kinds, wait_for_rows
from tests.support.process import PATIENCE_S
from tests.support.rows import record, snapshot
from trio_bridge.events.rows import RowsSafe, SpoolUnwritable
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.tws.server import TwsSimulator, open_tws_simulator
from trio_bridge.stores.record import encode_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.postgres import PostgresServer


@pytest.fixture
async def gateway() -> AsyncIterator[TwsSimulator]:
    async with open_tws_simulator(make_book()) as sim:
        yield sim


async def replay(home: Path, conninfo: str, gateway: TwsSimulator) -> Run:
    """Let a bridge replay what lies in `home`, take some rows, and end."""
    async with bridge(home, IB_SOCKET_PORT=gateway.port, DATABASE_URL=conninfo) as service:
        await service.wait_for_output('"row"')
        await wait_until_replayed(home)
        await more_rows(service, 3)
        return await say_goodbye(service)


def deltas(conninfo: str) -> list[float]:
    """The rows of a backlog made of `tests.support.rows`, in order."""
    rows = fetch(conninfo, "SELECT delta FROM portfolio_greeks WHERE account = 'U1' ORDER BY id")
    return [delta for (delta,) in rows]


async def test_poison_rows_are_isolated_wherever_they_are(
    tmp_path: Path, fresh_database: str, gateway: TwsSimulator
) -> None:
    places = (0, 1_499, 1_500, 2_999)  # the first, two neighbours, the last
    lines = [encode_line(record(number)) for number in range(3_000)]
    for place in places:
        good = record(place)
        bad = good.row.replace(b'"account":"U1"', b'"account":"U\\u00001"')
        lines[place] = encode_line(type(good)(good.table, bad))
    (tmp_path / BUFFER).write_bytes(b"".join(lines))
    await replay(tmp_path, fresh_database, gateway)
    assert deltas(fresh_database) == [float(n) for n in range(3_000) if n not in places]
    entries = quarantined(tmp_path / BUFFER)
    assert len(entries) == len(places)
    assert all("22P05" in str(entry) for entry in entries)


async def test_a_damaged_spool_gives_all_that_is_whole(
    tmp_path: Path, fresh_database: str, gateway: TwsSimulator
) -> None:
    lines = [encode_line(record(number)) for number in range(300)]
    lines[7] = lines[7].replace(b"-3.25", b"-8.25")  # flipped bytes: the checksum knows
    lines[100] = b"\xff\x00 no JSON at all\n"
    lines[150] = b'{"table":"pg_authid","row":{"event_id":"x","timestamp":"2026-01-01"}}\n'
    lines.insert(200, b"x" * 50_000_000 + b"\n")
    lines.append(lines[5][:40])  # a torn end
    (tmp_path / BUFFER).write_bytes(b"".join(lines))
    await replay(tmp_path, fresh_database, gateway)
    assert deltas(fresh_database) == [float(n) for n in range(300) if n not in (7, 100, 150)]
    assert len(quarantined(tmp_path / BUFFER)) >= 5


async def test_lines_of_the_earlier_system_go_in_once(
    tmp_path: Path, fresh_database: str, gateway: TwsSimulator
) -> None:
    lines = b"".join(
        orjson.dumps(
            {
                "table": "portfolio_greeks",
                "row": {
                    "timestamp": snapshot(number).timestamp,
                    "contract": "PORTFOLIO",
                    "delta": float(number),
                    "gamma": 0.0,
                    "vega": 0.0,
                    "theta": 0.0,
                    "underlying_price": None,
                },
            }
        )
        + b"\n"
        for number in range(50)
    )
    for _ in range(2):
        (tmp_path / BUFFER).write_bytes(lines)
        await replay(tmp_path, fresh_database, gateway)
    rows = fetch(
        fresh_database,
        "SELECT delta FROM portfolio_greeks WHERE timestamp < '2026-01-03' ORDER BY id",
    )
    assert [delta for (delta,) in rows] == [float(number) for number in range(50)]


@pytest.mark.parametrize("obstacle", ["directory", "no permission"])
async def test_an_unusable_spool_is_one_line(
    obstacle: str, tmp_path: Path, fresh_database: str
) -> None:
    path = tmp_path / BUFFER
    if obstacle == "directory":
        path.mkdir()
    else:
        path = Path("/proc/version")  # not even root may write there
    async with bridge(tmp_path, DATABASE_URL=fresh_database, BRIDGE_BUFFER_PATH=path) as service:
        assert await service.wait() == 2
    assert len(service.output.splitlines()) == 1
    assert f"BRIDGE_BUFFER_PATH={path}" in service.output


async def test_an_empty_spool_is_nothing_special(
    tmp_path: Path, fresh_database: str, gateway: TwsSimulator
) -> None:
    (tmp_path / BUFFER).touch()
    run = await replay(tmp_path, fresh_database, gateway)
    await check(tmp_path / BUFFER, fresh_database, [run])


@contextmanager
def tiny_filesystem(room: Path, kilobytes: int) -> Iterator[Path]:
    room.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=0700", "tmpfs", str(room)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a tiny file system can't be mounted here")
    try:
        yield room
    finally:
        subprocess.run(["umount", "-l", str(room)], check=True)


async def test_database_down_and_disk_full_then_both_recover(
    tmp_path: Path, own_postgres: PostgresServer, gateway: TwsSimulator
) -> None:
    with tiny_filesystem(tmp_path / "tiny", kilobytes=64) as tiny:
        async with bridge(
            tmp_path,
            IB_SOCKET_PORT=gateway.port,
            DATABASE_URL=own_postgres.url,
            BRIDGE_BUFFER_PATH=tiny / BUFFER,
        ) as service:
            await wait_for_rows(own_postgres.conninfo, 5)
            (tiny / "ballast").write_bytes(b"x" * 52_000)
            await in_thread(own_postgres.stop, "immediate")
            await service.wait_for_output("the spool can't be written")
            await more_rows(service, 15)
            (tiny / "ballast").unlink()
            await service.wait_for_output("all rows are safe again")
            await more_rows(service, 10)
            await in_thread(own_postgres.start)
            await wait_until_replayed(tiny)
            await more_rows(service, 5)
            run = await say_goodbye(service)
        await check(tiny / BUFFER, own_postgres.conninfo, [run], at_least=40)
    assert {SpoolUnwritable.kind, RowsSafe.kind} <= {*kinds(own_postgres.conninfo)}


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(
    "injection",
    ["fsync:error=EIO:when=2", "fsync:error=ENOSPC:when=1..3", "fdatasync:error=EIO:when=1+4"],
)
async def test_fsync_fails_under_the_real_service(
    injection: str, tmp_path: Path, own_postgres: PostgresServer, gateway: TwsSimulator
) -> None:
    async with bridge(
        tmp_path, IB_SOCKET_PORT=gateway.port, DATABASE_URL=own_postgres.url
    ) as service:
        await wait_for_rows(own_postgres.conninfo, 5)
        tracer = await trio.lowlevel.open_process(
            ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync",
             "-e", f"inject={injection}", "-p", str(service.pid)],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await wait_until_traced(service.pid)
            await in_thread(own_postgres.stop, "immediate")
            await more_rows(service, 20)
            await in_thread(own_postgres.start)
            await wait_until_replayed(tmp_path)
        finally:
            tracer.terminate()
            await tracer.wait()
        run = await say_goodbye(service)
    await check(tmp_path / BUFFER, own_postgres.conninfo, [run], at_least=25)


async def wait_until_traced(pid: int) -> None:
    with trio.fail_after(PATIENCE_S):
        while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
            await trio.sleep(0.02)
