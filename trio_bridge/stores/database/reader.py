"""Connections for reading: how every question to the database is asked, but not how rows are
written (`postgres.py`)."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.sqlstate import store_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Reader:
    """Connects when it is first needed, keeps the connection for the next question, and connects
    again after a failure. `close` it at the end. Bound every wait from outside."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._idle: list[TrioConnection] = []

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[TrioConnection]:
        """One in autocommit mode; several blocks at a time have one each.

        Raises:
            StoreError: the database can't be reached, or a question in the block failed.
        """
        with store_errors():
            connection = await self._connected()
            try:
                yield connection
            except BaseException:  # it may be in the middle of a query
                connection.drop()
                raise
            self._idle.append(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().drop()

    async def _connected(self) -> TrioConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.looks_usable():
                return connection
            connection.drop()
        return await TrioConnection.connect(self._conninfo, autocommit=True)


@asynccontextmanager
async def reading(conninfo: str) -> AsyncIterator[TrioConnection]:
    """A connection for this block alone. Raises StoreError; bound it from outside."""
    reader = Reader(conninfo)
    try:
        async with reader.connection() as connection:
            yield connection
    finally:
        reader.close()
