"""One Chromium for all tests of the page, which run first; says so where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.web.browser import CHROMIUM, DRIVER, MISSING, Browser
from tests.web.support import Watched, in_background, watched_service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.postgres import PostgresServer


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


@pytest.fixture
async def here(tmp_path: Path, own_postgres: PostgresServer) -> AsyncIterator[Watched]:
    async with watched_service(
        tmp_path, own_postgres.url, BRIDGE_POLL_INTERVAL=0.5, BRIDGE_FLUSH_INTERVAL=1
    ) as running:
        await running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[str]:
    """The page's address of a service that nothing happens to."""
    name = postgres.new_database()
    home, database = tmp_path_factory.mktemp("calm"), postgres.conninfo_of(name)
    with in_background(home, database, BRIDGE_POLL_INTERVAL=0.5) as url:
        yield url
    postgres.drop_database(name)
