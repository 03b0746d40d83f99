"""Fixtures of the gateway tests."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from tests.gateways.socket_support import CLOCK_RATE


@pytest.fixture
def fast_clock() -> MockClock:
    """Trio's clock, ten times as fast, for what nobody should wait for in a test."""
    return MockClock(rate=CLOCK_RATE)
