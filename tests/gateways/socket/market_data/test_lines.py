"""More options than market-data lines: who holds one, and what is sent for it.

`LinesGateway` asserts on the way, in every test: never more lines than the budget, nothing
subscribed twice, nothing cancelled that holds no line or was still to answer.
"""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateways.socket.market_data.lines_gateway import LinesGateway, most_in_any_second
from trio_bridge.gateways.socket.market_data.lines import (
    COMPETING_PROBE_S,
    DWELL_S,
    GROWTH_WAIT_S,
    MESSAGES_PER_S,
    REFUSED_WAIT_S,
    RENEWAL_GAP_S,
    REST_S,
    Cancel,
    MarketLines,
    Renew,
    Subscribe,
)
from trio_bridge.model import PositionState, Trouble
from trio_bridge.risk.verdict import RENEWAL_S, stale_after_s

LINES = 90
SWAPS_PER_S = 20


def options(count: int) -> dict[int, float]:
    """Contracts 1, 2, …; the higher the number, the larger the exposure."""
    return {con_id: 100.0 * con_id for con_id in range(1, count + 1)}


def gateway_with(count: int, **world: Any) -> LinesGateway:
    gateway = LinesGateway(MarketLines(LINES), **world)
    gateway.want(options(count))
    return gateway


# Everything fits


@pytest.mark.parametrize("count", [1, 45, 90])
def test_what_fits_is_subscribed_once_and_then_left_alone(count: int) -> None:
    gateway = gateway_with(count)
    gateway.run(3600)

    assert len(gateway.messages) == count
    assert set(gateway.current) == set(options(count))
    assert gateway.lines.decide(gateway.now).actions == ()


def test_what_never_answers_keeps_its_line_while_nobody_waits_for_it() -> None:
    gateway = gateway_with(LINES, latency_s=lambda con_id: math.inf)
    gateway.run(3600)

    assert {type(action) for _, action in gateway.sent} == {Subscribe, Renew}


def test_the_largest_exposures_are_subscribed_first() -> None:
    gateway = gateway_with(LINES)
    gateway.run(10)

    assert [action for _, action in gateway.sent] == [Subscribe(i) for i in range(LINES, 0, -1)]


# More options than lines


@pytest.mark.parametrize("count", [100, 240, 1000])
def test_every_option_is_priced_soon_and_never_gets_old(count: int) -> None:
    gateway = gateway_with(count)
    full_turn_s = (count - LINES) / SWAPS_PER_S
    everyone = options(count)
    oldest = 0.0

    def observe() -> None:
        nonlocal oldest
        oldest = max(oldest, max(gateway.age(con_id) for con_id in everyone))

    connected_s = LINES / 40 + full_turn_s + 1
    gateway.run(connected_s)
    assert gateway.first_answer.keys() == everyone.keys()
    assert connected_s < 11 or count > 240

    for _ in range(60):
        observe()
        gateway.run(gateway.now + full_turn_s / 20)

    assert oldest <= full_turn_s + REST_S + 1
    assert oldest < stale_after_s(5.0), "healthy, and yet stale"
    assert gateway.lines.oldest_s(gateway.now) == pytest.approx(full_turn_s)
    assert gateway.lines.oldest_s(gateway.now) == pytest.approx(oldest, abs=REST_S + 1)
    assert most_in_any_second(gateway.messages) <= MESSAGES_PER_S


def test_what_fits_never_gets_old_and_what_was_given_up_has_no_turn() -> None:
    lines = MarketLines(2)
    lines.want(options(2))
    lines.decide(0.0)
    assert (lines.wanted(0.0), lines.oldest_s(0.0)) == (2, 0.0)
    lines.want(options(4))
    lines.given_up(4)
    lines.given_up(3, until=60.0)
    lines.refused(2, 1.0)  # for want of a line, so it has its turn
    assert lines.wanted(1.0) == 2
    assert lines.oldest_s(1.0) == pytest.approx(1 / SWAPS_PER_S)
    assert lines.wanted(60.0) == 3


def test_the_largest_exposures_keep_their_lines() -> None:
    gateway = gateway_with(240, latency_s=lambda con_id: 0.3)
    gateway.run(20)
    pinned = set(range(240 - 75, 241))  # 20 swaps a second × 0.3 s leave all but some 7 lines
    already_sent = len(gateway.sent)
    gateway.run(120)

    assert pinned <= gateway.current
    assert not pinned & {action.con_id for _, action in gateway.sent[already_sent:]}


def test_slow_answers_make_more_lines_go_round() -> None:
    gateway = gateway_with(240, latency_s=lambda con_id: 3.0)
    gateway.run(120)

    assert max(gateway.age(con_id) for con_id in options(240)) <= 150 / SWAPS_PER_S + REST_S + 4


def test_options_that_never_answer_hold_nobody_up() -> None:
    gateway = gateway_with(240, latency_s=lambda con_id: math.inf if con_id % 2 else 0.3)
    gateway.run(60)
    answering = range(2, 241, 2)

    # 10 silent ones a second × 5 s of dwelling are 50 of the 90 lines: the pace is kept.
    assert max(gateway.age(con_id) for con_id in answering) <= 150 / SWAPS_PER_S + REST_S + 3
    assert min(gateway.subscriptions[con_id] for con_id in range(1, 241, 2)) >= 4


def test_when_nobody_answers_all_are_tried_in_turn() -> None:
    gateway = gateway_with(500, latency_s=lambda con_id: math.inf)
    gateway.run(100)
    tries = [gateway.subscriptions[con_id] for con_id in options(500)]

    # 90 lines, 5 s each: 18 a second
    assert sum(tries) >= 100 * 16
    assert max(tries) - min(tries) <= 1


def test_equal_exposures_take_turns_evenly() -> None:
    gateway = LinesGateway(MarketLines(LINES), latency_s=lambda con_id: 0.2)
    gateway.want(dict.fromkeys(range(240), 1.0))
    gateway.run(300)

    assert max(gateway.subscriptions.values()) - min(gateway.subscriptions.values()) <= 2


def test_one_option_too_many_does_not_make_the_lines_spin() -> None:
    gateway = gateway_with(LINES + 1)
    gateway.run(10)
    already_sent = len(gateway.messages)
    gateway.run(110)

    # A rested second each, instead of 40 messages a second for nothing.
    assert len(gateway.messages) - already_sent <= 100 * 2 / REST_S + 2


def test_calls_that_come_a_little_late_lose_no_throughput() -> None:
    random = Random(7)
    gateway = gateway_with(240, call_late_s=lambda: random.uniform(0, 0.045))
    gateway.run(11)

    assert gateway.first_answer.keys() == options(240).keys()
    assert most_in_any_second(gateway.messages) <= MESSAGES_PER_S


def test_a_lower_message_limit_is_kept_too() -> None:
    gateway = LinesGateway(MarketLines(10, messages_per_s=12))
    gateway.want(options(40))
    gateway.run(60)

    assert most_in_any_second(gateway.messages) <= 12
    assert gateway.first_answer.keys() == options(40).keys()


# Lines that fall silent


def test_a_silent_line_is_renewed_every_minute() -> None:
    gateway = LinesGateway(MarketLines(3), chatty=False)
    gateway.want({1: 1.0})
    gateway.run(200)

    renewed = [time for time, action in gateway.sent if action == Renew(1)]
    assert [later - earlier for earlier, later in pairwise([0.0, *renewed])] == pytest.approx(
        [RENEWAL_S] * 3, abs=1
    )
    assert gateway.subscriptions[1] == 4


def test_ninety_lines_silent_at_once_cost_under_four_messages_a_second_and_none_is_late() -> None:
    gateway = gateway_with(LINES, chatty=False)
    gateway.run(10)
    began = len(gateway.messages)
    silent_s = 0.0

    def observe() -> None:
        nonlocal silent_s
        silent_s = max(gateway.now - spoke_at for spoke_at in gateway.heard_at.values())

    longest = 0.0
    for _ in range(600):
        gateway.run(gateway.now + 1, each=observe)
        longest = max(longest, silent_s)

    assert longest <= RENEWAL_S + 1
    assert len(gateway.messages) - began <= 600 * 4
    assert len(gateway.messages) - began >= 600 * 2.8
    assert most_in_any_second(gateway.messages[began:]) <= 4
    assert len(gateway.subscribed) == LINES


def test_lines_that_never_answer_cost_no_more() -> None:
    gateway = gateway_with(LINES, latency_s=lambda con_id: math.inf)
    gateway.run(10)
    began = len(gateway.messages)
    gateway.run(610)

    assert len(gateway.messages) - began <= 600 * 4


def test_hundreds_of_booster_lines_are_all_renewed_in_time() -> None:
    gateway = LinesGateway(MarketLines(400), limit=400, budget=400, chatty=False)
    gateway.want(options(400))
    gateway.run(30)
    for _ in range(300):
        gateway.run(gateway.now + 1)
        assert gateway.now - min(gateway.heard_at.values()) <= RENEWAL_S + 1
    assert most_in_any_second(gateway.messages) <= MESSAGES_PER_S


def test_while_lines_rotate_those_that_keep_theirs_are_renewed_too() -> None:
    gateway = gateway_with(240, latency_s=lambda con_id: 0.3, chatty=False)
    gateway.run(300)
    pinned = range(240 - 70, 241)

    for con_id in pinned:
        assert gateway.now - gateway.heard_at[con_id] <= RENEWAL_S + 1
    assert max(gateway.age(con_id) for con_id in options(240)) <= 150 / SWAPS_PER_S + REST_S + 2
    assert most_in_any_second(gateway.messages) <= MESSAGES_PER_S


def test_a_line_that_ticks_now_and_then_is_never_renewed() -> None:
    gateway = gateway_with(5, chatty=False)
    gateway.run(5)
    for time in range(30, 3600, 30):
        for con_id in options(5):
            gateway.lines.answered(con_id, gateway.now)
        gateway.run(time)

    assert len(gateway.messages) == 5


def test_renewals_are_spread_evenly() -> None:
    gateway = gateway_with(20, chatty=False)
    gateway.run(300)
    renewals = [time for time, action in gateway.sent if isinstance(action, Renew)]

    assert min(later - earlier for earlier, later in pairwise(renewals)) >= RENEWAL_GAP_S - 1e-9


def test_silence_in_an_outage_is_not_held_against_a_line() -> None:
    gateway = gateway_with(5, chatty=False)
    gateway.run(5)
    gateway.now = 1000.0
    gateway.lines.count_silence_from(1000.0)
    gateway.run(1050)

    assert len(gateway.messages) == 5


def test_why_a_contract_was_given_up_is_known_until_it_speaks() -> None:
    lines = MarketLines(2)
    why = Trouble(PositionState.REFUSED, "because")
    lines.want({1: 1.0})
    lines.decide(0.0)
    lines.given_up(1, until=60.0, why=why)
    lines.connection_lost(30.0)
    assert lines.why(1) == why
    lines.decide(60.0)
    assert lines.why(1) == why
    lines.answered(1, 61.0)
    assert lines.why(1) is None
    assert lines.why(7) is None


# Holdings that change


def test_a_sold_option_gives_its_line_up_and_a_bought_one_gets_it() -> None:
    gateway = gateway_with(LINES)
    gateway.run(10)
    gateway.want({**options(LINES - 1), 500: 1.0})
    gateway.run(11)

    assert [action for _, action in gateway.sent[LINES:]] == [Cancel(LINES), Subscribe(500)]
    assert 500 in gateway.current


def test_an_option_sold_while_it_waits_gets_no_line() -> None:
    lines = MarketLines(1)
    lines.want({1: 1.0, 2: 2.0})
    lines.decide(0.0)
    lines.want({2: 2.0})

    assert lines.decide(50.0).actions == ()


def test_a_bought_option_is_priced_at_once_however_many_wait() -> None:
    gateway = gateway_with(1000)
    gateway.run(100)
    gateway.want({**options(1000), 5000: 0.001})
    gateway.run(101)

    assert 5000 in gateway.first_answer


def test_an_option_that_comes_back_before_its_cancel_was_sent_keeps_its_line() -> None:
    gateway = gateway_with(3)
    gateway.run(10)
    gateway.want(options(2))
    gateway.want(options(3))
    gateway.run(20)

    assert len(gateway.messages) == 3


def test_a_line_counts_until_its_cancel_is_sent() -> None:
    lines = MarketLines(2)
    lines.want({1: 1.0, 2: 2.0})
    lines.decide(0.0)
    lines.want({3: 3.0, 4: 4.0})

    assert lines.lines_used == 2
    assert lines.decide(10.0).actions[0] == Cancel(2)
    assert lines.lines_used <= 2


def test_an_exposure_that_grows_keeps_its_line_from_then_on() -> None:
    gateway = gateway_with(240, latency_s=lambda con_id: 0.3)
    gateway.run(30)
    gateway.want({**options(240), 1: 1e9})
    gateway.run(45)
    times = gateway.subscriptions[1]
    gateway.run(200)

    assert 1 in gateway.current
    assert gateway.subscriptions[1] == times


# Error 101


def test_101_shrinks_the_budget_at_once_to_what_the_gateway_takes() -> None:
    gateway = gateway_with(240)
    gateway.owner_uses = 40
    gateway.run(30)

    assert gateway.lines.budget == 60
    # What was already under way when the first came is the same cause.
    assert len(gateway.refusals) <= 3


def test_the_refused_contract_is_put_back_and_served_later() -> None:
    gateway = gateway_with(240)
    gateway.owner_uses = 40
    gateway.run(30)

    assert gateway.first_answer.keys() == options(240).keys()
    for refused_at, con_id in gateway.refusals:
        assert gateway.first_answer[con_id] >= refused_at + REFUSED_WAIT_S


def test_a_budget_that_stays_too_large_is_tried_ever_more_rarely() -> None:
    gateway = LinesGateway(MarketLines(9), limit=10)
    gateway.want(options(7))
    gateway.owner_uses = 4
    gateway.run(4 * 3600)
    times = [time for time, _ in gateway.refusals]
    gaps = [later - earlier for earlier, later in pairwise(times) if later - earlier > 1.0]

    expected = [GROWTH_WAIT_S * factor for factor in (1, 2, 4, 8, 16, 32, 60, 60)]
    assert gaps == pytest.approx(expected, abs=REFUSED_WAIT_S)
    assert 6 <= gateway.lines.budget <= 7


def test_the_budget_grows_back_a_line_a_minute_when_the_owner_leaves() -> None:
    gateway = LinesGateway(MarketLines(9), limit=10)
    gateway.want(options(12))
    gateway.owner_uses = 7
    gateway.run(30)
    refusals = len(gateway.refusals)
    gateway.owner_uses = 0
    gateway.run(30 + 3 * 60)
    assert gateway.lines.budget == 6
    gateway.run(30 + 10 * 60)

    assert gateway.lines.budget == 9
    assert len(gateway.refusals) == refusals


def test_a_growth_that_stood_is_followed_by_the_next_after_a_minute_again() -> None:
    gateway = LinesGateway(MarketLines(9), limit=10)
    gateway.want(options(11))
    gateway.owner_uses = 7
    gateway.run(500)  # refused at 60, 180 and 420 s: the next try is 8 minutes away
    assert gateway.lines.budget == 3
    gateway.owner_uses = 0
    gateway.run(890)
    assert gateway.lines.budget == 3
    gateway.run(910)
    assert gateway.lines.budget == 4
    gateway.run(950)
    assert gateway.lines.budget == 4
    gateway.run(970)
    assert gateway.lines.budget == 5
    gateway.run(1030)
    assert gateway.lines.budget == 6


def test_after_a_growth_that_stood_the_next_refusal_costs_two_minutes_again() -> None:
    gateway = LinesGateway(MarketLines(9), limit=10)
    gateway.want(options(11))
    gateway.owner_uses = 7
    gateway.run(500)  # the next try is 8 minutes away
    gateway.owner_uses = 0
    gateway.run(970)
    assert gateway.lines.budget == 5
    refusals = len(gateway.refusals)
    gateway.owner_uses = 5
    gateway.run(1030)
    assert len(gateway.refusals) == refusals + 1
    gateway.run(1030 + 2 * GROWTH_WAIT_S)
    assert len(gateway.refusals) == refusals + 2


@pytest.mark.parametrize("wanted", [50, 60])
def test_the_budget_does_not_grow_while_nobody_waits_for_a_line(wanted: int) -> None:
    gateway = gateway_with(70)
    gateway.owner_uses = 40
    gateway.run(30)
    gateway.want(options(wanted))
    gateway.run(3600)
    gateway.lines.decide(gateway.now)

    assert gateway.lines.budget == 60


def test_an_owner_who_takes_every_line_set_free_costs_one_refusal_a_line() -> None:
    gateway = gateway_with(240)
    gateway.run(20)
    for minute in range(25):

        def take() -> None:
            gateway.owner_uses += 1

        gateway.owner_uses = max(gateway.owner_uses, gateway.limit - len(gateway.accepted))
        gateway.at(20 + minute, take)
    gateway.run(60)

    assert gateway.lines.budget <= 100 - gateway.owner_uses
    assert len(gateway.refusals) <= 26
    assert max(gateway.age(con_id) for con_id in options(240)) <= 200 / SWAPS_PER_S + 12


def test_a_budget_that_is_whole_again_is_no_reason_to_decide() -> None:
    lines = MarketLines(2)
    lines.want(options(2))
    lines.decide(0.0)
    lines.refused(1, 0.1)
    lines.decide(10.1)
    lines.decide(0.1 + GROWTH_WAIT_S)
    assert lines.budget == 2
    lines.want(options(3))
    lines.decide(118.0)
    lines.decide(119.0)

    # The next growth would be due at 120.1 s.
    assert lines.decide(120.0) == ((), 118.0 + DWELL_S)


def test_without_any_line_it_asks_again_once_in_a_while() -> None:
    gateway = gateway_with(240)
    gateway.owner_uses = 100
    gateway.run(30)
    assert gateway.lines.budget == 0
    gateway.owner_uses = 0
    gateway.run(300)

    assert gateway.lines.budget >= 3
    assert gateway.first_answer


def test_a_refused_contract_that_was_sold_meanwhile_needs_no_cancel() -> None:
    lines = MarketLines(2)
    lines.want({1: 1.0, 2: 2.0})
    lines.decide(0.0)
    lines.want({2: 2.0})
    lines.refused(1, 0.1)

    assert lines.budget == 1
    assert lines.decide(1.0).actions == ()


# Errors that end one contract's hope


def test_an_unknown_contract_is_never_asked_for_again() -> None:
    gateway = gateway_with(240)
    gateway.unknown = {7, 200}
    gateway.run(120)

    assert gateway.subscriptions[7] == gateway.subscriptions[200] == 1
    assert len(gateway.lines.held) == LINES


def test_a_contract_given_up_for_a_while_is_tried_again_then() -> None:
    lines = MarketLines(2)
    lines.want({1: 1.0})
    lines.decide(0.0)
    lines.given_up(1, until=3600.0)

    assert lines.decide(10.0) == ((), 3600.0)
    assert lines.decide(3600.0).actions == (Subscribe(1),)


def test_a_contract_given_up_while_it_waits_gets_no_line() -> None:
    lines = MarketLines(1)
    lines.want({1: 1.0, 2: 2.0})
    lines.decide(0.0)
    lines.given_up(1)

    assert lines.decide(50.0).actions == ()


def test_a_contract_given_up_after_it_was_sold_needs_no_cancel() -> None:
    lines = MarketLines(2)
    lines.want({1: 1.0, 2: 2.0})
    lines.decide(0.0)
    lines.want({2: 2.0})
    lines.given_up(1)

    assert lines.lines_used == 1
    assert lines.decide(1.0).actions == ()


def test_a_contract_given_up_is_postponed_and_one_that_rests_is_not() -> None:
    gateway = gateway_with(100)
    gateway.unknown = {1}
    gateway.run(30)
    lines = gateway.lines

    assert [con_id for con_id in options(100) if lines.postponed(con_id, gateway.now)] == [1]


def test_a_contract_that_has_just_given_up_its_line_is_not_postponed() -> None:
    lines = MarketLines(1)
    lines.want({1: 1.0, 2: 2.0})
    lines.decide(0.0)
    lines.answered(2, 0.5)

    assert lines.decide(1.0).actions == (Cancel(2), Subscribe(1))
    assert not lines.postponed(2, 1.0)


def test_a_subscription_that_should_have_spoken_is_made_anew_unless_it_speaks() -> None:
    gateway = gateway_with(3, chatty=False)
    gateway.run(50)
    for con_id in (1, 2, 99):
        gateway.lines.renew(con_id)
    gateway.lines.answered(2, gateway.now)
    gateway.run(52)

    assert [action for _, action in gateway.sent[3:]] == [Renew(1)]
    assert 1 in gateway.current


def test_ninety_renewals_keep_the_pace() -> None:
    gateway = gateway_with(LINES, chatty=False)
    gateway.run(10)
    for con_id in options(LINES):
        gateway.lines.renew(con_id)
    gateway.run(20)

    assert len(gateway.messages) == 3 * LINES
    assert most_in_any_second(gateway.messages) <= MESSAGES_PER_S


def test_other_messages_of_the_caller_slow_the_lines_down() -> None:
    lines = MarketLines(LINES)
    lines.want(options(LINES))
    lines.sent(40, 0.0)  # a second's worth

    assert lines.decide(0.0).actions == ()
    assert lines.decide(0.94).actions == ()
    assert lines.decide(0.96).actions


# A competing live session


def test_a_competing_session_is_news_once_and_is_waited_for_quietly() -> None:
    gateway = gateway_with(240)
    gateway.run(30)
    already_sent = len(gateway.messages)
    gateway.start_competing()
    gateway.run(30 + 8 * 3600)

    assert len(gateway.competing_news) == 1
    assert gateway.lines.competing
    hours_8 = 8 * 3600 / COMPETING_PROBE_S
    assert 0.9 * 2 * hours_8 <= len(gateway.messages) - already_sent <= 2 * hours_8 + 4
    assert not gateway.current


def test_when_it_ends_everything_is_subscribed_again_and_goes_round() -> None:
    gateway = gateway_with(240)
    gateway.run(30)
    gateway.start_competing()
    gateway.run(1000)
    gateway.competing = False
    ended = gateway.now
    gateway.run(ended + COMPETING_PROBE_S + 16)

    assert not gateway.lines.competing
    assert max(gateway.age(con_id) for con_id in options(240)) <= 16
    assert most_in_any_second(gateway.messages) <= MESSAGES_PER_S


def test_data_that_come_back_by_themselves_are_not_subscribed_again() -> None:
    gateway = gateway_with(LINES)
    gateway.run(10)
    gateway.start_competing()
    gateway.run(1000)
    gateway.competing = False
    already_sent = len(gateway.messages)
    gateway.current = set(options(LINES))
    gateway.run(1100)

    assert len(gateway.messages) == already_sent
    assert not gateway.lines.competing


def test_the_largest_exposure_is_tried_first() -> None:
    lines = MarketLines(3)
    lines.want(options(3))
    lines.decide(0.0)
    lines.competing_session(1.0)

    assert lines.decide(16.0).actions == (Renew(3),)


def test_an_answer_that_was_under_way_does_not_end_the_wait() -> None:
    lines = MarketLines(2)
    lines.want({1: 1.0, 2: 2.0})
    lines.decide(0.0)
    assert not lines.data_stopped(1, 1.0)
    assert lines.data_stopped(2, 1.1)
    lines.answered(2, 1.2)

    assert lines.competing
    assert lines.decide(1.3).actions == ()


def test_the_answer_that_ends_it_is_news_whatever_came_before() -> None:
    lines = MarketLines(2)
    lines.want({1: 1.0, 2: 2.0})
    lines.decide(0.0)
    lines.answered(2, 0.5)
    lines.competing_session(1.0)
    lines.answered(2, 1.5)  # it was under way
    lines.data_stopped(2, 2.0)

    lines.answered(2, 5.0)
    assert not lines.competing


def test_one_contract_without_data_is_no_competing_session_while_another_line_has_them() -> None:
    lines = MarketLines(3)
    lines.want(options(3))
    lines.decide(0.0)
    for time in range(1, 30):
        assert not lines.data_stopped(1, float(time))
        assert not lines.data_stopped(2, float(time))
        lines.answered(3, time + 0.5)
    assert not lines.competing
    assert [lines.stopped(con_id) for con_id in options(3)] == [True, True, False]

    assert lines.data_stopped(3, 30.0), "now all have lost theirs"


def test_whichever_line_speaks_ends_a_competing_session() -> None:
    lines = MarketLines(2)
    lines.want({1: 1.0, 2: 2.0})
    lines.decide(0.0)
    lines.competing_session(1.0)
    lines.answered(1, 10.0)

    assert not lines.competing
    assert lines.decide(11.0).actions == (Renew(2),), "the other one is asked again at once"


def test_a_contract_that_has_nothing_to_say_does_not_prolong_it() -> None:
    lines = MarketLines(1)
    lines.want({1: 1.0, 2: 2.0})
    lines.decide(0.0)
    assert lines.data_stopped(2, 1.0)
    assert lines.decide(16.0).actions == (Renew(2),)
    lines.data_stopped(2, 16.1)
    assert lines.decide(31.0).actions == (Renew(2),)
    lines.decide(46.0)  # 10197 did not come again

    assert not lines.competing


def test_what_one_competing_session_said_does_not_count_in_the_next() -> None:
    lines = MarketLines(2)
    lines.want(options(2))
    lines.decide(0.0)
    lines.competing_session(1.0)
    lines.answered(1, 10.0)
    assert not lines.competing

    assert not lines.data_stopped(1, 11.0), "the other one was told in the last one"


def test_one_contract_that_is_not_told_so_again_ends_it_for_all() -> None:
    lines = MarketLines(2)
    lines.want(options(2))
    lines.decide(0.0)
    lines.competing_session(1.0)
    assert lines.decide(16.0).actions == (Renew(2),)
    lines.decide(31.0)  # the other one was told once and not tried since

    assert not lines.competing


# The connection, and answers out of turn


def test_after_a_lost_connection_the_largest_exposures_come_first_again() -> None:
    gateway = gateway_with(240)
    gateway.run(30)
    gateway.lose_connection()
    assert gateway.lines.lines_used == 0
    already_sent = len(gateway.sent)
    gateway.run(45)

    first = [action for _, action in gateway.sent[already_sent : already_sent + LINES]]
    assert first == [Subscribe(i) for i in range(240, 240 - LINES, -1)]
    assert max(gateway.age(con_id) for con_id in options(240)) <= 11


def test_a_lost_connection_leaves_nothing_to_cancel() -> None:
    lines = MarketLines(3)
    lines.want(options(3))
    lines.decide(0.0)
    lines.want(options(1))
    lines.connection_lost(1.0)

    assert lines.lines_used == 0
    assert lines.decide(2.0).actions == (Subscribe(1),)


def test_a_new_connection_does_not_wait_for_the_end_of_a_competing_session() -> None:
    lines = MarketLines(3)
    lines.want(options(3))
    lines.decide(0.0)
    lines.competing_session(1.0)
    lines.connection_lost(2.0)

    assert not lines.competing
    assert lines.decide(3.0).actions == (Subscribe(3), Subscribe(2), Subscribe(1))


def test_what_was_learned_about_the_budget_outlives_the_connection() -> None:
    gateway = gateway_with(240)
    gateway.owner_uses = 40
    gateway.run(30)
    refusals = len(gateway.refusals)
    gateway.lose_connection()
    gateway.run(59)

    assert (gateway.lines.budget, gateway.lines.ceiling) == (60, LINES)
    assert len(gateway.refusals) == refusals


def test_events_about_what_holds_no_line_change_nothing() -> None:
    lines = MarketLines(1)
    lines.want({1: 1.0, 2: 2.0})
    lines.decide(0.0)
    lines.given_up(99)

    lines.refused(99, 0.1)
    lines.refused(1, 0.1)
    lines.answered(1, 0.1)
    assert lines.budget == 1
    assert lines.held == {2}


def test_a_silent_contract_is_held_until_it_has_dwelt() -> None:
    lines = MarketLines(1)
    lines.want({1: 1.0, 2: 2.0})
    assert lines.decide(0.0).actions == (Subscribe(2),)
    while (again_at := lines.decide(0.5).again_at) is not None and again_at <= 0.5:
        pass

    assert again_at == DWELL_S
    assert lines.decide(DWELL_S - 0.001).actions == ()
    assert lines.decide(DWELL_S).actions == (Cancel(2), Subscribe(1))


def test_a_silent_contract_that_nobody_waits_for_is_no_reason_to_decide_again() -> None:
    lines = MarketLines(1)
    lines.want({1: 1.0})
    lines.decide(0.0)

    lines.decide(0.5)
    assert lines.decide(0.6) == ((), RENEWAL_S)


def test_no_lines_at_all_is_no_budget() -> None:
    with pytest.raises(ValueError, match="lines"):
        MarketLines(0)


# Whatever the world does

events = st.lists(
    st.tuples(
        st.floats(0, 40),
        st.sampled_from(["want", "owner", "lose", "compete", "peace", "unknown"]),
        st.integers(0, 60),
    ),
    max_size=12,
)


worlds = given(
    events=events,
    budget=st.integers(1, 20),
    free_beyond_budget=st.integers(-19, 10),
    latencies=st.lists(st.sampled_from([0.01, 0.2, 1.0, 4.0, 8.0, math.inf]), min_size=1),
    late_s=st.sampled_from([0.0, 0.0, 0.01, 0.3]),
)


def live_through(
    events: list[tuple[float, str, int]],
    budget: int,
    free_beyond_budget: int,
    latencies: list[float],
    late_s: float,
) -> None:
    gateway = LinesGateway(
        MarketLines(budget),
        budget=budget,
        limit=max(1, budget + free_beyond_budget),
        latency_s=lambda con_id: latencies[con_id % len(latencies)],
        call_late_s=lambda: late_s,
    )
    gateway.want(options(30))

    def act(kind: str, number: int) -> None:
        if kind == "want":
            gateway.want({con_id: float(con_id) for con_id in range(number // 3, number)})
        elif kind == "owner":
            gateway.owner_uses = min(number, gateway.limit - 1)
        elif kind == "lose":
            gateway.lose_connection()
        elif kind == "compete":
            gateway.start_competing()
        elif kind == "peace":
            gateway.competing = False
        else:
            gateway.unknown.add(number)

    for time, kind, number in events:
        gateway.at(time, lambda kind=kind, number=number: act(kind, number))  # type: ignore[misc]
    gateway.run(45)
    gateway.competing = False
    gateway.owner_uses = 0
    gateway.run(45 + 6 * 60)

    assert most_in_any_second(gateway.messages) <= MESSAGES_PER_S
    answering = {c for c in gateway.wanted - gateway.unknown if gateway.latency_s(c) <= 4}
    assert answering <= gateway.first_answer.keys()
    assert all(gateway.age(con_id) <= 60 * 5 for con_id in answering)


@worlds
@settings(max_examples=30)
def test_lines_and_messages_stay_within_their_limits_whatever_happens(**world: Any) -> None:
    live_through(**world)


@pytest.mark.long
@worlds
@settings(max_examples=3000)
def test_lines_and_messages_stay_within_their_limits_in_thousands_of_worlds(**world: Any) -> None:
    live_through(**world)
