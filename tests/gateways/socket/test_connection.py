"""Every way in which a gateway is not there: what is said, what is tried next, what no row says."""

from __future__ import annotations

import asyncio
import socket
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio
from ib_async import IB
from ib_async.client import Client

from tests.gateways.socket.support import (
    CURRENT_TIME,
    INTERVAL_S,
    POSITIONS,
    START,
    Rig,
    options_of,
    socket_rig,
    still_book,
    supervised_rig,
)
from tests.support.heard import because
from trio_bridge.errors import GatewayError
from trio_bridge.events.gateway import ConnectionLost, GatewayAnswers, GatewaySilent, Reconnecting
from trio_bridge.gateways.readiness import Reason
from trio_bridge.gateways.socket import asking
from trio_bridge.gateways.socket import connection as socket_session
from trio_bridge.gateways.socket.connection import HANDSHAKE_TIMEOUT_S, POSITIONS_TIMEOUT_S
from trio_bridge.gateways.socket.heartbeat import PROBE_TIMEOUT_S
from trio_bridge.simulator.book import make_book

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.patient_clock import PatientClock

LATE_S = 5.0
"""How late a busy machine may be, on the fast clock."""


async def refusal_of(rig: Rig) -> str:
    with pytest.raises(GatewayError) as refusal:
        await rig.bridge.connect()
    assert not rig.bridge.is_connected()
    assert rig.blocked() is Reason.NOT_CONNECTED
    return str(refusal.value)


async def dead_time(rig: Rig, *, least_s: float = 2.0) -> None:
    """The gateway is away: not a single row, for a while."""
    await rig.until(lambda: rig.row() is None)
    began = trio.current_time()
    await trio.sleep(least_s)
    assert rig.rows_between(began) == []


async def rows_again(rig: Rig) -> None:
    """A right row, and the ticker takes it; every row there ever was, was right."""
    await rig.until_right()
    taken = len(rig.rows)
    await rig.until(lambda: len(rig.rows) > taken)
    assert rig.only_true_rows()


# It cannot be reached ---------------------------------------------------------------------------


async def test_a_refused_connection_says_what_to_look_at(fast_clock: PatientClock) -> None:
    async with socket_rig(still_book(options=2), connect=False) as rig:
        rig.sim.stop_listening()
        assert await refusal_of(rig) == (
            f"connection refused by 127.0.0.1:{rig.sim.port}: is TWS or IB Gateway up, its API "
            "port enabled?"
        )
        await rig.sim.start_listening()
        await rig.bridge.connect()
        await rig.until_right()


async def test_the_service_starts_with_the_gateway_down(fast_clock: PatientClock) -> None:
    async with supervised_rig(still_book(options=2)) as rig:
        rig.sim.stop_listening()
        await rig.until(lambda: len(because(rig.events, "connection refused")) >= 3)
        assert rig.rows == []
        await rig.sim.start_listening()
        await rows_again(rig)


async def test_an_unknown_host_is_named(fast_clock: PatientClock) -> None:
    for host in ("gateway.invalid", "..", "a" * 70 + ".invalid"):
        async with socket_rig(still_book(options=2), connect=False, ib_socket_host=host) as rig:
            assert (await refusal_of(rig)).startswith(f"IB_SOCKET_HOST={host}: no such host")


async def test_every_address_of_a_host_is_tried(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway may listen on 127.0.0.1 only, while localhost is ::1 first."""

    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        ]

    async with socket_rig(still_book(options=2), connect=False, ib_socket_host="localhost") as rig:
        monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
        await rig.bridge.connect()
        await rig.until_right()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is not this machine")
@pytest.mark.parametrize("closes", [False, True], ids=["silent", "closing"])
async def test_another_program_on_the_first_address_keeps_nobody_from_the_second(
    closes: bool, fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(b"\0\0")
        if not closes:
            await trio.sleep_forever()

    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
            for address in ("127.0.0.2", "127.0.0.1")
        ]

    async with (
        socket_rig(still_book(options=2), connect=False, ib_socket_host="localhost") as rig,
        trio.open_nursery() as nursery,
    ):
        listeners = await trio.open_tcp_listeners(rig.sim.port, host="127.0.0.2")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
        await rig.bridge.connect()
        await rig.until_right()
        await rig.bridge.disconnect()
        nursery.cancel_scope.cancel()


# It accepts, and then ---------------------------------------------------------------------------


async def test_accepted_then_closed(fast_clock: PatientClock) -> None:
    async with supervised_rig(still_book(options=2)) as rig:
        rig.sim.accept_and_close()
        await rig.until(lambda: len(because(rig.events, "the gateway closed the connection")) >= 3)
        assert rig.rows == []
        rig.sim.accept_normally()
        await rows_again(rig)


async def test_silent_after_accept(fast_clock: PatientClock) -> None:
    async with socket_rig(still_book(options=2), connect=False) as rig:
        rig.sim.accept_silently()
        began = trio.current_time()
        assert await refusal_of(rig) == (
            f"the gateway did not answer within {HANDSHAKE_TIMEOUT_S:g} s"
        )
        assert trio.current_time() - began <= HANDSHAKE_TIMEOUT_S + LATE_S
        rig.sim.accept_normally()
        await rig.bridge.connect()
        await rig.until_right()


async def test_silent_in_the_first_download(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_session, "POSITIONS_TIMEOUT_S", 6.0)
    async with socket_rig(still_book(options=2), connect=False) as rig:
        rig.sim.download_delay_s = 100
        began = trio.current_time()
        assert await refusal_of(rig) == "the positions did not arrive within 6 s"
        assert trio.current_time() - began <= 6.0 + LATE_S


async def test_a_download_that_takes_long_is_waited_for_while_it_goes_on(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=40)
    async with socket_rig(book, connect=False) as rig:
        rig.sim.download_delay_s = 2.0
        await rig.bridge.connect()
        await rig.until_right()


async def test_a_download_without_an_end_is_given_up(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "LONGEST_ANSWER_S", 40.0)
    async with socket_rig(still_book(options=40), connect=False) as rig:
        rig.sim.download_delay_s = 2.0
        began = trio.current_time()
        assert (await refusal_of(rig)).startswith("the positions did not arrive")
        assert 40 <= trio.current_time() - began <= 50


async def test_closed_in_the_first_download(fast_clock: PatientClock) -> None:
    async with supervised_rig(still_book()) as rig:
        rig.sim.break_next_download()
        await rows_again(rig)
        assert len(rig.sim.received(POSITIONS)) == 2
        assert rig.events[0] == Reconnecting(1, 0.2, "the gateway closed the connection")


@pytest.mark.parametrize("request_name", ["connectAsync", "reqPositionsAsync"])
async def test_an_answer_that_comes_with_the_end_of_the_connection_is_of_no_use(
    request_name: str, fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When we hear of it the connection is gone: that is a loss, and never a bug."""
    owner: Any = Client if request_name == "connectAsync" else IB
    request = getattr(owner, request_name)

    async def answered_and_lost(self: Any, *arguments: Any) -> Any:
        answer = await request(self, *arguments)
        rig.sim.drop_connections()
        while rig.bridge._connection is None or not rig.bridge._connection.ending:
            await asyncio.sleep(0.01)
        return answer

    async with socket_rig(still_book(options=2), connect=False) as rig:
        with monkeypatch.context() as patch:
            patch.setattr(owner, request_name, answered_and_lost)
            assert await refusal_of(rig) == "the gateway closed the connection"
        await rig.bridge.connect()
        await rig.until_right()


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
async def test_dropped_in_mid_session(reset: bool, fast_clock: PatientClock) -> None:
    book = still_book(options=6)
    async with supervised_rig(book) as rig:
        await rows_again(rig)
        rig.sim.stop_listening()
        rig.sim.drop_connections(reset=reset)
        await dead_time(rig)
        book.advance(60)
        rig.rows.clear()
        await rig.sim.start_listening()
        await rows_again(rig)
        (event,) = rig.told(ConnectionLost)
        assert event.reason.startswith("the gateway closed the connection")


async def test_a_client_id_in_use_is_said_at_once_with_the_remedy(fast_clock: PatientClock) -> None:
    async with supervised_rig(still_book(options=2)) as rig:
        rig.sim.occupy_client_id(10)
        began = trio.current_time()
        await rig.until_because("326")
        assert trio.current_time() - began <= HANDSHAKE_TIMEOUT_S / 2
        (event,) = rig.told(Reconnecting)
        assert (event.attempt, event.delay_s) == (1, 0.2)
        assert "client id 10" in event.reason
        assert "IB_CLIENT_ID" in event.reason
        rig.sim.free_client_id(10)
        await rows_again(rig)


async def test_a_moved_port_ends_the_connection(fast_clock: PatientClock) -> None:
    async with supervised_rig(still_book(options=2)) as rig:
        await rows_again(rig)
        rig.sim.move_port(4005)
        await rig.until_because("(1300: ")
        assert "4005" in because(rig.events, "(1300: ")[0].message
        await rows_again(rig)
        assert len(rig.sim.received(START)) == 2


@pytest.mark.parametrize("code", [502, 504])
async def test_a_gateway_that_calls_us_unconnected_is_left(
    code: int, fast_clock: PatientClock
) -> None:
    async with supervised_rig(still_book(options=2)) as rig:
        await rows_again(rig)
        rig.sim.notify(code, "Not connected")
        await rig.until_because(f"({code}: Not connected)")
        await rows_again(rig)
        assert len(rig.sim.received(START)) == 2


async def test_a_login_whose_positions_are_refused_is_told_a_remedy(
    fast_clock: PatientClock,
) -> None:
    book = make_book(options=2)
    async with supervised_rig(book) as rig:
        rig.sim.positions_refused = True
        began = trio.current_time()
        await rig.until_because("sub-accounts")
        assert trio.current_time() - began <= POSITIONS_TIMEOUT_S / 2, "at once"
        event = rig.told(Reconnecting)[0]
        assert "(321: " in event.reason
        assert "log in as one of the accounts" in event.reason
        assert rig.rows == []


@pytest.mark.parametrize("version", [100, 152, 156])
async def test_a_gateway_that_is_too_old_is_named_at_once(
    version: int, fast_clock: PatientClock
) -> None:
    async with socket_rig(
        make_book(options=2), connect=False, simulator={"server_version": version}
    ) as rig:
        began = trio.current_time()
        assert await refusal_of(rig) == (
            f"the gateway speaks API version {version}; at least 157 is needed: "
            "update TWS or IB Gateway"
        )
        assert trio.current_time() - began < 1.0


# It stands, and says nothing --------------------------------------------------------------------


async def test_half_open_in_mid_session(fast_clock: PatientClock) -> None:
    """The socket looks well, nothing comes: no row from the first missed probe, lost at the
    second, right again after it wakes up."""
    book = still_book(options=6)
    heartbeat_s = 2.0
    async with supervised_rig(book, heartbeat_s=heartbeat_s) as rig:
        await rows_again(rig)
        rig.sim.hang()
        hung_at = trio.current_time()
        await rig.until_told(GatewaySilent)
        missed_at = trio.current_time()
        assert missed_at - hung_at <= heartbeat_s + PROBE_TIMEOUT_S + LATE_S
        assert rig.blocked() is Reason.PROBE_MISSED
        assert rig.bridge.is_connected()
        await rig.until_told(ConnectionLost)
        assert trio.current_time() - hung_at <= 2 * (heartbeat_s + PROBE_TIMEOUT_S) + LATE_S
        await rig.until(lambda: not rig.bridge.is_connected())
        book.advance(60)
        assert rig.rows_between(missed_at + INTERVAL_S) == []
        rig.rows.clear()
        rig.sim.unhang()
        await rows_again(rig)
        assert rig.told(ConnectionLost) == [
            ConnectionLost(
                f"127.0.0.1:{rig.sim.port}",
                "2 probes in a row went unanswered "
                f"(no answer to a probe within {PROBE_TIMEOUT_S:g} s)",
            )
        ]


async def test_one_missed_probe_is_forgiven(fast_clock: PatientClock) -> None:
    book = still_book(options=6)
    async with supervised_rig(book, heartbeat_s=2.0) as rig:
        await rows_again(rig)
        rig.sim.hang()
        await rig.until_told(GatewaySilent)
        rig.sim.unhang()
        await rig.until_told(GatewayAnswers)
        await rows_again(rig)
    assert len(rig.sim.received(START)) == 1


async def test_a_gateway_that_ticks_but_answers_no_probe_is_given_up(
    fast_clock: PatientClock,
) -> None:
    async with supervised_rig(still_book(options=6)) as rig:
        await rows_again(rig)
        rig.sim.answers_current_time = False
        await rig.until_because("2 probes in a row")
        rig.sim.answers_current_time = True
        await rows_again(rig)


async def test_probes_are_never_closer_than_a_second(fast_clock: PatientClock) -> None:
    """The real gateway may let the second of two in a second hang; so does the simulated one."""
    async with supervised_rig(still_book(options=2), heartbeat_s=1.0) as rig:
        await rows_again(rig)
        await rig.until_received(CURRENT_TIME, 12)
        times = [one.at for one in rig.sim.received(CURRENT_TIME)]
        assert min(later - earlier for earlier, later in pairwise(times)) > 0.9
        assert rig.told(GatewaySilent) == []


async def test_only_one_probe_is_on_its_way(fast_clock: PatientClock) -> None:
    async with socket_rig(still_book(options=2)) as rig:
        rig.sim.hang()
        failures: list[str] = []

        async def probe() -> None:
            with pytest.raises(GatewayError) as failure:
                await rig.bridge.probe()
            failures.append(str(failure.value))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(probe)
        assert sorted(failures) == [
            f"no answer to a probe within {PROBE_TIMEOUT_S:g} s",
            *["the last probe is still under way"] * 3,
        ]
        rig.sim.unhang()
        await rig.until_received(CURRENT_TIME)
        await rig.bridge.disconnect()
        with pytest.raises(GatewayError, match="not connected"):
            await rig.bridge.probe()


async def test_a_late_answer_is_a_sign_of_life_for_the_next_probe(fast_clock: PatientClock) -> None:
    """Asked again on the heels of it, the gateway might leave the second question unanswered."""
    async with socket_rig(still_book(options=2)) as rig:
        rig.sim.hang()
        with pytest.raises(GatewayError):
            await rig.bridge.probe()
        rig.sim.unhang()
        await rig.until_received(CURRENT_TIME)
        await trio.sleep(1)
        await rig.bridge.probe()
        assert len(rig.sim.received(CURRENT_TIME)) == 1
        await trio.sleep(1)
        await rig.bridge.probe()
        assert len(rig.sim.received(CURRENT_TIME)) == 2, "a sign of life counts once"


# A trail of disasters ---------------------------------------------------------------------------


async def test_after_every_kind_of_fault_in_a_row_the_rows_are_right(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=8, accounts=2)
    account, option = book.accounts[0], options_of(book)[0]
    async with supervised_rig(book, heartbeat_s=1.0) as rig:
        faults: list[Callable[[], object]] = [
            rig.sim.drop_connections,
            lambda: rig.sim.drop_connections(reset=True),
            lambda: (rig.sim.break_next_download(), rig.sim.drop_connections()),  # type: ignore[func-returns-value]
            rig.sim.hang,
            rig.sim.lose_upstream,
            lambda: rig.sim.move_port(4001),
        ]
        for number, fault in enumerate(faults):
            await rows_again(rig)
            fault()
            await rig.until(lambda: not rig.bridge.is_connected() or rig.sim.upstream_lost)
            await rig.until(lambda: rig.row() is None)
            rig.rows.clear()
            book.advance(60)
            book.set_position(account, option.con_id, number + 1)
            rig.sim.unhang()
            if rig.sim.upstream_lost:
                rig.sim.restore_upstream(data_kept=False)
        await rows_again(rig)
