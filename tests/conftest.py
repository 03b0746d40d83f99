"""Registers `--trio`, without which the suite refuses to run, and the shared fixtures."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

import hypothesis
import pytest
import structlog

import trio_bridge.asyncio_compat  # noqa: F401  # it must come before psycopg
from tests.support.postgres import PostgresFactory, PostgresServer
from tests.support.wire_watch import WireWatch, ledger_faults
from trio_bridge.simulator.tws.state import LEDGER_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


SLOWEST_FIRST = ("faults", "test_service.py", "commands", "web", "gateways", "stores")
"""Folders and files whose tests wait for real processes, slowest first."""


# How fast an example runs says how busy the machine is, and nothing else.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


class TrioMode:
    """Runs every async test and fixture on Trio (pytest-trio has no command-line option for it)."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        from pytest_trio.plugin import automark

        automark(items)

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: object, request: object) -> object:
        from pytest_trio.plugin import handle_fixture

        return handle_fixture(fixturedef, request, force_trio_mode=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("trio_bridge")
    group.addoption("--trio", action="store_true", help="run the async tests on Trio (required)")
    group.addoption("--long", action="store_true", help="also run the tests that take minutes")
    group.addoption(
        "--fuzz-minutes", type=float, default=0.5, help="for each test in tests/fuzz (0.5)"
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--trio"):
        raise pytest.UsageError("--trio is missing: run `pytest --trio` (or ./scripts/test)")
    config.pluginmanager.register(TrioMode())
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in a shell's background, where Ctrl-C is ignored, also by every child process.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # started with nohup: the same
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        # Several processes share the tests: slow tests first, so that all processes end together.
        items.sort(key=_by_slowness)
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="takes minutes: ./scripts/test --long")
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(skip)


def _by_slowness(item: pytest.Item) -> int:
    parts = item.path.relative_to(item.config.rootpath).parts
    return next((n for n, name in enumerate(SLOWEST_FIRST) if name in parts), len(SLOWEST_FIRST))


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo the logging setup that commands and demos make process-wide: other tests check logs."""
    levels = {
        logger: logger.level
        for logger in logging.root.manager.loggerDict.values()
        if isinstance(logger, logging.Logger)
    }
    yield
    structlog.reset_defaults()
    for logger, level in levels.items():
        logger.setLevel(level)


@pytest.fixture(scope="session")
def simulator_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file where simulators in other processes record what no bridge may do."""
    ledger = tmp_path_factory.mktemp("tws") / "violations.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LEDGER_VARIABLE, str(ledger))
        yield ledger


@pytest.fixture(autouse=True)
def wire_watch(simulator_ledger: Path) -> Iterator[WireWatch]:
    """Fails every test in which a bridge sends what it must never send to a gateway."""
    watch = WireWatch()
    with pytest.MonkeyPatch.context() as patch:
        watch.install(patch)
        yield watch
    assert [*watch.faults(), *ledger_faults(simulator_ledger)] == []


@pytest.fixture(scope="session")
def postgres_factory() -> Iterator[PostgresFactory]:
    """Creates more servers (0.2 s each); all end with the session."""
    factory = PostgresFactory()
    yield factory
    factory.close()


@pytest.fixture(scope="session")
def postgres(postgres_factory: PostgresFactory) -> PostgresServer:
    """One running server for all tests: don't stop or break it."""
    return postgres_factory.new()


@pytest.fixture
def own_postgres(postgres_factory: PostgresFactory) -> Iterator[PostgresServer]:
    """A running server for this test alone, which may break it."""
    server = postgres_factory.new()
    yield server
    server.close()


@pytest.fixture
def fresh_database(postgres: PostgresServer) -> Iterator[str]:
    """The conninfo of a new, empty database on the shared server."""
    name = postgres.new_database()
    yield postgres.conninfo_of(name)
    postgres.drop_database(name)
