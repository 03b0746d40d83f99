"""Real PostgreSQL servers to break: stopped, killed, frozen, restarted, failed over.

Everything here is plain and blocking, so that sync tests, Trio tests and subprocess tests can all
use it; a start or stop takes about 0.1 s. A Trio test that must not block its loop calls it through
`trio.to_thread.run_sync`: a watchdog ties the servers to the process, not to a thread, and they end
with it even if it is killed.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, LiteralString, Self
from urllib.parse import quote

import psutil
import psycopg

from tests.support.process import free_port
from trio_bridge.stores.embedded.binaries import Installation, installations
from trio_bridge.stores.embedded.cluster import (
    DATABASE,
    ROLE,
    Room,
    choose,
    initdb_command,
    postgres_command,
)
from trio_bridge.stores.embedded.process import Account, Child, Tie, spawn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from psycopg import sql

PATIENCE_S = 60.0
"""How long a server may take to start or stop on a busy machine."""
MEMORY_NEEDED = 2_000_000_000
"""Bytes of free memory needed for data directories of 40 MB each."""
PAGE_BYTES = 8192
PAGES_PER_SEGMENT = 32
"""Pages of transaction status (four transactions per byte) in a segment file."""
OWNER = "owner"
STOP_SIGNALS = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}


def _take(directory: Path) -> int | None:
    """Mark a directory as ours for as long as this process lives; None: it is another's."""
    with suppress(OSError):
        descriptor = os.open(directory / OWNER, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
        else:
            return descriptor  # left open on purpose
    return None


def reachable_directory(prefix: str) -> Path:
    """A new temporary directory that PostgreSQL's account can reach, in memory if there is room.

    pytest's own tmp_path is in a directory that only its user can enter.
    """
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_NEEDED
    base = memory if roomy else Path("/tmp")
    for left in base.glob(f"{prefix}*"):
        if _take(left) is not None:  # its test run was killed
            shutil.rmtree(left, ignore_errors=True)
    unnamed = Path(tempfile.mkdtemp(prefix="new-", dir=base))
    (unnamed / OWNER).touch()
    _take(unnamed)
    unnamed.chmod(0o755)
    return unnamed.rename(base / unnamed.name.replace("new-", prefix, 1))


class PostgresServer:
    """A server with its own data directory, reachable over TCP and a Unix socket.

    Port, socket and data stay the same across restarts. Role `portfolio` (superuser, no password),
    database `portfolio_engine` (empty).
    """

    def __init__(self, room: Path, installation: Installation, account: Account | None) -> None:
        self.room = room
        self.data = room / "data"
        self.log = room / "server.log"
        self.installation = installation
        self.account = account
        self.port = free_port()
        self.settings: dict[str, str] = {
            "fsync": "off",
            # In the data directory: what a killed server leaves behind is removed with its files.
            "dynamic_shared_memory_type": "mmap",
        }
        """Server options, `name=value`; changes take effect at the next start."""
        self._child: Child | None = None

    # Where it is

    @property
    def socket_directory(self) -> Path:
        """For `host=` in a conninfo, together with `port`."""
        return self.room

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._child is not None, "the server was not started"
        return self._child.pid

    @property
    def conninfo(self) -> str:
        """libpq's key=value form, over TCP."""
        return self.conninfo_of(DATABASE)

    @property
    def url(self) -> str:
        """The URL form for DATABASE_URL, over TCP."""
        return self.url_of(DATABASE)

    def conninfo_of(self, database: str, *, user: str = ROLE) -> str:
        return f"host=127.0.0.1 port={self.port} user={user} dbname={database}"

    def url_of(self, database: str, *, user: str = ROLE) -> str:
        return f"postgresql://{quote(user)}@127.0.0.1:{self.port}/{quote(database)}"

    # Life

    def start(self) -> Self:
        """Start it and wait until it answers."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "max_connections": "40",
            **self.settings,
        }
        command = [
            *postgres_command(self.installation, self.data, socket_directory=self.room),
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self._child = self._spawn(command)
            if self._wait_ready(deadline):
                return self
            self._reap()
            words = self.log.read_text()[-2000:]
            # The last server's processes may still hold its shared memory: try again.
            if "still in use" not in words or time.monotonic() > deadline:
                raise RuntimeError(words)

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Like `pg_ctl stop -m MODE`; returns once its last process is gone."""
        if self._child is not None:
            self._child.send(STOP_SIGNALS[mode])
            self._reap()

    def kill(self) -> None:
        """SIGKILL all of its processes at once, as the out-of-memory killer would."""
        for process in self._family():
            _signal(process, signal.SIGKILL)
        self._reap()

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        self.stop(mode)
        self.start()

    def freeze(self) -> None:
        """SIGSTOP all of its processes: connections stay open, nothing responds."""
        stopped: set[int] = set()
        while fresh := [process for process in self._family() if process.pid not in stopped]:
            for process in fresh:
                _signal(process, signal.SIGSTOP)
                stopped.add(process.pid)

    def stall(self, kind: Literal["walsender", "walwriter"]) -> None:
        """SIGSTOP its processes of one kind: what sends to standbys, which then lack everything (a
        stopped receiver would find it in its socket), or what writes asynchronous commits."""
        processes = [one for one in self._family() if kind in " ".join(one.cmdline())]
        assert processes, f"there is no {kind}"
        for process in processes:
            _signal(process, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: the frozen processes continue, and finish what they had been given."""
        for process in self._family():
            _signal(process, signal.SIGCONT)

    def close(self) -> None:
        """End it, frozen or not, and remove its files."""
        self.kill()
        shutil.rmtree(self.room, ignore_errors=True)

    def install(self, name: str, content: bytes) -> None:
        """Put a file into the data directory, as its owner (pg_hba.conf, a certificate …)."""
        path = self.data / name
        path.write_bytes(content)
        path.chmod(0o600)
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)

    def catch_up(self, primary: PostgresServer) -> None:
        """Wait until this standby shows everything that the primary has committed by now."""
        [(target,)] = primary.execute("SELECT pg_current_wal_lsn()", database="postgres")
        replayed = "SELECT pg_last_wal_replay_lsn() >= %s"
        self._wait_until(replayed, "the standby does not catch up", [target])

    def replay_all(self) -> None:
        """Wait until this standby shows everything that it got from a primary that is gone."""
        shown = "SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()"
        self._wait_until(shown, "the standby does not replay")

    def promote(self) -> None:
        """Make a standby the primary."""
        self.execute("SELECT pg_promote(true, 60)", database="postgres")

    def keep_copy(self) -> None:
        """Copy the data of a stopped server, for `roll_back`."""
        subprocess.run(["cp", "-a", self.data, self.room / "copy"], check=True)

    def roll_back(self) -> None:
        """Put the copy in place of a stopped server's data."""
        shutil.rmtree(self.data)
        (self.room / "copy").rename(self.data)

    @contextmanager
    def out_of_sight(self) -> Iterator[None]:
        """Start a stopped server where only `execute` finds it, and stop it again."""
        port, self.port = self.port, free_port()
        self.start()
        try:
            yield
        finally:
            self.stop()
            self.port = port

    def use_up_transaction_ids(self) -> None:
        """Restart it with so many used up that it assigns no more until it is vacuumed."""
        frozen = "SELECT min(datfrozenxid::text::bigint) FROM pg_database"
        [(oldest,)] = self.execute(frozen, database="postgres")
        self.stop()
        last = oldest + 2**31 - 3_000_000
        segment = f"{last // (4 * PAGE_BYTES * PAGES_PER_SEGMENT):04X}"
        self.install(f"pg_xact/{segment}", bytes(PAGE_BYTES * PAGES_PER_SEGMENT))
        reset = self.installation.bindir / "pg_resetwal"
        self._run([reset, "--force", f"--next-transaction-id={last}", self.data])
        self.start()

    # Looking inside

    def execute(
        self,
        statement: str | sql.Composable,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        database: str = DATABASE,
    ) -> list[tuple[Any, ...]]:
        """Run and commit one statement as superuser; return its rows, if any."""
        with psycopg.connect(self._local_conninfo(database), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> str:
        """Create an empty database with a unique name; return the name."""
        name = f"test_{random.getrandbits(64):016x}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0", database="postgres")
        return name

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", database="postgres")

    # Inside

    def _wait_until(
        self, query: LiteralString, otherwise: str, parameters: Sequence[Any] = ()
    ) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.execute(query, parameters, database="postgres") != [(True,)]:
            assert time.monotonic() < deadline, otherwise
            time.sleep(0.02)

    def _local_conninfo(self, database: str) -> str:
        """Over the Unix socket, which works whatever a test has done to network access."""
        return f"host={self.room} port={self.port} user={ROLE} dbname={database}"

    def _spawn(self, command: Sequence[str | Path]) -> Child:
        with self.log.open("ab") as output:
            return spawn(
                command,
                account=self.account,
                output=output.fileno(),
                tie=Tie.WATCHDOG,
                death_signal=signal.SIGKILL,
            )

    def _run(self, command: Sequence[str | Path]) -> None:
        self._child = self._spawn(command)
        if self._reap() != 0:
            raise RuntimeError(f"{command[0]} failed: {self.log.read_text()[-2000:]}")

    def _wait_ready(self, deadline: float) -> bool:
        assert self._child is not None
        while self._child.process.poll() is None and time.monotonic() < deadline:
            try:
                psycopg.connect(self._local_conninfo("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return True
        return False

    def _reap(self) -> int:
        """Wait until all of its processes have ended, then forget them."""
        if self._child is None:
            return 0
        child, self._child = self._child, None
        gone, _, _ = select.select([child.lifeline], [], [], PATIENCE_S)
        child.close()
        if not gone:
            raise TimeoutError(f"the server did not end within {PATIENCE_S} s")
        return child.process.returncode

    def _family(self) -> list[psutil.Process]:
        if self._child is None:
            return []
        try:
            postmaster = psutil.Process(self._child.pid)
            return [postmaster, *postmaster.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class PostgresFactory:
    """Creates servers quickly: one `initdb` for all, then copies of its data directory."""

    def __init__(self) -> None:
        self._template: PostgresServer | None = None
        self._made: list[PostgresServer] = []
        self._account = Account.for_server()
        self._programs = reachable_directory("trio_bridge-programs-")
        # As the bridge does it: below a home that only root can enter the programs are copied.
        self._installation = choose(installations(), Room(self._programs, self._account))

    def new(self, **settings: str) -> PostgresServer:
        """A new, started server; `settings` are configuration options."""
        template = self._template or self._make_template()
        server = self._blank()
        subprocess.run(["cp", "-a", template.data, server.data], check=True)
        server.settings.update(settings)
        return server.start()

    def new_cluster(self) -> PostgresServer:
        """As `new`, but no copy: it has a number of its own."""
        server = self._blank()
        server._run(
            [*initdb_command(server.installation, server.data), "--no-sync", "--wal-segsize=2"]
        )
        server.start()
        server.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0", database="postgres")
        return server

    def standby_of(self, primary: PostgresServer) -> PostgresServer:
        """A started hot standby that follows `primary`; see `promote`."""
        server = self._blank()
        source = f"host=127.0.0.1 port={primary.port} user={ROLE}"
        server._run(
            [
                primary.installation.bindir / "pg_basebackup",
                f"--pgdata={server.data}",
                f"--dbname={source}",
                "--write-recovery-conf",
                "--checkpoint=fast",
                "--no-sync",
            ]
        )
        return server.start()

    def close(self) -> None:
        for server in self._made:
            server.close()
        shutil.rmtree(self._programs, ignore_errors=True)

    def _make_template(self) -> PostgresServer:
        template = self.new_cluster()
        template.stop()
        self._template = template
        return template

    def _blank(self) -> PostgresServer:
        account = self._account
        room = reachable_directory("trio_bridge-server-")
        if account is not None:
            os.chown(room, account.uid, account.gid)
        server = PostgresServer(room, self._installation, account)
        self._made.append(server)
        return server


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)
