"""What delivery needs from a database; the fake has the same methods."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_bridge.stores.record import Record


class Server(NamedTuple):
    """Which server answers, and of which data: a standby that is promoted, and a server that is
    started again, are new ones with the same data.

    Attributes:
        started: when it did, as a text that is only compared.
        data: its cluster's number and the database's name.
    """

    started: str
    data: str


class Presence(Enum):
    """Whether a record is in the database.

    ANOTHERS: the row for its slot is there, but by another recorder, or by one that is not told.
    After a failover it may be that recorder's second try, and tells nothing about what we had
    stored next to it.
    """

    MISSING = auto()
    OURS = auto()
    ANOTHERS = auto()


class Store(Protocol):
    """A database that stores each record once; `event_id` identifies it."""

    async def write(self, records: Sequence[Record], *, to: Server | None = None) -> int:
        """Commit all records in one transaction, in order; return how many were new (Citus also
        counts those that were already there). `to`: only if this server takes them, whatever stands
        between it and us.

        The caller sets a time limit with a cancel scope. A cancelled write drops the connection at
        once and has an unknown outcome; writing the same records again is harmless.

        Raises:
            OutageError: the database can't take them now; the outcome may be unknown.
            UnclearError: as an outage, but it may be one of the records that is refused.
            RowRejectedError: at least one record will never be taken; none was written.
            SchemaMissingError: a table or column is missing; none was written.
            ServerChangedError: another server answers; none was written.
        """
        ...

    async def server(self) -> Server | None:
        """Which one answers now; None where it does not tell.

        Raises:
            OutageError: none does.
        """
        ...

    async def find(self, records: Sequence[Record]) -> list[Presence]:
        """Whether each of these records is there.

        Raises: as `write`.
        """
        ...

    async def try_out(self, record: Record) -> bool:
        """Whether the database would take this record now, which is new; it is rolled back.

        Raises: as `write`.
        """
        ...

    async def ensure_schema(self) -> None:
        """Make or complete the tables (`stores.database.schema.ensure_bridge_schema`).

        Raises:
            OutageError: the database can't do it now.
        """
        ...

    async def aclose(self) -> None:
        """Close the connection, if there is one, without waiting for the server."""
        ...
