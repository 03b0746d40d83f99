"""One Chromium for all tests of the page; says so where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.web.browser import CHROMIUM, DRIVER, MISSING, Browser

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_report_header() -> str:
    return f"chromium: {CHROMIUM}" if CHROMIUM and DRIVER else f"page tests skipped: {MISSING}"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not (CHROMIUM and DRIVER):
        pytest.skip(MISSING)
    made = Browser()
    yield made
    made.quit()
