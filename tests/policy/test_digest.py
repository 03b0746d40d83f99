"""An alert comes soon if something is new, rarely if it continues, and never grows."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.model import Severity
from trio_bridge.policy.digest import (
    CLOSEST_S,
    FIRST_REPEAT_S,
    GATHER_S,
    LONGEST_REPEAT_S,
    MOST_KINDS,
    Bulletin,
    Digest,
    DigestLine,
    RowSilence,
    SilenceWatch,
)

AT = datetime(2026, 1, 2, tzinfo=UTC)


def add(digest: Digest, kind: str, now: float, message: str = "") -> None:
    digest.add(AT, kind, Severity.WARNING, message or kind, now=now)


def test_nothing_to_tell_means_no_alert() -> None:
    assert Digest().due_at == math.inf


def test_what_is_new_is_told_within_seconds_together_with_what_belongs_to_it() -> None:
    digest = Digest()
    add(digest, "disconnected", 100.0)
    add(digest, "reconnect attempt 1 in 5 s", 101.0)
    assert digest.due_at == 100.0 + GATHER_S
    assert [line.message for line in digest.take(102.0).lines] == [
        "disconnected",
        "reconnect attempt 1 in 5 s",
    ]
    assert digest.due_at == math.inf


def test_of_one_topic_only_the_latest_is_told() -> None:
    digest = Digest()
    for number, kind in enumerate(("partial", "complete", "missed", "complete")):
        digest.add(AT, kind, Severity.INFO, f"{number}", now=100.0 + number, topic="rows")
    assert digest.take(104.0).lines == (DigestLine(AT, "complete", Severity.INFO, "3", 4),)


def test_two_alerts_keep_their_distance() -> None:
    digest = Digest()
    add(digest, "one", 100.0)
    digest.take(102.0)
    add(digest, "another", 103.0)
    assert digest.due_at == 102.0 + CLOSEST_S


def test_a_kind_is_one_line_with_the_latest_text() -> None:
    digest = Digest()
    for number in range(1, 31):
        add(digest, "gateway.reconnecting", 100.0 + number, f"reconnect attempt {number}")
    (line,) = digest.take(200.0).lines
    assert (line.kind, line.message) == ("gateway.reconnecting", "reconnect attempt 30")
    assert line.times == 30


def test_the_same_words_of_another_kind_are_another_line() -> None:
    digest = Digest()
    add(digest, "spool.full", 0.0, "full")
    add(digest, "database.full", 0.0, "full")
    assert len(digest.take(2.0).lines) == 2


def test_a_night_of_warnings_is_a_handful_of_alerts() -> None:
    digest, told, counted = Digest(), [], 0
    for tick in range(8 * 3600 // 20):
        now = tick * 20.0
        if digest.due_at <= now:
            counted += sum(line.times for line in digest.take(now).lines)
            told.append(now)
        add(digest, "reconnecting", now, f"reconnect attempt {tick}")
    waits = [b - a for a, b in pairwise(told)]
    assert told[0] <= GATHER_S + 20
    assert waits[0] <= FIRST_REPEAT_S + 20
    assert max(waits) <= LONGEST_REPEAT_S + 20
    assert len(told) < 15
    assert counted + sum(line.times for line in digest.take(1e6).lines) == 8 * 3600 // 20


def test_what_goes_on_is_told_after_one_two_four_minutes_up_to_an_hour() -> None:
    digest = Digest()
    told: list[float] = []
    for _ in range(9):
        add(digest, "disconnected", told[-1] + 1.0 if told else 0.0)
        told.append(digest.due_at)
        add(digest, "disconnected", told[-1])
        digest.take(told[-1])
    waits = [(b - a) / 60.0 for a, b in pairwise(told)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_new_kind_does_not_wait_for_the_repetitions() -> None:
    digest = Digest()
    add(digest, "attempt", 0.0)
    digest.take(2.0)
    add(digest, "attempt", 20.0)
    assert digest.due_at == 2.0 + FIRST_REPEAT_S
    add(digest, "the disk is full", 30.0)
    assert digest.due_at == 30.0 + GATHER_S
    assert len(digest.take(32.0).lines) == 2


def test_what_comes_back_after_a_quiet_hour_is_new() -> None:
    digest, now = Digest(), 0.0
    for _ in range(9):
        add(digest, "disconnected", now)
        now = digest.due_at
        digest.take(now)
    later = now + 2 * LONGEST_REPEAT_S
    add(digest, "disconnected", later)
    assert digest.due_at == later + GATHER_S
    digest.take(digest.due_at)
    add(digest, "disconnected", later + 10)
    assert digest.due_at == later + GATHER_S + FIRST_REPEAT_S  # not an hour, as before


@pytest.mark.parametrize(
    ("silent_s", "wait_s"), [(3599.0, LONGEST_REPEAT_S), (3600.0, FIRST_REPEAT_S)]
)
def test_an_hour_of_silence_makes_a_kind_new_again(silent_s: float, wait_s: float) -> None:
    digest, now = Digest(), 0.0
    for _ in range(9):
        add(digest, "disconnected", now)
        now = digest.due_at
        add(digest, "disconnected", now)
        digest.take(now)
    add(digest, "disconnected", now + silent_s)
    told = digest.due_at
    digest.take(told)
    add(digest, "disconnected", told + 1.0)
    assert digest.due_at == told + wait_s


def test_what_nobody_took_for_hours_is_still_told() -> None:
    digest = Digest()
    add(digest, "early", 0.0)
    add(digest, "late", 10_000.0)
    assert [line.message for line in digest.take(10_002.0).lines] == ["early", "late"]


def test_where_nothing_is_left_out_nothing_is_said_to_be() -> None:
    digest = Digest()
    add(digest, "disconnected", 0.0)
    told = digest.take(2.0)
    assert told == Bulletin((DigestLine(AT, "disconnected", Severity.WARNING, "disconnected", 1),))
    assert (told.left_out, digest.take(20.0)) == (0, Bulletin((), 0))


def test_kinds_beyond_the_limit_are_counted() -> None:
    digest = Digest()
    for number in range(MOST_KINDS + 7):
        add(digest, f"contract {'x' * number}", 0.0)
    bulletin = digest.take(2.0)
    assert len(bulletin.lines) == MOST_KINDS
    assert bulletin.left_out == 7


@given(st.lists(st.tuples(st.floats(0, 5000), st.sampled_from("abcd")), max_size=200))
def test_every_event_is_told_once_and_none_is_forgotten(steps: list[tuple[float, str]]) -> None:
    digest, now, told = Digest(), 0.0, 0
    for pause, kind in steps:
        until = now + pause
        while digest.due_at <= until:
            at = digest.due_at
            told += sum(line.times for line in digest.take(at).lines)
        now = until
        add(digest, kind, now)
        assert digest.due_at <= now + LONGEST_REPEAT_S
    told += sum(line.times for line in digest.take(now).lines)
    assert told == len(steps)


def test_bulletins_join_in_their_order() -> None:
    digest = Digest()
    add(digest, "one", 0.0)
    first = digest.take(2.0)
    add(digest, "two", 3.0)
    both = first.followed_by(digest.take(13.0))
    assert [line.message for line in both.lines] == ["one", "two"]
    assert Bulletin((), 1).followed_by(Bulletin((), 2)).left_out == 3


def test_a_short_silence_is_nobodys_business() -> None:
    watch = SilenceWatch(300.0, now=0.0)
    assert watch.look(now=299.0, right_s=None, excused=False) is None
    assert watch.look(now=300.0, right_s=299.5, excused=False) is None
    assert watch.look(now=599.0, right_s=299.5, excused=False) is None


def test_a_long_silence_is_told_once_and_so_is_its_end() -> None:
    watch = SilenceWatch(300.0, now=0.0)
    assert watch.look(now=310.0, right_s=10.0, excused=False) == RowSilence(300.0, over=False)
    assert watch.look(now=400.0, right_s=10.0, excused=False) is None
    assert watch.look(now=505.0, right_s=504.0, excused=False) == RowSilence(494.0, over=True)
    assert watch.look(now=506.0, right_s=504.0, excused=False) is None
    assert watch.look(now=804.0, right_s=504.0, excused=False) == RowSilence(300.0, over=False)


def test_silence_within_a_reset_window_is_expected() -> None:
    watch = SilenceWatch(300.0, now=0.0)
    assert watch.look(now=1400.0, right_s=100.0, excused=True) is None
    assert watch.look(now=1600.0, right_s=100.0, excused=False) is None
    assert watch.look(now=1700.0, right_s=100.0, excused=False) == RowSilence(300.0, over=False)
    assert watch.look(now=1800.0, right_s=100.0, excused=True) is None
    assert watch.look(now=1900.0, right_s=1899.0, excused=False) is not None


def test_a_burst_of_kinds_does_not_silence_what_comes_after_it() -> None:
    digest = Digest()
    for number in range(MOST_KINDS):
        add(digest, "x" * (number + 1), 0.0)
    digest.take(2.0)
    add(digest, "disconnected", 20.0)
    assert digest.due_at == 20.0 + GATHER_S
    assert digest.take(22.0) == Bulletin(
        (DigestLine(AT, "disconnected", Severity.WARNING, "disconnected", 1),)
    )


def test_room_is_made_by_the_kinds_that_were_silent_longest() -> None:
    digest = Digest()
    for number in range(MOST_KINDS):
        add(digest, "x" * (number + 1), 0.0)
    digest.take(2.0)
    add(digest, "x", 3.0)
    for number in range(MOST_KINDS - 1):
        add(digest, "y" * (number + 1), 4.0)
    assert len(digest.take(14.0).lines) == MOST_KINDS
    add(digest, "x", 20.0)
    assert digest.due_at == 14.0 + 2 * FIRST_REPEAT_S  # a repetition
    add(digest, "xx", 20.0)
    assert digest.due_at == 14.0 + CLOSEST_S  # forgotten, so it is news


def test_no_alert_is_without_a_line() -> None:
    digest = Digest()
    for number in range(4 * MOST_KINDS):
        add(digest, "x" * number, float(number))
        if digest.due_at <= number:
            assert digest.take(float(number)).lines
    assert digest.take(1000.0).lines
