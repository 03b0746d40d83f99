"""The service manager hears that we are ready, alive, and ending; nobody else is bothered."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from trio_bridge.tasks.notify import Notifier, keep_informed
from trio_bridge.tasks.ticker import TickerStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock


class Manager:
    """systemd's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[dict[str, str]]:
        """What has come since the last time."""
        messages: list[dict[str, str]] = []
        while True:
            try:
                text = self.socket.recv(4096).decode()
            except BlockingIOError:
                return messages
            messages.append(dict(line.split("=", 1) for line in text.splitlines()))


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    place = f"@trio_bridge-test-{os.getpid()}" if request.param == "abstract" else "notify"
    manager = Manager(place if place.startswith("@") else str(tmp_path / place))
    yield manager
    manager.socket.close()


def test_speaks_the_protocol_and_leaves_nothing_to_children(manager: Manager) -> None:
    environment = {
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/bin",
    }
    notifier = Notifier.from_environment(environment)
    assert environment == {"PATH": "/bin"}
    assert notifier.watchdog_s == 30.0
    notifier.tell(READY=1, STATUS="two\nlines")
    notifier.close()
    assert manager.heard() == [{"READY": "1", "STATUS": "two lines"}]


@pytest.mark.parametrize(
    "environment",
    [{"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {}],
)
def test_a_watchdog_that_is_not_ours_is_not_fed(environment: dict[str, str]) -> None:
    assert Notifier.from_environment(environment).watchdog_s is None


def test_without_a_manager_or_with_a_dead_one_nothing_happens(tmp_path: Path) -> None:
    for notifier in (Notifier(), Notifier(str(tmp_path / "nobody"))):
        notifier.tell(READY=1)
        notifier.close()


def test_a_full_queue_does_not_hold_anything_up(manager: Manager) -> None:
    notifier = Notifier(manager.address)
    for _ in range(10_000):
        notifier.tell(WATCHDOG=1)
    notifier.close()


async def test_a_living_ticker_feeds_the_watchdog_and_a_dead_one_starves_it(
    manager: Manager, autojump_clock: MockClock
) -> None:
    ticker, stopping = TickerStatus(), trio.Event()
    notifier = Notifier(manager.address, watchdog_s=60.0)
    inform = partial(
        keep_informed, notifier, ticker, interval_s=5.0, describe=lambda: "well", stopping=stopping
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inform)
        for _ in range(60):
            await trio.sleep(5)
            ticker.last_slot_s = trio.current_time()
        first, *others = manager.heard()
        assert first == {"READY": "1", "STATUS": "well"}
        assert others.count({"STATUS": "well", "WATCHDOG": "1"}) >= 300 / 30
        await trio.sleep(60)
        manager.heard()
        await trio.sleep(600)
        assert manager.heard() == []
        ticker.last_slot_s = trio.current_time()
        await trio.sleep(20)
        assert manager.heard()[0]["WATCHDOG"] == "1"
        stopping.set()
    assert manager.heard()[-1]["STOPPING"] == "1"
    notifier.close()


async def test_a_slow_grid_is_not_taken_for_death(
    manager: Manager, autojump_clock: MockClock
) -> None:
    ticker, stopping = TickerStatus(), trio.Event()
    notifier = Notifier(manager.address, watchdog_s=60.0)
    inform = partial(
        keep_informed, notifier, ticker, interval_s=3600.0, describe=str, stopping=stopping
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inform)
        manager.heard()
        for _ in range(100):
            await trio.sleep(60)
            assert manager.heard()
            ticker.last_slot_s = 0.0 if trio.current_time() < 3600 else 3600.0
        stopping.set()
    notifier.close()
