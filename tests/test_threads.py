"""A machine that can start no thread is in trouble for a while: nothing is lost, nothing ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.process import running_service
from trio_bridge.threads import in_thread

if TYPE_CHECKING:
    from pathlib import Path

WITHOUT_THREADS = """
import sys
import threading
from pathlib import Path

import trio

from tests.support.rows import record, snapshot
from trio_bridge.errors import GatewayError
from trio_bridge.gateways.socket.asking import resolve
from trio_bridge.delivery.breaker import DBCircuitBreaker
from trio_bridge.stores.database.postgres import PostgresStore
from trio_bridge.stores.spool.spool import Spool
from trio_bridge.delivery.delivery import Delivery
from trio_bridge.delivery.outlet import Outlet
from trio_bridge.delivery.writer import run_writer
from trio_bridge.threads import in_thread, tell_of_missing_threads

NO_ROOM = 2**47 - 65_536


async def main(path: Path) -> None:
    tell_of_missing_threads()
    threading.stack_size(NO_ROOM)
    spool = await Spool.open(path)
    store = PostgresStore("postgresql://localhost:1/d")  # a name that has to be looked up
    outlet = Outlet()
    delivery = Delivery(store, spool, DBCircuitBreaker(), outlet, db_timeout_s=2.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_writer, delivery)
        outlet.put(snapshot(1))
        while not delivery.status.spooled:
            await trio.sleep(0.01)
        outlet.close()
    spool.close()
    try:
        await resolve("localhost", 4001, timeout_s=5)
    except GatewayError as error:
        print(error)
    threading.stack_size(0)
    print(await resolve("localhost", 4001, timeout_s=5))
    print(await in_thread(threading.get_ident) != threading.get_ident())


trio.run(main, Path(sys.argv[1]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a stack that is larger than memory")
def test_rows_are_safe_and_names_looked_up_later_while_no_thread_can_be_started(
    tmp_path: Path,
) -> None:
    path = tmp_path / "buffer.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THREADS, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    refused, found, in_another = done.stdout.splitlines()[-3:]
    assert refused == "IB_SOCKET_HOST=localhost: no such host ([Errno 11] can't start new thread)"
    assert "127.0.0.1" in found
    assert in_another == "True"
    assert "localhost:1/d: cannot find the host" in done.stderr
    assert path.read_bytes().count(b"\n") >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs a stack that is larger than memory")
async def test_the_service_does_not_end_for_want_of_a_thread(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import trio_bridge.asyncio_compat, threading; threading.stack_size(2**47 - 65_536)"
    )
    async with running_service(
        tmp_path,
        PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        IB_SOCKET_HOST="localhost",
        IB_SOCKET_PORT=1,
        DATABASE_URL="postgresql://localhost:1/d",
        BRIDGE_RECONNECT_BACKOFF="0.1",
    ) as service:
        await service.wait_for_output("reconnect attempt 2")
        service.interrupt()
        assert await service.wait() == 0
    assert "can't start new thread" in service.output
    spool = tmp_path / ".portfolio_bridge_buffer.jsonl"
    assert b"reconnect attempt 2" in spool.read_bytes()


async def test_a_bug_in_the_job_stays_a_bug() -> None:
    def bug() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await in_thread(bug)
    assert await in_thread(threading.get_ident) != threading.get_ident()
