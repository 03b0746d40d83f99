"""Fixtures of the gateway tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from trio.testing import MockClock

from tests.gateways.socket_support import CLOCK_RATE

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def fast_clock() -> MockClock:
    """Trio's clock, ten times as fast, for what nobody should wait for in a test."""
    return MockClock(rate=CLOCK_RATE)


@pytest.fixture(autouse=True)
def asyncio_has_nothing_to_say(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """It speaks up about futures that nobody looked at and callbacks that failed."""
    yield
    assert [record for record in caplog.records if record.name in ("asyncio", "trio-asyncio")] == []
