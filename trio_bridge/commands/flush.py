"""`flush`: bring the spool into the database now, without the service."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import trio
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from trio_bridge.commands.console import Console
from trio_bridge.commands.database import open_database
from trio_bridge.delivery.commit import Committer
from trio_bridge.delivery.replay import Replay
from trio_bridge.delivery.resend import Resend
from trio_bridge.errors import ConfigError, OutageError
from trio_bridge.stores.database.postgres import PostgresStore
from trio_bridge.stores.spool.look import holder_of
from trio_bridge.stores.spool.spool import Spool
from trio_bridge.text import count, duration, size

if TYPE_CHECKING:
    from trio_bridge.config import Settings
    from trio_bridge.events.event import Event
    from trio_bridge.stores.base import Store


async def run_flush(settings: Settings) -> bool:
    """Flush with a progress bar; whether the spool is empty now.

    Raises:
        ConfigError: a service holds the spool, or it or the database can't be used.
        SpoolError: the disk failed on the way.
    """
    await _refuse_beside_a_service(settings)
    spool = await Spool.open(settings.buffer_path, keep=timedelta(seconds=settings.resend_s))
    try:
        if not spool.backlog_bytes and spool.sent.newest is None:
            print(f"nothing to do: {settings.buffer_path} is empty")
            return True
        async with open_database(settings) as conninfo:
            store = PostgresStore(conninfo)
            try:
                return await flush(spool, store, store.target)
            finally:
                await store.aclose()
    finally:
        spool.close()


async def _refuse_beside_a_service(settings: Settings) -> None:
    try:
        holder = await trio.to_thread.run_sync(holder_of, settings.buffer_path)
    except OSError:
        return  # opening the spool gives a better reason
    if holder is not None:
        raise ConfigError(
            f"BRIDGE_BUFFER_PATH={settings.buffer_path} is in use by {holder}",
            setting="BRIDGE_BUFFER_PATH",
            remedy="a running service replays it by itself, every "
            f"{settings.flush_interval_s:g} s; see `trio-bridge status`",
        )


async def flush(spool: Spool, store: Store, target: str) -> bool:
    """Replay the spool to its end, or until the database takes no more; True: it is empty now.

    What the database had acknowledged lately and lacks after a failover is sent first.

    Raises:
        SpoolError: the disk failed on the way.
    """
    total, began = spool.backlog_bytes, trio.current_time()
    again: list[Event] = []
    # A person looks on, and no later attempt comes.
    committer = Committer(store, Resend(store, spool, again.append), refusals=1)
    quarantined = 0
    outage: OutageError | None = None
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

        def show(_: int, unfit: int) -> None:
            nonlocal quarantined
            quarantined += unfit
            done = total - spool.backlog_bytes
            bar.update(task, completed=done, rows=count(committer.committed, "row"))

        try:
            await committer.send_again()
            while spool.backlog_bytes:
                await Replay(spool, committer, show).everything()
        except OutageError as error:
            outage = error
    for event in again:
        print(event.text)
    took = duration(trio.current_time() - began)
    print(f"{count(committer.committed, 'row')} replayed into {target} in {took}")
    if quarantined:
        print(f"{count(quarantined, 'line')} could not be stored: see {spool.quarantine_path}")
    if outage is not None:
        left = size(spool.backlog_bytes)
        print(f"{left} stay in the spool, the database takes no more: {outage}", file=sys.stderr)
    return outage is None
