"""How many rows go into one transaction: as many as work."""

from __future__ import annotations

LARGEST_BATCH = 1_000
"""More brings no more rows a second (measured), only longer transactions."""


class BatchSize:
    """Grows while batches are taken, shrinks when one is refused or fails.

    A batch may fail for its size: the line is slow, the server ends long statements or is short of
    memory. After a failure it grows again step by step, so that most batches are small enough.

    A refused batch has a row among its own that the database will never take: the next batches
    halve what is still suspect, until a batch of one is refused. One such row among 1,000 costs
    about 20 statements, a thousand in a row two statements each. The caller goes on where it was:
    behind what was taken, at the beginning of what was refused.
    """

    def __init__(self) -> None:
        self.rows = LARGEST_BATCH
        """The size of the next batch."""
        self._limit = LARGEST_BATCH
        """Upper bound for the next batch; each failure lowers it."""
        self._works = 0
        """The largest batch that was taken."""
        self._suspect = 0
        """At least one of this many next rows is known to be bad."""

    def taken(self, size: int) -> None:
        """A batch of `size` rows is in."""
        self._works = max(self._works, size)
        if self._suspect > size:
            self._suspect -= size
            self.rows = max(1, self._suspect // 2)
        else:
            self._suspect = 0
            if size >= self._limit:
                self._limit = min(LARGEST_BATCH, self._limit + max(1, self._limit // 8))
            self.rows = min(self._limit, self.rows * 2)

    def refused(self, size: int) -> bool:
        """A batch of `size` rows was refused; True when there is no other row to blame."""
        self._suspect = 0
        if size == 1:
            return True
        self._suspect = size
        self.rows = size // 2
        return False

    def failed(self, size: int) -> None:
        """A batch of `size` rows was not taken, for a reason that may be its size."""
        self._suspect = 0
        if size <= self._works:
            self._works //= 2  # it was not the size, the first few times
        else:
            self.rows = self._limit = max(1, size // 2)
