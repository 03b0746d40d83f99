"""Where a command finds the database that the service records into."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from trio_bridge.errors import ConfigError
from trio_bridge.stores.database.conninfo import conninfo_from_settings
from trio_bridge.stores.embedded.cluster import default_directory
from trio_bridge.stores.embedded.server import open_embedded, running_conninfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_bridge.config import Settings


async def find_database(settings: Settings) -> str | None:
    """The conninfo of the database that the settings name, or of the bridge's own PostgreSQL, which
    runs only while the service does; None: it doesn't.

    Raises:
        ConfigError: DATABASE_URL is malformed, or that PostgreSQL's directory can't be read.
    """
    conninfo = conninfo_from_settings(settings)
    if conninfo is None:
        conninfo = await trio.to_thread.run_sync(running_conninfo, settings.embedded_dir)
    return conninfo


async def present_database(settings: Settings) -> str:
    """As `find_database`.

    Raises:
        ConfigError: also when there is none.
    """
    conninfo = await find_database(settings)
    if conninfo is None:
        raise ConfigError(
            "DATABASE_URL is not set, and the bridge's own PostgreSQL in "
            f"{settings.embedded_dir or default_directory()} does not run",
            setting="DATABASE_URL",
            remedy="start the service",
        )
    return conninfo


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[str]:
    """The conninfo of the database; the bridge's own PostgreSQL is started if need be, for as long
    as the block lasts (a service that starts during that time finds it in use).

    Raises:
        ConfigError: DATABASE_URL is malformed, or that PostgreSQL can't be started.
    """
    conninfo = await find_database(settings)
    if conninfo is not None:
        yield conninfo
        return
    async with open_embedded(settings.embedded_dir) as own:
        yield own
