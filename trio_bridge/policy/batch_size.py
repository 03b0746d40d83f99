"""How many rows go into one transaction: as many as work."""

from __future__ import annotations

LARGEST_BATCH = 1_000
"""More brings no more rows a second (measured), only longer transactions."""


class BatchSize:
    """Grows while batches are taken, shrinks when one is refused or takes too long.

    A refused batch has a row among its own that the database will never take: the next batches
    halve what is still suspect, until a batch of one is refused. One such row among 1,000 costs
    about 20 statements, a thousand in a row two statements each. The caller goes on where it was:
    behind what was taken, at the beginning of what was refused.
    """

    def __init__(self, largest: int = LARGEST_BATCH) -> None:
        self._largest = largest
        self._suspect = 0
        """So many of the next rows are known to have a bad one among them."""
        self.rows = largest
        """How many to try next."""

    def taken(self, size: int) -> None:
        """A batch of `size` rows is in."""
        if self._suspect > size:
            self._suspect -= size
            self.rows = max(1, self._suspect // 2)
        else:
            self._suspect = 0
            self.rows = min(self._largest, self.rows * 2)

    def refused(self, size: int) -> bool:
        """A batch of `size` rows was refused; True when there is no other row to blame."""
        self._suspect = 0
        if size == 1:
            return True
        self._suspect = size
        self.rows = size // 2
        return False

    def too_slow(self, size: int) -> None:
        """A batch of `size` rows was not answered in time: perhaps the line is slow."""
        self._suspect = 0
        self.rows = max(1, size // 2)
