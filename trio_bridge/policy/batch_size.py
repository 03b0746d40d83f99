"""How many rows go into one transaction: as many as work."""

from __future__ import annotations

LARGEST_BATCH = 1_000
"""More brings no more rows a second (measured), only longer transactions."""


class BatchSize:
    """Halves when a batch is refused or takes too long, doubles when one is taken.

    Halving is the search for a row that the database will never take: when a batch of one is
    refused, that row is found. One among 1,000 costs about 20 statements, a thousand in a row two
    statements each. The same rule finds the size that a slow line can carry before the deadline.
    """

    def __init__(self, largest: int = LARGEST_BATCH) -> None:
        self._largest = largest
        self.rows = largest

    def taken(self) -> None:
        self.rows = min(self._largest, self.rows * 2)

    def refused(self, size: int) -> bool:
        """A batch of `size` rows was refused; True when that leaves no other row to blame."""
        if size == 1:
            return True
        self.rows = size // 2
        return False
