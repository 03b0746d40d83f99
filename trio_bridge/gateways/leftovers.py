"""What an attempt to connect leaves behind."""

from __future__ import annotations

import gc


class Leftovers:
    """Tickers, handlers and tracebacks of a connection refer to each other in circles.

    They go when the next connection begins, when no row can be due; left to the collector's own
    judgement a hundred connections of them gather first (measured: 10 MB, which the process then
    keeps).
    """

    def __init__(self) -> None:
        self._are_there = False

    def clear_away(self) -> None:
        """To be called by each attempt, when it has let go of the one before."""
        if self._are_there:
            gc.collect()
        self._are_there = True
