"""How many rows go into one transaction: as many as the database takes."""

from __future__ import annotations

LARGEST_BATCH = 1_000
"""Larger batches are not faster (measured), only longer transactions."""


class BatchSize:
    """Grows while batches are taken, shrinks when one is refused or fails.

    A batch may fail because of its size: the line is slow, the server cancels long statements or is
    short of memory. After such a failure the size grows again in small steps, so that most batches
    are small enough.

    A refused batch contains a row that the database will never take. The next batches halve the
    suspect rows until a batch of one is refused. One bad row among 1,000 costs about 20 statements;
    a thousand bad rows in a row cost two statements each. The caller continues after a taken batch,
    and at the beginning of a refused one.
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
        """A batch of `size` rows was committed."""
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
        """A batch of `size` rows was refused; returns whether that is the bad row itself."""
        self._suspect = 0
        if size == 1:
            return True
        self._suspect = size
        self.rows = size // 2
        return False

    def failed(self, size: int) -> None:
        """A batch of `size` rows failed, perhaps because of its size."""
        self._suspect = 0
        if size <= self._works:
            self._works //= 2  # this size has worked: blame it only after a few failures
        else:
            self.rows = self._limit = max(1, size // 2)
