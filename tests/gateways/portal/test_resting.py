"""A bridge that stands by keeps its session and its positions, and asks for no quotes; it can
record at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.portal.support import portal_rig, supervised_rig
from trio_bridge.simulator.book import Book, make_book

if TYPE_CHECKING:
    from tests.support.patient_clock import PatientClock

SNAPSHOT = "/iserver/marketdata/snapshot"


@pytest.fixture
def book() -> Book:
    """Held still, so that every row can be judged."""
    book = make_book()
    book.freeze(at=10)
    return book
