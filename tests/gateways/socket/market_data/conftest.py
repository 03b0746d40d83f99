"""Fixtures of the market data tests."""

from __future__ import annotations

import math

import pytest

from tests.support.patient_clock import PatientClock
from trio_bridge.gateways import sleep


@pytest.fixture
def faster_clock(monkeypatch: pytest.MonkeyPatch) -> PatientClock:
    """As `fast_clock`, for tests of many minutes."""
    monkeypatch.setattr(sleep, "SHORTEST_SLEEP_S", math.inf)
    return PatientClock(rate=500.0)
