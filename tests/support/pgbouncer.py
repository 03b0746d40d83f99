"""A real PgBouncer in front of a test's server, where Debian's package is installed."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.process import PATIENCE_S, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.postgres import PostgresServer

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")

needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="the package pgbouncer is missing")


@asynccontextmanager
async def open_pgbouncer(home: Path, server: PostgresServer, mode: str) -> AsyncIterator[str]:
    """Run one in front of the server, in this `pool_mode`; gives the conninfo."""
    assert PROGRAM is not None
    port = free_port()
    database = server.conninfo_of("portfolio_engine")
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": mode,
        "server_login_retry": 1,  # else it lets 15 s pass after a server that was not there
        # It does not run as root.
        **({} if server.account is None else {"user": server.account.name}),
    }
    lines = [f"{name} = {value}" for name, value in settings.items()]
    config = home / "pgbouncer.ini"
    config.write_text(
        "\n".join(["[databases]", f"portfolio_engine = {database}", "[pgbouncer]", *lines, ""])
    )
    with (home / "pgbouncer.log").open("wb") as log:
        process = await trio.lowlevel.open_process(
            [PROGRAM, str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        with trio.fail_after(PATIENCE_S):
            while True:
                assert process.poll() is None, (home / "pgbouncer.log").read_text()
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                except OSError:
                    await trio.sleep(0.02)
                else:
                    break
        yield f"host=127.0.0.1 port={port} user=portfolio dbname=portfolio_engine"
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
