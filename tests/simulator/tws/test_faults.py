"""Every limit, error and fault of the simulated gateway behaves as on the real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.simulator.tws.client import Closed, RawClient, described, eventually, raw_client
from trio_bridge.simulator.book import Book, make_book
from trio_bridge.simulator.tws.server import SimulatorViolation, TwsSimulator, open_tws_simulator
from trio_bridge.simulator.tws.session import MessageRate

if TYPE_CHECKING:
    from trio_bridge.simulator.contracts import Contract

QUICK_S = 0.02
"""Tick interval of these tests."""


@pytest.fixture
def book() -> Book:
    book = make_book()
    book.freeze(at=10)
    return book


def options_of(book: Book) -> list[Contract]:
    return book.market.options()


def true_model(book: Book, contract: Contract) -> list[float]:
    value = book.moment.true_value(contract.con_id)
    return [value.delta, value.gamma, value.vega, value.theta]


# What must never be sent -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [3, 4, 5, 6, 15, 16, 19, 21, 58, 69, 99, 109])
async def test_a_forbidden_message_ends_the_connection_and_the_test(book: Book, kind: int) -> None:
    async def misbehave() -> None:
        async with open_tws_simulator(book) as sim, raw_client(sim) as client:
            await client.send(kind, 1, 0)
            await client.expect_error(321)
            assert await client.until_closed() == "orderly"
            assert [one.client_id for one in sim.violations] == [10]

    with pytest.raises(SimulatorViolation, match=f"message {kind}"):
        await misbehave()


async def test_a_failing_test_keeps_its_own_error_and_hears_of_violations(book: Book) -> None:
    async def fail() -> None:
        async with open_tws_simulator(book) as sim:
            sim.violate(10, "something bad")
            raise LookupError

    with pytest.raises(LookupError) as caught:
        await fail()
    assert "something bad" in caught.value.__notes__[0]


async def test_client_id_zero_is_the_owners(book: Book) -> None:
    async with open_tws_simulator(book) as sim:
        async with raw_client(sim, None) as client:
            await client.shake_hands()
            await client.send(71, 2, 0, "")
            await client.expect_error(321)
            await client.until_closed()
        assert ["client id 0" in one.what for one in sim.acknowledge_violations()] == [True]
    assert sim.violations == []


async def test_more_than_fifty_messages_at_once_are_too_many(book: Book) -> None:
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        for _ in range(50):
            await client.send(8, 1, 1)
        await client.send(49, 1)
        await client.expect_error(100)
        await client.expect(49)
        assert sim.sessions[0].peak_rate == 51
        assert [one.what for one in sim.acknowledge_violations()] == [
            "pacing: 51 messages in a second"
        ]


def test_forty_five_a_second_in_bursts_are_never_too_many_however_they_are_held_up() -> None:
    pacing = MessageRate()
    for second in range(120):
        late = 0.25 * (second % 2)
        assert not any(pacing.count(second * 1.001 + late) for _ in range(45))


def test_sixty_a_second_are_too_many_however_evenly_they_come() -> None:
    pacing = MessageRate()
    assert any(pacing.count(number / 60) for number in range(60 * 15))


async def test_the_transcript_holds_every_message(book: Book) -> None:
    async with open_tws_simulator(book, transcript_size=3) as sim, raw_client(sim) as client:
        assert [one.fields for one in sim.received(71)] == [("71", "2", "10", "")]
        for number in range(1, 4):
            await client.send(8, 1, number)
        await client.current_time()
        assert [one.message_id for one in sim.transcript] == [8, 8, 49]
        assert sim.transcript[0].client_id == 10
        assert sim.transcript[0].fields == ("8", "1", "2")


# Limits ----------------------------------------------------------------------------------------


async def test_lines_are_limited_over_all_clients_and_the_owner(book: Book) -> None:
    first, second, third, fourth, *_ = options_of(book)
    async with (
        open_tws_simulator(book, market_data_lines=3) as sim,
        raw_client(sim, 10) as one,
        raw_client(sim, 11) as other,
    ):
        sim.lines_used_by_owner = 1
        await one.subscribe(1, first)
        await one.model(1)
        await other.subscribe(1, second)
        await other.model(1)
        assert (sim.lines_in_use, sim.lines_in_use_by_clients) == (3, 2)
        await one.subscribe(2, third)
        await one.expect_error(101, 2)
        await other.send(2, 2, 1)
        await other.current_time()
        await one.subscribe(2, third)
        await one.model(2)
        assert sim.subscribed() == {first.con_id, third.con_id}
        await one.stream.aclose()
        await eventually(lambda: sim.lines_in_use == 1)
        await other.subscribe(3, fourth)
        await other.model(3)


async def test_an_empty_exchange_is_refused_and_a_wrong_one_finds_nothing(book: Book) -> None:
    option = options_of(book)[0]
    future_option = next(one for one in options_of(book) if one.sec_type == "FOP")
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        await client.subscribe(1, option, exchange="")
        assert "Please enter exchange" in await client.expect_error(321, 1)
        await client.subscribe(1, future_option, exchange="SMART")
        await client.expect_error(200, 1)
        await client.subscribe(1, option, exchange="SMART")
        assert await client.model(1) == true_model(book, option)
        await client.subscribe(1, option)
        await client.expect_error(322, 1)
        await client.send(2, 2, 77)
        await client.expect_error(300, 77)


async def test_a_client_id_is_used_once(book: Book) -> None:
    async with open_tws_simulator(book) as sim, raw_client(sim) as first:
        async with raw_client(sim, None) as second:
            await second.shake_hands()
            await second.send(71, 2, 10, "")
            await second.expect_error(326)
            assert await second.until_closed() == "orderly"
            assert all(fields[0] != "15" for fields in second.seen)
        await first.current_time()
        sim.occupy_client_id(12)
        async with raw_client(sim, None) as third:
            await third.shake_hands()
            await third.send(71, 2, 12, "")
            await third.expect_error(326)
        sim.free_client_id(12)
        async with raw_client(sim, 12) as third:
            await third.current_time()


async def test_nonsense_is_answered_and_ends_the_connection(book: Book) -> None:
    async with open_tws_simulator(book) as sim:
        for nonsense in (("x",), (1, 11), (49,), (1, 11, "a")):
            async with raw_client(sim) as client:
                await client.send(*nonsense)
                if nonsense == (49,):
                    await client.expect(49)
                    continue
                await client.expect_error(320)
                await client.until_closed()
        async with raw_client(sim) as client:
            await client.send(98, 1)
            assert "not served" in await client.expect_error(320)
            await client.current_time()


async def test_the_clock_is_not_asked_twice_in_a_second(book: Book) -> None:
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        await client.current_time()
        await client.send(49, 1)
        await client.send(8, 1, 1)
        assert (await client.next())[0] == "9", "the second question stays unanswered"
        await trio.sleep(1)
        await client.current_time()
        sim.answers_current_time = False
        await trio.sleep(1)
        await client.send(49, 1)
        await client.send(8, 1, 1)
        assert (await client.next())[0] == "9"


# Positions -------------------------------------------------------------------------------------


async def test_position_changes_are_streamed_until_cancelled(book: Book) -> None:
    option = options_of(book)[0]
    account = book.accounts[0]
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        await client.send(61, 1)
        await client.expect(62)
        assert len([one for one in client.seen if one[0] == "61"]) == 30
        book.set_position(account, option.con_id, 7)
        book.set_position(account, option.con_id, 0)
        assert (await client.expect(61))[-2] == "7.0"
        closed = await client.expect(61)
        assert (closed[2], closed[3], closed[-2]) == (account, str(option.con_id), "0.0")
        await client.send(64, 1)
        await client.current_time()
        book.set_position(account, option.con_id, 3)
        await client.send(8, 1, 1)
        assert (await client.next())[0] == "9"


async def test_masters_with_many_sub_accounts_get_positions_one_account_at_a_time() -> None:
    book = make_book(options=2, accounts=51)
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        await client.send(61, 1)
        await client.expect_error(321)
        await client.send(74, 1, 5, book.accounts[50], "")
        assert (await client.expect(72))[2] == "5"
        held = [one for one in client.seen if one[0] == "71"]
        assert len(held) == len(book.positions(book.accounts[50]))
        await client.send(76, 1, 6, book.accounts[0], "", 0)
        assert (await client.expect(74))[2] == "6"
        sim.positions_refused = False
        await client.send(61, 1)
        await client.expect(62)


async def test_a_download_can_be_slow_or_break_in_the_middle(book: Book) -> None:
    async with open_tws_simulator(book) as sim:
        sim.download_delay_s = 0.005
        async with raw_client(sim) as client:
            began = trio.current_time()
            await client.send(61, 1)
            await client.expect(62)
            assert trio.current_time() - began >= 30 * 0.005
        sim.break_next_download()
        async with raw_client(sim) as client:
            await client.send(61, 1)
            await client.until_closed()
            assert len([one for one in client.seen if one[0] == "61"]) == 15
        async with raw_client(sim) as client:
            await client.send(61, 1)
            await client.expect(62)


# Market data -----------------------------------------------------------------------------------


async def test_ticks_come_at_once_and_then_whenever_the_book_moves(book: Book) -> None:
    option = options_of(book)[0]
    async with open_tws_simulator(book, tick_interval_s=QUICK_S) as sim, raw_client(sim) as client:
        await client.subscribe(1, option)
        assert await client.expect(58) == ["58", "1", "1", "1"]
        assert await client.model(1) == true_model(book, option)
        book.advance(1)
        # The first round repeats the opening's values; it may be under way at this instant.
        while await client.model(1) != true_model(book, option):
            pass
        await trio.sleep(5 * QUICK_S)
        await client.send(8, 1, 1)
        assert (await client.next())[0] == "9", "a book that holds still does not tick"


async def test_the_first_tick_can_be_late(book: Book) -> None:
    option = options_of(book)[0]
    async with (
        open_tws_simulator(book, tick_interval_s=QUICK_S, first_tick_delay_s=0.2) as sim,
        raw_client(sim) as client,
    ):
        began = trio.current_time()
        await client.subscribe(1, option)
        await client.model(1)
        assert trio.current_time() - began >= 0.19


async def test_a_snapshot_ends_by_itself_and_frees_its_line(book: Book) -> None:
    option = options_of(book)[0]
    async with (
        open_tws_simulator(book, tick_interval_s=QUICK_S, snapshot_s=0.05) as sim,
        raw_client(sim) as client,
    ):
        await client.subscribe(1, option, snapshot=True)
        await client.model(1)
        assert (await client.expect(57))[2] == "1"
        assert sim.lines_in_use == 0


async def test_tick_now_needs_no_interval(book: Book) -> None:
    option = options_of(book)[0]
    async with open_tws_simulator(book, tick_interval_s=3600) as sim, raw_client(sim) as client:
        await client.subscribe(1, option)
        await client.model(1)
        book.advance(5)
        sim.tick_now()
        assert await client.model(1) == true_model(book, option)


@pytest.mark.parametrize("code", [200, 354, 10089, 10091, 10168, 10186])
async def test_refused_market_data_never_flow(book: Book, code: int) -> None:
    option = options_of(book)[0]
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        sim.refuse_market_data([option.con_id], code)
        await client.subscribe(1, option)
        await client.expect_error(code, 1)
        assert sim.lines_in_use == 0
        sim.allow_market_data()
        await client.subscribe(1, option)
        assert await client.model(1) == true_model(book, option)


@pytest.mark.parametrize("code", [354, 10089, 10091, 10168])
async def test_who_asks_for_delayed_data_gets_them_where_live_is_missing(
    book: Book, code: int
) -> None:
    option = options_of(book)[0]
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        sim.refuse_market_data([option.con_id], code)
        await client.send(59, 1, 3)
        await client.subscribe(1, option)
        await client.expect_error(10167, 1)
        assert (await client.expect(58))[3] == "3"
        fields = await client.expect(21, lambda one: one[2] == "83")
        assert float(fields[5]) == book.moment.true_value(option.con_id).delta


async def test_data_that_is_not_even_delayed_never_arrives(book: Book) -> None:
    option = options_of(book)[0]
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        sim.refuse_market_data([option.con_id], 10186)
        await client.send(59, 1, 3)
        await client.subscribe(1, option)
        await client.expect_error(10186, 1)


@pytest.mark.parametrize(("code", "data_type"), [(10090, "1"), (10167, "3")])
async def test_some_notices_come_with_data(book: Book, code: int, data_type: str) -> None:
    option = options_of(book)[0]
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        sim.refuse_market_data([option.con_id], code)
        await client.subscribe(1, option)
        await client.expect_error(code, 1)
        assert (await client.expect(58))[3] == data_type
        assert await client.model(1) == true_model(book, option)


@pytest.mark.parametrize(
    ("best", "wanted", "announced", "flows"),
    [
        (2, 1, "1", False),
        (2, 2, "2", True),
        (3, 4, "3", True),
        (4, 3, "3", False),
        (4, 4, "4", True),
    ],
)
async def test_frozen_and_delayed_data_are_announced(
    book: Book, best: int, wanted: int, announced: str, flows: bool
) -> None:
    option = options_of(book)[0]
    book.market.set_data_type(option.con_id, best)
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        await client.send(59, 1, wanted)
        await client.subscribe(1, option)
        assert (await client.expect(58))[3] == announced
        await client.current_time()
        assert any(fields[0] == "21" for fields in client.seen) is flows


async def test_sentinels_cross_the_wire_and_silent_options_compute_nothing(book: Book) -> None:
    broken, silent, *_ = options_of(book)
    book.market.override(broken.con_id, vega=-2.0, theta=1.7976931348623157e308, gamma=float("nan"))
    book.market.silence_greeks(silent.con_id)
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        await client.subscribe(1, broken)
        fields = await client.expect(21, lambda one: one[2] == "13")
        assert fields[8:11] == ["NaN", "-2.0", "1.7976931348623157E308"]
        await client.subscribe(2, silent)
        await client.current_time()
        assert {one[0] for one in client.seen if one[0] == "21" and one[1] == "2"} == set()
        assert any(one[0] == "1" and one[2] == "2" for one in client.seen), "prices do come"


# Upstream, farms, competing sessions -----------------------------------------------------------


async def subscribed(client: RawClient, contracts: list[Contract]) -> None:
    for req_id, contract in enumerate(contracts):
        await client.subscribe(req_id, contract)
        await client.model(req_id)


async def test_a_lost_link_stops_ticks_and_changes_and_gives_them_back(book: Book) -> None:
    option, account = options_of(book)[0], book.accounts[0]
    async with open_tws_simulator(book, tick_interval_s=QUICK_S) as sim, raw_client(sim) as client:
        await client.send(61, 1)
        await client.expect(62)
        await subscribed(client, [option])
        sim.lose_upstream()
        await client.expect_error(1100)
        book.advance(1)
        book.set_position(account, option.con_id, 9)
        await trio.sleep(5 * QUICK_S)
        await client.current_time()
        assert client.seen[-2][0] == "4", "nothing but the clock since the notice"
        async with raw_client(sim, 11) as late:
            await late.expect_error(2110)
        sim.restore_upstream()
        await client.expect_error(1102)
        assert (await client.expect(61))[-2] == "9.0"
        assert await client.model(0) == true_model(book, option)


async def test_a_link_restored_without_data_has_really_lost_the_subscriptions(book: Book) -> None:
    option, account = options_of(book)[0], book.accounts[0]
    async with open_tws_simulator(book, tick_interval_s=QUICK_S) as sim, raw_client(sim) as client:
        await client.send(61, 1)
        await client.expect(62)
        await subscribed(client, [option])
        sim.lose_upstream(2110)
        await client.expect_error(2110)
        sim.restore_upstream(data_kept=False)
        await client.expect_error(1101)
        assert sim.lines_in_use == 0
        book.advance(1)
        book.set_position(account, option.con_id, 9)
        await trio.sleep(5 * QUICK_S)
        await client.send(8, 1, 1)
        assert (await client.next())[0] == "9"
        await subscribed(client, [option])


async def test_a_broken_farm_silences_its_contracts_and_no_others(book: Book) -> None:
    index = next(one for one in options_of(book) if one.sec_type == "OPT")
    future = next(one for one in options_of(book) if one.sec_type == "FOP")
    async with open_tws_simulator(book, tick_interval_s=QUICK_S) as sim, raw_client(sim) as client:
        await subscribed(client, [index, future])
        sim.break_farm([index.con_id], farm="usopt")
        await client.expect_error(2103)
        book.advance(1)
        mark = len(client.seen)
        await client.model(1)
        assert all(one[1] != "0" for one in client.seen[mark:] if one[0] == "21")
        async with raw_client(sim, 11) as late:
            assert (await late.expect_error(2103)).endswith("usopt")
        sim.mend_farm(farm="usopt")
        await client.expect_error(2104)
        assert await client.model(0) == true_model(book, index)


async def test_contracts_that_nobody_trades_fall_silent_without_a_word(book: Book) -> None:
    quiet, lively, *_ = options_of(book)
    async with open_tws_simulator(book, tick_interval_s=QUICK_S) as sim, raw_client(sim) as client:
        await subscribed(client, [quiet, lively])
        sim.pause_ticks([quiet.con_id])
        await client.current_time()  # what was under way has arrived
        book.advance(1)
        mark = len(client.seen)
        await client.model(1)
        assert all(one[0] != "4" for one in client.seen[mark:])
        assert all(one[1] != "0" for one in client.seen[mark:] if one[0] == "21")
        sim.resume_ticks()
        await client.model(0)


async def test_a_competing_session_takes_the_data_until_it_ends(book: Book) -> None:
    option, other, *_ = options_of(book)
    async with open_tws_simulator(book, tick_interval_s=QUICK_S) as sim, raw_client(sim) as client:
        await subscribed(client, [option])
        sim.start_competing_session()
        await client.expect_error(10197, 0)
        await client.subscribe(5, other)
        await client.expect_error(10197, 5)
        sim.end_competing_session()
        book.advance(1)
        await trio.sleep(5 * QUICK_S)
        await client.send(2, 2, 0)
        await client.current_time()
        assert client.seen[-2][0] == "4", "no tick: the old subscription is dead"
        await subscribed(client, [option])
        sim.start_competing_session()
        await client.expect_error(10197, 0)
        sim.end_competing_session(data_return=True)
        await client.model(0)


async def test_any_notice_can_be_sent(book: Book) -> None:
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        for code in (2103, 2104, 2105, 2106, 2107, 2108, 2119, 2157, 2158):
            sim.notify(code, "farm")
            assert (await client.expect_error(code)).endswith("farm")


async def test_a_moved_port_is_announced_and_closed(book: Book) -> None:
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        sim.move_port(4005)
        assert "4005" in await client.expect_error(1300)
        assert await client.until_closed() == "orderly"


# The socket ------------------------------------------------------------------------------------


async def test_a_stopped_listener_refuses_and_comes_back_on_its_port(book: Book) -> None:
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        port = sim.port
        sim.stop_listening()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream(sim.host, port)
        await client.current_time()
        await sim.start_listening()
        assert sim.port == port
        async with raw_client(sim, 11) as other:
            await other.current_time()


@pytest.mark.parametrize(("reset", "how"), [(False, "orderly"), (True, "with a reset")])
async def test_all_connections_drop_at_once(book: Book, reset: bool, how: str) -> None:
    async with (
        open_tws_simulator(book) as sim,
        raw_client(sim, 10) as one,
        raw_client(sim, 11) as other,
    ):
        await one.current_time()
        await other.current_time()
        sim.drop_connections(reset=reset)
        assert await one.until_closed() == how
        assert await other.until_closed() == how
        await eventually(lambda: sim.sessions == [])
        async with raw_client(sim, 10) as again:
            await again.current_time()


async def silent(client: RawClient) -> bool:
    with trio.move_on_after(0.15) as scope:
        await client.next()
    return scope.cancelled_caught


async def test_a_hanging_gateway_keeps_everything_open_and_says_nothing(book: Book) -> None:
    option = options_of(book)[0]
    async with open_tws_simulator(book, tick_interval_s=QUICK_S) as sim, raw_client(sim) as client:
        await subscribed(client, [option])
        sim.hang()
        book.advance(1)
        sim.notify(2104, "usopt")
        await client.send(8, 1, 1)
        async with raw_client(sim, None) as late:
            await late.stream.send_all(b"API\0\0\0\0\x09v157..178")
            assert await silent(late)
            assert await silent(client)
            sim.unhang()
            assert (await late.next())[0] == "178"
        await client.expect(9)
        book.advance(1)
        assert await client.model(0)


async def test_a_hanging_gateway_can_be_dropped(book: Book) -> None:
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        sim.hang()
        await trio.sleep(0.05)
        sim.drop_connections()
        assert await client.until_closed() == "orderly"


async def test_arrivals_can_be_met_with_silence_or_a_closed_door(book: Book) -> None:
    async with open_tws_simulator(book) as sim, raw_client(sim, 10) as standing:
        sim.accept_silently()
        async with raw_client(sim, None) as client:
            await client.stream.send_all(b"API\0\0\0\0\x09v157..178")
            assert await silent(client)
        sim.accept_and_close()
        async with raw_client(sim, None) as client:
            await client.until_closed()
        with pytest.raises((Closed, trio.BrokenResourceError)):
            async with raw_client(sim, 12):
                pass
        sim.accept_normally()
        async with raw_client(sim, 11) as client:
            await client.current_time()
        await standing.current_time()


async def test_a_client_that_leaves_in_any_way_leaves_nothing_behind(book: Book) -> None:
    async with open_tws_simulator(book, tick_interval_s=QUICK_S) as sim:
        watchers = len(book._watchers)
        for _ in range(3):
            async with raw_client(sim) as client:
                await client.send(61, 1)
                await client.subscribe(1, options_of(book)[0])
                await client.expect(62)
            await eventually(lambda: sim.sessions == [])
            assert sim.lines_in_use == 0
            assert len(book._watchers) == watchers


async def test_serving_ends_with_its_nursery(book: Book) -> None:
    sim = TwsSimulator(book)
    async with trio.open_nursery() as nursery:
        assert await nursery.start(sim.serve) is sim
        async with raw_client(sim) as client:
            await client.current_time()
            nursery.cancel_scope.cancel()
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream(sim.host, sim.port)


async def test_details_are_found_by_id_and_by_description(book: Book) -> None:
    option = options_of(book)[0]
    async with open_tws_simulator(book) as sim, raw_client(sim) as client:
        await client.send(9, 8, 1, *described(option), 0, "", "", "")
        assert str(option.under_con_id) in await client.expect(10)
        await client.expect(52)
        await client.send(9, 8, 2, 0, "SPX", "OPT", "", 0.0, *[""] * 7, 0, "", "", "")
        await client.expect(52)
        found = [one for one in client.seen if one[0] == "10" and one[1] == "2"]
        assert len(found) == len([one for one in options_of(book) if one.sec_type == "OPT"])
        await client.send(9, 8, 3, 404, *[""] * 11, 0, "", "", "")
        await client.expect_error(200, 3)
