"""Writer, flusher and spool on a real disk, and a real database to which everything happens at
random; each life of them is cut off at a random moment. Every row is in once, in its order, and
nothing but poison is in the quarantine."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, LiteralString

import orjson
import psycopg
import pytest
import trio

from tests.support.rows import snapshot
from trio_bridge.delivery.breaker import DBCircuitBreaker
from trio_bridge.delivery.delivery import Delivery
from trio_bridge.delivery.flusher import run_flusher
from trio_bridge.delivery.outlet import Outlet
from trio_bridge.delivery.writer import run_writer
from trio_bridge.model import Snapshot
from trio_bridge.stores.database.postgres import PostgresStore
from trio_bridge.stores.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.postgres import PostgresServer

LIVES = 3
DB_TIMEOUT_S = 0.4
FLUSH_INTERVAL_S = 0.5
POISON = 0.03
"""The part of the rows that the database will never take."""

PATIENCE_S = 90.0

in_thread = trio.to_thread.run_sync


class Trouble:
    """What happens to a database: each method is one thing, and its end."""

    def __init__(self, server: PostgresServer, rng: random.Random) -> None:
        self._server = server
        self._rng = rng

    async def go_on(self) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [
            self.locked,
            self.frozen,
            self.killed,
            self.restarted,
            self.connections_ended,
            self.key_dropped,
            self.column_dropped,
            self.column_of_another_type,
            self.read_only,
            self.impatient,
        ]
        while True:
            await self._for_a_moment()
            with trio.CancelScope(shield=True):
                await self._rng.choice(kinds)()

    async def locked(self) -> None:
        with suppress(psycopg.Error), psycopg.connect(self._server.conninfo) as connection:
            connection.execute("SET statement_timeout = '2s'; LOCK TABLE portfolio_greeks")
            await self._for_a_moment(1.5)

    async def frozen(self) -> None:
        self._server.freeze()
        await self._for_a_moment(1.5)
        self._server.thaw()

    async def killed(self) -> None:
        await in_thread(self._server.kill)
        await self._for_a_moment()
        await in_thread(self._server.start)

    async def restarted(self) -> None:
        restart = self._server.restart
        await in_thread(restart, "fast" if self._rng.random() < 0.5 else "immediate")

    async def connections_ended(self) -> None:
        await self._run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'trio_bridge'"
        )

    async def key_dropped(self) -> None:
        await self._run("DROP INDEX IF EXISTS portfolio_greeks_event_id_timestamp_idx")

    async def column_dropped(self) -> None:
        await self._run("ALTER TABLE portfolio_greeks DROP COLUMN IF EXISTS priced")

    async def column_of_another_type(self) -> None:
        await self._run("ALTER TABLE portfolio_greeks ALTER data_type TYPE bytea USING NULL")
        await self._for_a_moment()
        await self._run("ALTER TABLE portfolio_greeks ALTER data_type TYPE text USING NULL")

    async def read_only(self) -> None:
        await self._set("default_transaction_read_only = on")

    async def impatient(self) -> None:
        await self._set("statement_timeout = '1ms'")

    async def _set(self, setting: LiteralString) -> None:
        await self._run(f"ALTER SYSTEM SET {setting}", "SELECT pg_reload_conf()")
        await self._for_a_moment()
        await self.end()

    async def end(self) -> None:
        """No setting stays."""
        await self._run("ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")

    async def _run(self, *statements: LiteralString) -> None:
        options = "-c statement_timeout=2s -c default_transaction_read_only=off"
        conninfo = f"{self._server.conninfo} options='{options}'"
        with suppress(psycopg.Error), psycopg.connect(conninfo, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    async def _for_a_moment(self, longest_s: float = 0.8) -> None:
        await trio.sleep(self._rng.uniform(0, longest_s))


async def live(
    server: PostgresServer, path: Path, source: Callable[[], Snapshot], rng: random.Random
) -> None:
    """One life of the sinks, ended in one of many ways; all that was sent is safe after it."""
    spool, store = await Spool.open(path), PostgresStore(server.url)
    outlet = Outlet()
    delivery = Delivery(store, spool, DBCircuitBreaker(), outlet, db_timeout_s=DB_TIMEOUT_S)
    drained = trio.Event()

    async def write() -> None:
        await run_writer(delivery)
        drained.set()

    async with trio.open_nursery() as sinks:
        sinks.start_soon(run_flusher, delivery, FLUSH_INTERVAL_S)
        sinks.start_soon(write)
        with trio.move_on_after(rng.uniform(1, 3)):
            while True:
                outlet.put(source())
                await trio.sleep(rng.choice([0, 0.01, 0.05, 0.1]))
        if rng.random() < 0.7:
            outlet.close()
            with trio.move_on_after(rng.choice([0.001, 0.01, 0.3, 1.2])):
                await drained.wait()
        sinks.cancel_scope.cancel()
    assert delivery.waiting == 0
    assert outlet.dropped == 0
    await store.aclose()
    spool.close()


async def replay(server: PostgresServer, path: Path) -> None:
    """A last life, without any trouble, until everything is in."""
    spool, store = await Spool.open(path), PostgresStore(server.url)
    delivery = Delivery(store, spool, DBCircuitBreaker(), Outlet(), db_timeout_s=PATIENCE_S)
    with trio.fail_after(PATIENCE_S):
        while spool.backlog_bytes:
            await delivery.flush()
    await store.aclose()
    spool.close()


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 20))]
)
async def test_whatever_happens_every_row_is_in_once_and_in_order(
    seed: int, own_postgres: PostgresServer, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    path = tmp_path / "buffer.jsonl"
    good: list[float] = []
    poison: set[float] = set()

    def source() -> Snapshot:
        row = snapshot(len(good) + len(poison))
        assert row.delta is not None
        if rng.random() >= POISON:
            good.append(row.delta)
            return row
        poison.add(row.delta)
        return Snapshot(row.timestamp, "U1", row.delta, 0.0, 0.0, 0.0, None, 2**40, 1)

    trouble = Trouble(own_postgres, rng)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trouble.go_on)
        for _ in range(LIVES):
            await live(own_postgres, path, source, rng)
        nursery.cancel_scope.cancel()
    await trouble.end()
    await replay(own_postgres, path)
    found = own_postgres.execute("SELECT delta FROM portfolio_greeks ORDER BY id")
    assert [delta for (delta,) in found] == good
    quarantine = path.with_name("buffer.jsonl.quarantine.jsonl")
    lines = quarantine.read_bytes().splitlines() if poison else []
    rows = [orjson.loads(orjson.loads(line)["line"])["row"] for line in lines]
    assert {row["delta"] for row in rows} == poison
    events = own_postgres.execute("SELECT count(*), count(DISTINCT event_id) FROM api_logs")
    assert events[0][0] == events[0][1]
