"""A book held still, and the row that must be recorded for it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support.database import fetch
from tests.support.process import PATIENCE_S

if TYPE_CHECKING:
    from trio_bridge.simulator.book import Book
    from trio_bridge.simulator.tws.server import TwsSimulator


def assert_true_row(book: Book, conninfo: str) -> None:
    """The last row equals the sum computed independently from the (still) book."""
    row = fetch(
        conninfo,
        "SELECT delta, gamma, vega, theta, positions, priced, greeks_age_s, data_type, account"
        " FROM portfolio_greeks ORDER BY id DESC LIMIT 1",
    )[0]
    net = book.net_greeks()
    assert row[:4] == pytest.approx((net.delta, net.gamma, net.vega, net.theta), rel=1e-9)
    assert row[4:6] == (net.positions, net.priced)
    assert row[6:8] == (0.0, "live")
    assert row[8] == ",".join(sorted({holding.account for holding in book.positions()}))


async def hold_still(book: Book, sim: TwsSimulator, conninfo: str) -> None:
    """Hold the book still until a row shows its last ticks."""
    book.freeze()
    sim.tick_now()
    with trio.move_on_after(PATIENCE_S):
        while True:
            with suppress(AssertionError):
                assert_true_row(book, conninfo)
                return
            await trio.sleep(0.1)
    assert_true_row(book, conninfo)  # fails with what is wrong
