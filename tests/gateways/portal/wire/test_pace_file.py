"""All processes of one user keep one pace towards a gateway, and none can block another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from tests.gateways.portal.support import QUICK, make_settings
from tests.gateways.portal.wire.test_pacing import most_within
from tests.support.command import run_process
from tests.support.heard import of
from tests.support.process import PATIENCE_S, running_service
from trio_bridge.events.portal import PaceUnshared
from trio_bridge.gateways.portal.bridge import PortalBridge
from trio_bridge.gateways.portal.wire.pace_file import PaceFile, pace_file_of
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.portal.server import open_portal_simulator

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.patient_clock import PatientClock
    from trio_bridge.events.event import Event


async def test_four_checks_beside_a_service_stay_within_the_limit(
    tmp_path: Path, fresh_database: str
) -> None:
    """Each in a home of its own, so that none finds the service by its spool."""
    homes = [tmp_path / str(number) for number in range(5)]
    for home in homes:
        home.mkdir()
    async with open_portal_simulator(make_book(accounts=2)) as portal:
        settings: dict[str, object] = {
            "IB_API_MODE": "portal",
            "IBKR_GATEWAY_URL": portal.url,
            "DATABASE_URL": fresh_database,
        }
        async with running_service(homes[0], **settings) as service:
            await service.wait_for_output("connected to")
            verdicts: list[str] = []

            async def check(home: Path) -> None:
                done = await run_process(home, "check", "--json", **settings)
                found = {one["name"]: one for one in done.json["findings"]}
                verdicts.append(found["gateway"]["verdict"])

            async with trio.open_nursery() as nursery:
                for home in homes[1:]:
                    nursery.start_soon(check, home)
            assert "penalty" not in service.output
        arrivals = [one.at for one in portal.rules.requests]
    assert verdicts == ["ok"] * 4
    assert most_within(arrivals, 1.0) <= 10


PROGRAM = """
import sys, trio
from pathlib import Path
from trio_bridge.gateways.portal.wire.pace_file import PaceFile

async def main():
    pace = PaceFile(Path(sys.argv[1]), 8, 1.01, say=print)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            async with pace.turn():
                print("turn", flush=True)
                if len(sys.argv) > 2:
                    nursery.start_soon(trio.sleep_forever)
        if len(sys.argv) > 2:
            async with pace.turn():
                await trio.sleep_forever()

trio.run(main)
"""


async def test_a_process_that_was_killed_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "pace"
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", PROGRAM, str(path), "and stay"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with trio.fail_after(PATIENCE_S):
        told = b""
        while told.count(b"turn") < 8:
            told += await process.stdout.receive_some()
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
        pace = PaceFile(path, 8, 1.01, say=pytest.fail)
        began = trio.current_time()
        for _ in range(8):
            async with pace.turn():
                pass
    assert trio.current_time() - began < 30


class Ticking:
    """A clock that each look moves on a little."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def __call__(self) -> float:
        self.time += 1e-6
        return self.time


async def test_what_another_start_of_the_machine_has_left_counts_for_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "pace"
    path.write_bytes(b"\x00\x00\x00\x00\x00\x88\xc3\x40" * 8 + b"torn")  # 10,000 s
    pace = PaceFile(path, 8, 1.01, say=pytest.fail, now=Ticking())
    with trio.fail_after(PATIENCE_S):
        async with pace.turn():
            pass


async def test_a_request_counts_from_before_it_is_sent_until_a_period_after_its_end(
    tmp_path: Path,
) -> None:
    clock = Ticking()
    pace = PaceFile(tmp_path / "pace", 2, 1.01, say=pytest.fail, now=clock)

    def has_room() -> bool:
        return (pace._change(lambda counting: float(len(counting))) or 0.0) < 2

    async with pace.turn():
        async with pace.turn():
            assert not has_room()
            clock.time += 0.9
        assert not has_room()
        clock.time += 0.2
        assert has_room(), "the outer one was sent 1.1 s ago"
    assert not has_room()
    clock.time += 1.02
    assert has_room()


async def test_a_file_that_cannot_be_used_stops_nobody_and_is_said_once(
    tmp_path: Path, fast_clock: PatientClock
) -> None:
    events: list[Event] = []
    async with open_portal_simulator(make_book(options=1)) as sim:
        settings, missing = make_settings(sim.url), tmp_path / "nowhere" / "pace"
        async with PortalBridge(
            settings, emit=events.append, timing=QUICK, pace_file=missing
        ) as bridge:
            await bridge.connect()
            await bridge.disconnect()
    (event,) = of(events, PaceUnshared)
    assert str(missing) in event.reason


async def test_nobody_follows_a_link_that_somebody_has_laid(tmp_path: Path) -> None:
    target, path, said = tmp_path / "target", tmp_path / "pace", list[str]()
    target.write_text("mine")
    path.symlink_to(target)
    async with PaceFile(path, 8, 1.01, say=said.append).turn():
        pass
    assert target.read_text() == "mine"
    assert len(said) == 1


def test_all_names_of_this_machine_mean_the_same_gateway() -> None:
    urls = ("https://localhost:5000", "https://127.0.0.1:5000", "https://[::1]:5000")
    assert len({pace_file_of(url) for url in urls}) == 1
    others = ("https://localhost:5001", "https://192.0.2.1:5000")
    assert len({pace_file_of(url) for url in (*urls, *others)}) == 3
