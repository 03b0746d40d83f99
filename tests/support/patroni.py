"""Two PostgreSQL servers that a real Patroni makes, watches and fails over.

It keeps its state by Raft, so there is nothing else to install: a third voice is a process of its
own, as for any vote among three.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest

from tests.support.postgres import PATIENCE_S, reachable_directory
from tests.support.process import free_port
from trio_bridge.stores.embedded.binaries import installations
from trio_bridge.stores.embedded.cluster import DATABASE, ROLE
from trio_bridge.stores.embedded.process import Account, Child, Tie, spawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any, LiteralString

PROGRAM, VOTER = shutil.which("patroni"), shutil.which("patroni_raft_controller")

SHORTEST = {"ttl": 20, "loop_wait": 1, "retry_timeout": 3}
"""Patroni takes no shorter ones: a standby takes over some 20 s after its primary is gone."""


class Member:
    """One server and its Patroni."""

    def __init__(self, room: Path, name: str, raft: list[int], account: Account | None) -> None:
        self.port = free_port()
        self._room = room / name
        self._room.mkdir(mode=0o700)
        if account is not None:
            os.chown(self._room, account.uid, account.gid)
        self._account = account
        self._raft = raft
        self._child: Child | None = None

    def start(self) -> None:
        assert PROGRAM is not None
        self._child = _run(PROGRAM, self._room, self._settings(), self._account)

    def kill(self) -> None:
        """SIGKILL Patroni and all of its server's processes at once, as if the machine died."""
        family = self._family()
        if self._child is not None:
            self._child.close()
            self._child = None
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def stall_replication(self) -> None:
        """SIGSTOP what sends to the standby."""
        for process in self._family():
            if "walsender" in " ".join(process.cmdline()):
                process.suspend()

    def is_primary(self) -> bool:
        try:
            return self.execute("SELECT pg_is_in_recovery()", "postgres") == [(False,)]
        except psycopg.OperationalError:
            return False

    def execute(self, statement: LiteralString, database: str = DATABASE) -> list[tuple[Any, ...]]:
        """Run and commit one statement; return its rows, if any."""
        conninfo = f"host=127.0.0.1 port={self.port} user={ROLE} dbname={database}"
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=2) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @property
    def log(self) -> str:
        return (self._room / "log").read_text()

    def _family(self) -> list[psutil.Process]:
        try:
            pid = int((self._room / "data" / "postmaster.pid").read_text().split()[0])
            postmaster = psutil.Process(pid)
            return [postmaster, *postmaster.children(recursive=True)]
        except (FileNotFoundError, psutil.NoSuchProcess):
            return []

    def _settings(self) -> dict[str, Any]:
        role = {"username": ROLE, "password": "x"}
        return {
            "scope": "bridge",
            "name": self._room.name,
            "restapi": dict.fromkeys(("listen", "connect_address"), f"127.0.0.1:{free_port()}"),
            **raft_settings(self._room, self._raft),
            "bootstrap": {"dcs": SHORTEST, "initdb": [{"encoding": "UTF8"}, {"auth": "trust"}]},
            "postgresql": {
                **dict.fromkeys(("listen", "connect_address"), f"127.0.0.1:{self.port}"),
                "data_dir": str(self._room / "data"),
                "bin_dir": str(next(iter(installations())).bindir),
                "pgpass": str(self._room / "pgpass"),
                "authentication": {"superuser": role, "replication": role},
                "parameters": {"unix_socket_directories": str(self._room), "fsync": "off"},
                "pg_hba": ["local all all trust"]
                + [f"host {what} all 127.0.0.1/32 trust" for what in ("all", "replication")],
            },
        }


@contextmanager
def patroni() -> Iterator[tuple[Member, Member]]:
    """The primary, which holds an empty database, and its standby."""
    if PROGRAM is None or VOTER is None:
        pytest.skip("Patroni is not installed (pip install patroni[raft,psycopg3])")
    account = Account.for_server()
    room = reachable_directory("trio_bridge-patroni-")
    ports = [free_port() for _ in range(3)]
    turns = [ports[n:] + ports[:n] for n in range(3)]
    members = tuple(Member(room, name, raft, account) for name, raft in zip("ab", turns, strict=False))
    third = room / "third"
    third.mkdir(mode=0o700)
    if account is not None:
        os.chown(third, account.uid, account.gid)
    voter = None
    try:
        voter = _run(VOTER, third, raft_settings(third, turns[2]), account)
        for member in members:
            member.start()
        yield _settled(*members)
    finally:
        for member in members:
            member.kill()
        if voter is not None:
            voter.close()
        shutil.rmtree(room, ignore_errors=True)


def _settled(a: Member, b: Member) -> tuple[Member, Member]:
    """Wait until one follows the other."""
    following = "SELECT FROM pg_stat_replication WHERE state = 'streaming'"
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for primary, standby in ((a, b), (b, a)):
            if primary.is_primary() and primary.execute(following, "postgres"):
                primary.execute(f"CREATE DATABASE {DATABASE} TEMPLATE template0", "postgres")
                return primary, standby
        assert time.monotonic() < deadline, a.log[-3000:] + b.log[-3000:]
        time.sleep(0.1)


def raft_settings(room: Path, ports: list[int]) -> dict[str, Any]:
    """The first port is the member's own."""
    own, *others = [f"127.0.0.1:{port}" for port in ports]
    return {"raft": {"data_dir": str(room / "raft"), "self_addr": own, "partner_addrs": others}}


def _run(program: str, room: Path, settings: dict[str, Any], account: Account | None) -> Child:
    configuration = room / "patroni.yml"
    configuration.write_text(json.dumps(settings))  # which is YAML, too
    configuration.chmod(0o644)
    with (room / "log").open("ab") as output:
        return spawn(
            [program, configuration],
            account=account,
            output=output.fileno(),
            tie=Tie.WATCHDOG,
            death_signal=signal.SIGKILL,
        )
