"""However and whenever a connection ends, it ends quickly, leaves nothing behind, and the next one
works. What is a bug and what is a lost connection are told apart.

Warnings are errors in this suite: an asyncio future that nobody looked at, a socket that nobody
closed or a coroutine that nobody awaited fails these tests too.
"""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import trio
from ib_async import IB

from tests.gateways.socket.support import (
    CONNECTED_AFTER,
    POSITIONS,
    SUBSCRIBE,
    Rig,
    options_of,
    socket_rig,
    steps,
    still_book,
    supervised_rig,
)
from trio_bridge.errors import GatewayError
from trio_bridge.gateways.accounts import Accounts
from trio_bridge.gateways.socket.bridge import DISCONNECT_TIMEOUT_S
from trio_bridge.gateways.socket.client import GatewayClient
from trio_bridge.gateways.socket.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.patient_clock import PatientClock

PATIENCE_S = 30.0
QUICK_S = 2.0
"""An end that takes longer is not quick. Real time; most take a few milliseconds."""


@pytest.fixture(autouse=True)
def nothing_left_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No connection that lives on."""
    yield
    caplog.get_records("call").clear()  # pytest keeps them, with their tracebacks
    gc.collect()
    assert alive(IB) == []


def alive(kind: type) -> list[object]:
    return [one for one in gc.get_objects() if type(one) is kind]


def session_of(rig: Rig) -> Connection:
    session = rig.bridge._connection
    assert session is not None
    return session


async def end_in_time(rig: Rig) -> None:
    began = trio.current_time()
    await rig.bridge.disconnect()
    assert trio.current_time() - began < QUICK_S
    assert not rig.bridge.is_connected()
    assert rig.bridge.nursery.child_tasks == frozenset()


# Ctrl-C -----------------------------------------------------------------------------------------


async def connects_within(rig: Rig, patience_s: float) -> bool:
    """Cancel an attempt to connect after so long; whether it had been made by then."""
    began = trio.current_time()
    with trio.move_on_after(patience_s) as scope:
        await rig.bridge.connect()
    assert trio.current_time() - began < patience_s + QUICK_S
    return not scope.cancelled_caught


async def end_in_the_middle(rig: Rig, end: str, number: int) -> None:
    """Begin a connection, and let it end in this way after so many steps."""
    scope = trio.CancelScope()

    async def connect() -> None:
        with scope, suppress(GatewayError):
            await rig.bridge.connect()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        await steps(number)
        match end:
            case "cancelled":
                scope.cancel()
            case "disconnected":
                await end_in_time(rig)
            case "closed":
                for session in tuple(rig.sim.sessions):
                    session.finish()
            case "reset":
                rig.sim.drop_connections(reset=True)
            case "hanging":
                rig.sim.hang()
                await steps(3)
                scope.cancel()
    await end_in_time(rig)
    rig.sim.unhang()


def census() -> Counter[str]:
    """What this process holds that a connection may have left behind."""
    gc.collect()
    kinds = (IB, Connection, asyncio.AbstractEventLoop, asyncio.Future, asyncio.BaseTransport)
    found = Counter(type(one).__name__ for one in gc.get_objects() if issubclass(type(one), kinds))
    threads = [one for one in threading.enumerate() if not one.name.startswith("Trio thread")]
    return found + Counter(descriptors=psutil.Process().num_fds(), threads=len(threads))


@pytest.mark.parametrize("end", ["cancelled", "disconnected", "closed", "reset", "hanging"])
async def test_whenever_and_however_an_attempt_ends_nothing_is_left_of_it(
    end: str, fast_clock: PatientClock
) -> None:
    async with socket_rig(still_book(options=6), connect=False) as rig:

        async def once_in_full() -> Counter[str]:
            """What is there after a whole connection."""
            await rig.bridge.connect()
            await rig.until_right()
            await end_in_time(rig)
            await rig.until(lambda: not rig.sim.sessions)
            return census()

        before = await once_in_full()
        for number in range(0, CONNECTED_AFTER, 4):
            await end_in_the_middle(rig, end, number)
        after = await once_in_full()
        # The bridge remembers its last connection, and that more or less of the library's objects.
        assert {name: count for name, count in after.items() if count > before[name] + 1} == {}
        assert after["descriptors"] == before["descriptors"]


@pytest.mark.parametrize("stage", ["silent", "hanging", "downloading"])
async def test_whatever_the_attempt_waits_for_cancelling_it_is_quick(stage: str) -> None:
    async with socket_rig(still_book(options=6), connect=False) as rig:
        if stage == "silent":
            rig.sim.accept_silently()
        elif stage == "hanging":
            rig.sim.hang()
        else:
            rig.sim.download_delay_s = 100.0
        assert not await connects_within(rig, 0.1)
        await end_in_time(rig)
        rig.sim.accept_normally()
        rig.sim.unhang()
        rig.sim.download_delay_s = 0.0
        await rig.bridge.connect()
        await rig.until_right()


async def test_a_name_server_that_does_not_answer_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    async with socket_rig(still_book(options=0), connect=False, ib_socket_host="gateway") as rig:
        monkeypatch.setattr(trio.socket, "getaddrinfo", never)
        assert not await connects_within(rig, 0.05)
        monkeypatch.setattr("trio_bridge.gateways.socket.connection.HANDSHAKE_TIMEOUT_S", 0.05)
        with pytest.raises(GatewayError, match="IB_SOCKET_HOST=gateway: no answer from the name"):
            await rig.bridge.connect()


async def test_an_attempt_that_swallows_its_cancellation_fails_and_the_next_one_works() -> None:
    async def swallow(*_: object) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with suppress(asyncio.CancelledError):
                await loop.create_future()

    async with socket_rig(still_book(options=6), connect=False) as rig:
        with pytest.MonkeyPatch.context() as patch, trio.fail_after(PATIENCE_S):
            patch.setattr("trio_bridge.gateways.socket.connection.HANDSHAKE_TIMEOUT_S", 0.05)
            patch.setattr("ib_async.client.Client.connectAsync", swallow)
            with pytest.raises(GatewayError, match="the gateway did not answer within"):
                await rig.bridge.connect()
        await rig.bridge.connect()
        assert rig.bridge.is_connected()


@pytest.mark.parametrize("attempt", range(6))
async def test_a_request_that_the_end_cut_short_keeps_nothing_of_its_connection(
    attempt: int,
) -> None:
    """Whether it hears of the end before it is cancelled is chance: hence several attempts.

    `nothing_left_behind` looks for what is kept.
    """
    async with socket_rig(still_book(options=6), connect=False) as rig:
        rig.sim.download_delay_s = 100.0

        async def drop() -> None:
            await rig.until_received(POSITIONS)
            rig.sim.drop_connections()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drop)
            with pytest.raises(GatewayError, match="the gateway closed the connection"):
                await rig.bridge.connect()


async def test_leaving_the_bridges_block_ends_everything() -> None:
    rng = random.Random(6)
    async with socket_rig(still_book(options=6), connect=False) as rig:
        for _ in range(8):
            await rig.bridge.connect()
            await trio.sleep(rng.uniform(0, 0.1))
            began = trio.current_time()
            await rig.bridge.__aexit__(None, None, None)
            assert trio.current_time() - began < QUICK_S
            assert not rig.bridge.is_connected()
            await rig.bridge.__aenter__()
        await rig.until(lambda: not rig.sim.sessions)


# Our own goodbye --------------------------------------------------------------------------------


async def test_disconnecting_is_quick_whatever_the_gateway_does() -> None:
    async with socket_rig(still_book(options=6), connect=False) as rig:
        await end_in_time(rig)  # there is nothing to end
        troubles: list[Callable[[], object]] = [
            lambda: None,
            rig.sim.hang,
            rig.sim.drop_connections,
            lambda: rig.sim.drop_connections(reset=True),
            rig.sim.lose_upstream,
        ]
        for trouble in troubles:
            await rig.bridge.connect()
            await rig.until_received(SUBSCRIBE)
            trouble()
            await end_in_time(rig)
            await end_in_time(rig)
            rig.sim.unhang()
            rig.sim.upstream_lost = False
            await rig.until(lambda: not rig.sim.sessions)
            rig.sim.transcript.clear()


async def test_disconnecting_ends_an_attempt_of_another_task() -> None:
    async with socket_rig(still_book(options=0), connect=False) as rig:
        rig.sim.accept_silently()
        refusals: list[str] = []

        async def connect() -> None:
            with pytest.raises(GatewayError) as refusal:
                await rig.bridge.connect()
            refusals.append(str(refusal.value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            await trio.sleep(0.05)
            with pytest.raises(RuntimeError, match="already connected"):
                await rig.bridge.connect()
            await end_in_time(rig)
        assert refusals == ["disconnected"]


async def stand_still(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251  # nothing else goes on either


async def test_a_connection_that_still_ends_is_no_mistake_of_the_next() -> None:
    """A process that stood still for a while: then all that is bounded is over at once."""
    async with socket_rig(still_book(options=0)) as rig:
        await rig.until_right()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stand_still, DISCONNECT_TIMEOUT_S + 0.1)
            await rig.bridge.disconnect()
            await rig.bridge.connect()
        await rig.until_right()


async def test_a_connection_that_does_not_end_is_told(
    fast_clock: PatientClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, at_last = GatewayClient.close, trio.Event()

    async def close_at_last(self: GatewayClient) -> None:
        with trio.CancelScope(shield=True):
            await at_last.wait()
        await close(self)

    async with socket_rig(still_book(options=0)) as rig:
        with monkeypatch.context() as patch:
            patch.setattr(GatewayClient, "close", close_at_last)
            await rig.bridge.disconnect()
            try:
                with pytest.raises(GatewayError, match="has not ended yet"):
                    await rig.bridge.connect()
            finally:
                at_last.set()
        await rig.bridge.connect()
        await rig.until_right()


async def test_a_second_connection_beside_the_first_is_a_mistake() -> None:
    async with socket_rig(still_book(options=0)) as rig:
        with pytest.raises(RuntimeError, match="already connected"):
            await rig.bridge.connect()
        await rig.until_right()


async def test_a_peer_that_reads_nothing_any_more_is_cut_off() -> None:
    """What is still to be sent cannot leave; the end must not wait for it."""
    async with socket_rig(still_book(options=0)) as rig:
        rig.sim.hang()
        transport: Any = session_of(rig).client.ib.client.conn.transport
        transport.write(bytes(16_000_000))
        assert transport.get_write_buffer_size() > 0
        began = trio.current_time()
        await rig.bridge.disconnect()
        assert trio.current_time() - began < DISCONNECT_TIMEOUT_S
        assert rig.bridge.nursery.child_tasks == frozenset()
        rig.sim.drop_connections()


async def test_the_reason_of_a_loss_is_told_to_whoever_waits() -> None:
    async with socket_rig(still_book(options=0)) as rig:
        rig.sim.drop_connections()
        assert await rig.bridge.wait_lost() == "the gateway closed the connection"
        await rig.bridge.connect()
        await rig.bridge.disconnect()
        assert await rig.bridge.wait_lost() == "disconnected"


# Bugs -------------------------------------------------------------------------------------------


def failing(*_: object) -> None:
    raise ZeroDivisionError("a bug of ours")


@pytest.mark.parametrize("handler", ["error", "position"])
async def test_a_bug_in_a_message_handler_is_loud(
    handler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """eventkit, which calls our handlers, swallows what they raise; the bridge must not."""

    async def run() -> None:
        async with supervised_rig(still_book(options=2)) as rig:
            await rig.until_right()
            monkeypatch.setattr(Connection, handler, failing)
            rig.sim.drop_connections()
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        with trio.fail_after(30):
            await run()
    assert raised.group_contains(ZeroDivisionError, match="a bug of ours")


async def test_a_bug_while_serving_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with supervised_rig(still_book(options=2)) as rig:
            await rig.until_right()
            monkeypatch.setattr(session_of(rig).subscriptions, "step", failing)
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        with trio.fail_after(30):
            await run()
    assert raised.group_contains(ZeroDivisionError, match="a bug of ours")


async def test_a_bug_while_connecting_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    async with socket_rig(still_book(options=2), connect=False) as rig:
        with monkeypatch.context() as patch:
            patch.setattr(Accounts, "managed", failing)
            with pytest.raises(ZeroDivisionError):
                await rig.bridge.connect()
        await rig.bridge.connect()
        await rig.until_right()


async def test_a_library_that_breaks_its_event_loop_takes_one_connection_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with supervised_rig(still_book(options=2)) as rig:
        await rig.until_right()

        def explode() -> None:
            raise ZeroDivisionError("in a callback of the library's")

        transport: Any = session_of(rig).client.ib.client.conn.transport
        transport._loop.call_soon(explode)
        await rig.until_because("the connection broke down: ZeroDivisionError")
        await rig.until_right()
        assert any("explode" in record.getMessage() for record in caplog.records)
        caplog.clear()


async def test_frames_that_are_none_end_the_connection() -> None:
    async with supervised_rig(still_book(options=2)) as rig:
        await rig.until_right()
        rig.sim.sessions[0].send(b"\xff\xff\xff\xff rubbish")
        await rig.until_because("cannot be read")
        await rig.until_right()


# A long life ------------------------------------------------------------------------------------


def remembered(rig: Rig) -> dict[str, int]:
    """How many entries ib_async and we keep, by the name of where."""
    session = session_of(rig)
    wrapper = session.client.ib.wrapper
    sizes = {
        name: len(value)
        for name, value in vars(wrapper).items()
        if isinstance(value, (dict, list, set))
    }
    sizes["ticker2ReqId"] = sum(map(len, wrapper.ticker2ReqId.values()))
    sizes["lines"] = len(session.subscriptions.feed.lines)
    return sizes


async def rotate(rig: Rig, subscriptions: int) -> dict[str, int]:
    """Let so many options be subscribed in turn; what is remembered then."""
    rig.sim.transcript.clear()
    await rig.until_received(SUBSCRIBE, subscriptions)
    return remembered(rig)


async def test_rotating_for_ever_remembers_no_more_than_rotating_a_little(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=30)
    async with socket_rig(book, ib_market_data_lines=5) as rig:
        await rig.until_right()
        early = await rotate(rig, 60)
        late = await rotate(rig, 240)
        assert {name: size for name, size in late.items() if size > early[name] + 5} == {}


async def test_options_that_come_and_go_are_forgotten(fast_clock: PatientClock) -> None:
    book = still_book(options=20)
    account, options = book.accounts[0], options_of(book)
    async with socket_rig(book) as rig:
        await rig.until_right()
        for option in options[2:]:
            book.set_position(account, option.con_id, 0)
        await rig.until_right()
        await rig.until(lambda: len(rig.sim.subscribed()) == 2)
        await rig.until(lambda: remembered(rig)["lines"] == 2)
        left = remembered(rig)
        for name in ("tickers", "reqId2Ticker", "_reqId2Contract", "ticker2ReqId"):
            assert left[name] == 2, name


async def test_reconnecting_again_and_again_leaves_nothing_of_the_old_connections(
    fast_clock: PatientClock,
) -> None:
    book = still_book(options=6)
    async with supervised_rig(book, delays_s=(0.05,)) as rig:
        for number in range(12):
            await rig.until(lambda: rig.row() is not None)
            rig.sim.drop_connections(reset=number % 2 == 0)
            await rig.until(lambda: rig.row() is None)
        await rig.until_right()
        gc.collect()
        assert len(alive(IB)) == len(alive(Connection)) == 1
        assert len(rig.sim.received(POSITIONS)) == 13


async def test_what_a_connection_leaves_is_gone_when_the_next_one_is_made(
    fast_clock: PatientClock,
) -> None:
    async with supervised_rig(still_book(options=6), delays_s=(0.05,)) as rig:
        gc.disable()
        try:
            for _ in range(4):
                await rig.until(lambda: rig.row() is not None)
                rig.sim.drop_connections()
                await rig.until(lambda: rig.row() is None)
            await rig.until_right()
            assert len(alive(IB)) == len(alive(Connection)) == 1
        finally:
            gc.enable()


@pytest.mark.long
async def test_memory_stays_where_it_is_over_thousands_of_rotations_and_reconnects() -> None:
    process = psutil.Process()
    book = still_book(options=40)
    async with supervised_rig(
        book, delays_s=(0.01,), ib_market_data_lines=5, simulator={"transcript_size": 1000}
    ) as rig:

        async def live(seconds: float) -> int:
            """Rotate, reconnect every two seconds, and weigh the process at the end."""
            with trio.move_on_after(seconds):
                while True:
                    await trio.sleep(2)
                    rig.sim.drop_connections()
                    rig.rows.clear()
                    rig.events.clear()
            gc.collect()
            return int(process.memory_info().rss)

        before = await live(20)
        after = await live(60)
        assert after - before < 3_000_000
