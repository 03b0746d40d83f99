"""A time budget for each fuzz test: `./scripts/test --long --fuzz-minutes 10 tests/fuzz`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 500
"""Examples between two looks at the clock."""


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Callable[[Callable[[], None]], None]:
    """Runs a hypothesis property on new examples until its time is up; prints how many."""
    minutes = request.config.getoption("--fuzz-minutes")

    def run(check: Callable[[], None]) -> None:
        until = time.monotonic() + minutes * 60
        check_batch = settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )(check)
        examples = 0
        while time.monotonic() < until:
            check_batch()
            examples += BATCH
        print(f"{examples} examples in {minutes:g} minutes")

    return run
