"""One Chromium for all tests of the page, which run first; says so where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.web.browser import CHROMIUM, DRIVER, MISSING, Browser

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The page's tests share a browser, so one worker has them all: it had better begin early."""
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)


def pytest_report_header() -> str:
    return f"chromium: {CHROMIUM}" if CHROMIUM and DRIVER else f"page tests skipped: {MISSING}"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not (CHROMIUM and DRIVER):
        pytest.skip(MISSING)
    made = Browser()
    yield made
    made.quit()
