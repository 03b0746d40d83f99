"""`flush`: bring the spool into the database now, without the service."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import trio
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from trio_bridge.commands.console import Console
from trio_bridge.commands.database import open_database
from trio_bridge.delivery.commit import SCHEMA_TIMEOUT_S, Committer
from trio_bridge.errors import ConfigError
from trio_bridge.stores.database.postgres import PostgresStore
from trio_bridge.stores.spool.look import holder_of
from trio_bridge.stores.spool.spool import Spool
from trio_bridge.text import count, duration, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_bridge.config import Settings
    from trio_bridge.stores.base import Store

BATCH_TIMEOUT_S = 10.0
"""As the service's own replay."""


class Flush:
    """Replays one spool to its end, or until the database takes no more."""

    def __init__(self, spool: Spool, store: Store) -> None:
        self._spool = spool
        self._committer = Committer(store)
        self.replayed = 0
        self.quarantined = 0

    async def run(self, progress: Callable[[], None]) -> str | None:
        """None when the spool is empty, else why the database did not take the rest.

        Raises:
            SpoolError: the spool can't be read or acknowledged.
        """
        while self._spool.holds_rows():
            chunk = await self._spool.read()
            records = [line.record for line in chunk.lines]
            outcome = await self._committer.commit(
                records, batch_timeout_s=BATCH_TIMEOUT_S, schema_timeout_s=SCHEMA_TIMEOUT_S
            )
            self.quarantined += await self._spool.acknowledge(chunk, outcome.done, outcome.rejected)
            self.replayed += outcome.done - len(outcome.rejected)
            if outcome.outage is not None:
                return outcome.outage
            progress()
        return None


async def run_flush(settings: Settings) -> bool:
    """Flush with a progress bar; whether the spool is empty now.

    Raises:
        ConfigError: a service holds the spool, or it or the database can't be used.
        SpoolError: the disk failed on the way.
    """
    await _refuse_beside_a_service(settings)
    spool = await Spool.open(settings.buffer_path)
    try:
        if not spool.holds_rows():
            print(f"nothing to do: {settings.buffer_path} is empty")
            return True
        async with open_database(settings) as conninfo:
            store = PostgresStore(conninfo)
            try:
                return await _flush(spool, store)
            finally:
                await store.aclose()
    finally:
        spool.close()


async def _refuse_beside_a_service(settings: Settings) -> None:
    try:
        holder = await trio.to_thread.run_sync(holder_of, settings.buffer_path)
    except OSError:
        return  # opening the spool will say it better
    if holder is not None:
        raise ConfigError(
            f"BRIDGE_BUFFER_PATH={settings.buffer_path} is in use by {holder}",
            setting="BRIDGE_BUFFER_PATH",
            remedy="a running service replays it by itself, every "
            f"{settings.flush_interval_s:g} s; see `trio-bridge status`",
        )


async def _flush(spool: Spool, store: PostgresStore) -> bool:
    total, began = spool.backlog_bytes, trio.current_time()
    flush = Flush(spool, store)
    columns = (
        TextColumn("replaying"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[rows]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, rows="")

        def show() -> None:
            bar.update(
                task, completed=total - spool.backlog_bytes, rows=count(flush.replayed, "row")
            )

        outage = await flush.run(show)
    took = duration(trio.current_time() - began)
    print(f"{count(flush.replayed, 'row')} replayed into {store.target} in {took}")
    if flush.quarantined:
        print(
            f"{count(flush.quarantined, 'line')} could not be stored: see {spool.quarantine_path}"
        )
    if outage is not None:
        left = size(spool.backlog_bytes)
        print(f"{left} stay in the spool, the database takes no more: {outage}", file=sys.stderr)
    return outage is None
