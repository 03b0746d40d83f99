"""What became of records that were to be committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from trio_bridge.errors import OutageError
    from trio_bridge.stores.record import Rejected


class Outcome(NamedTuple):
    """The result of `commit`: the first `done` records are committed or rejected.

    `outage` is why the others are not; the database may have taken some of them all the same.
    """

    done: int
    rejected: list[Rejected]
    outage: OutageError | None

    def raise_outage(self) -> None:
        if self.outage is not None:
            raise self.outage
