"""Fixtures of the gateway tests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from tests.support.patient_clock import PatientClock
from trio_bridge.gateways import sleep
from trio_bridge.policy import clocks

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> PatientClock:
    """Trio's clock, much faster, for what nobody should wait for in a test. The network is real;
    bridge and simulator keep their pacing and patience by the same clock."""
    # The two move apart: that must pass neither for a sleep nor for a clock that was set.
    monkeypatch.setattr(sleep, "SHORTEST_SLEEP_S", math.inf)
    monkeypatch.setattr(clocks, "SMALLEST_STEP_S", math.inf)
    return PatientClock()


@pytest.fixture(autouse=True)
def asyncio_has_nothing_to_say(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """It speaks up about futures that nobody looked at and callbacks that failed."""
    yield
    assert [record for record in caplog.records if record.name in ("asyncio", "trio-asyncio")] == []
