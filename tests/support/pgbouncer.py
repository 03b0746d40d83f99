"""A real PgBouncer between the bridge and its servers, to be pointed elsewhere while it runs."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import pytest

from tests.support.postgres import PATIENCE_S, reachable_directory
from tests.support.process import free_port
from trio_bridge.stores.embedded.cluster import DATABASE, ROLE
from trio_bridge.stores.embedded.process import Account, Child, Tie, spawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import PostgresServer

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class PgBouncer:
    """In one of its modes: the connection that a client gets is its own for a `transaction`, or for
    a `statement`."""

    def __init__(self, room: Path, account: Account | None, mode: str) -> None:
        self.mode = mode
        self.port = free_port()
        self.log = room / "pgbouncer.log"
        self._ini = room / "pgbouncer.ini"
        self._account = account
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """For DATABASE_URL."""
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{DATABASE}"

    def start(self, server: PostgresServer) -> None:
        self._point_to(server)
        assert PROGRAM is not None
        with self.log.open("ab") as output:
            self._child = spawn(
                [PROGRAM, self._ini],
                account=self._account,
                output=output.fileno(),
                tie=Tie.WATCHDOG,
                death_signal=signal.SIGKILL,
            )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with suppress(psycopg.OperationalError):
                self.tell("SHOW VERSION")
                return
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.02)

    def close(self) -> None:
        if self._child is not None:
            self._child.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Between two transactions; new ones wait, on connections that stay open."""
        self.tell("PAUSE")
        try:
            yield
        finally:
            self.tell("RESUME")

    def repoint(self, server: PostgresServer) -> None:
        """What comes from now on goes to this server."""
        self._point_to(server)
        self.tell("RELOAD")

    def clients(self) -> set[int]:
        """The ports of the connections that it has accepted."""
        return {row["port"] for row in self.tell("SHOW CLIENTS")}

    def tell(self, command: LiteralString) -> list[dict[str, Any]]:
        """Give it a command, at its console."""
        conninfo = f"host=127.0.0.1 port={self.port} user={ROLE} dbname=pgbouncer"
        with psycopg.connect(conninfo, autocommit=True, row_factory=psycopg.rows.dict_row) as told:
            cursor = told.execute(command)
            return cursor.fetchall() if cursor.description else []

    def _point_to(self, server: PostgresServer) -> None:
        self._ini.write_text(
            f"""
            [databases]
            {DATABASE} = host=127.0.0.1 port={server.port} user={ROLE}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = any
            admin_users = {ROLE}
            pool_mode = {self.mode}
            server_login_retry = 0.1
            """
        )
        self._ini.chmod(0o644)


@contextmanager
def pgbouncer(server: PostgresServer, mode: str = "transaction") -> Iterator[PgBouncer]:
    """A running one in front of this server; the test is skipped where the program is missing."""
    if PROGRAM is None:
        pytest.skip("PgBouncer is not installed")
    room = reachable_directory("trio_bridge-pgbouncer-")
    pooler = PgBouncer(room, Account.for_server(), mode)
    try:
        pooler.start(server)
        yield pooler
    finally:
        pooler.close()
        shutil.rmtree(room, ignore_errors=True)
