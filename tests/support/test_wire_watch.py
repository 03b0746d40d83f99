"""The check that no bridge ever sends what it must not send can itself fail."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock

from tests.gateways.socket.support import socket_rig, still_book
from tests.simulator.tws.client import RawClient
from tests.support.wire_watch import WireWatch, ledger_faults
from trio_bridge.simulator.tws.codes import FORBIDDEN
from trio_bridge.simulator.tws.state import LEDGER_VARIABLE
from trio_bridge.simulator.tws.wire import message

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def virtual_clock() -> MockClock:
    return MockClock()


def faults_of(*messages: bytes) -> list[str]:
    watch = WireWatch()
    for one in messages:
        watch.sent(1, one)
    return list(watch.faults())


async def test_what_an_observer_may_send_is_not_a_fault() -> None:
    assert (
        faults_of(
            b"API\0\0\0\0\x09v157..178",
            message(71, 2, 10, ""),
            message(59, 1, 2),
            message(61, 1),
            message(1, 11, 5, 700),
            message(2, 2, 5),
            message(9, 8, 6, 700),
            message(49, 1),
            message(62, 1, 8, "All", "NetLiquidation"),
            message(63, 1, 8),
            message(74, 1, 9, "U1", ""),
            message(75, 1, 9),
            message(76, 1, 9, "U1", "", 0),
            message(77, 1, 9),
        )
        == []
    )


@pytest.mark.parametrize("number", [*FORBIDDEN, 6, 7, 64])
async def test_anything_else_is_a_fault(number: int) -> None:
    (fault,) = faults_of(message(number, 1, 0))
    assert f"message {number} " in fault


async def test_the_owners_client_id_is_a_fault() -> None:
    assert faults_of(message(71, 2, 0, "")) == ["client id 0 is the owner's own"]


async def test_so_are_more_than_fifty_messages_in_any_second(virtual_clock: MockClock) -> None:
    watch = WireWatch()
    for _ in range(25):
        watch.sent(1, message(49, 1))
        watch.sent(2, message(49, 1))
    virtual_clock.jump(0.9)
    for _ in range(25):
        watch.sent(1, message(49, 1))
        watch.sent(2, message(49, 1))
    assert list(watch.faults()) == []
    virtual_clock.jump(0.1)
    watch.sent(1, message(49, 1))
    assert list(watch.faults()) == ["51 messages within a second"]


async def test_it_watches_the_bridges_of_every_test(wire_watch: WireWatch) -> None:
    async with socket_rig(still_book(options=0)) as rig:
        assert list(wire_watch.faults()) == []
        rig.bridge._connection.client.ib.client.conn.sendMsg(message(4, 1, 17))  # type: ignore[union-attr]
        await rig.until(lambda: rig.sim.violations)
        (violation,) = rig.sim.acknowledge_violations()
        assert violation.what == "cancelOrder (message 4)"
    (fault,) = wire_watch.faults()
    assert fault.startswith("message 4 ")
    wire_watch.messages.clear()


async def test_a_simulator_in_another_process_reports_through_its_ledger(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.txt"
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "trio_bridge.simulator.tws", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, LEDGER_VARIABLE: str(ledger)},
    )
    assert process.stdout is not None
    try:
        with trio.fail_after(30):
            ready = await process.stdout.receive_some()
            port = int(ready.decode().strip().rpartition(":")[2])
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                client = RawClient(stream)
                await client.shake_hands()
                await client.send(71, 2, 0, "")
                await client.expect_error(321)
            (fault,) = ledger_faults(ledger)
            assert "client id 0" in fault
            assert ledger_faults(ledger) == [], "reported once"
            process.terminate()
            assert await process.wait() == 1
    finally:
        process.kill()
        await process.stdout.aclose()
        await process.wait()


def test_simulators_in_this_process_raise_their_violations_themselves(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.txt"
    ledger.write_text(f"{os.getpid()} client 10: x\n")
    assert ledger_faults(ledger) == []
