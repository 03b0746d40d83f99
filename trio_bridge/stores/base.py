"""What the tasks need of a database, so that a fake can stand in for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_bridge.stores.record import Record


class Store(Protocol):
    """A database that takes records exactly once, told apart by their `event_id`."""

    async def write(self, records: Sequence[Record]) -> int:
        """Commit all records in one transaction, in order; return how many were new (Citus
        counts the ones that were there already as well).

        The caller bounds it with a cancel scope. Cancelled or timed out, the outcome is unknown
        and the connection is dropped at once; writing the same records again is harmless.

        Raises:
            OutageError: not now; the outcome may be unknown.
            RowRejectedError: at least one of the records will never be taken; none was written.
            SchemaMissingError: a table or column is missing; none was written.
        """
        ...

    async def ensure_schema(self) -> None:
        """Make or complete the tables (`stores.database.schema.ensure_bridge_schema`).

        Raises:
            OutageError: not now.
        """
        ...

    async def aclose(self) -> None:
        """Close the connection, if there is one; never waits for the server."""
        ...
