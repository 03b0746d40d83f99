"""Hold windows in New York time: when the bridge waits, and until when."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as clock
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trio_bridge.policy.reset_window import (
    WEEKDAYS,
    ResetWindow,
    eastern_text,
    hold_until,
    parse_reset_windows,
)

DEFAULT = parse_reset_windows("23:40-00:05")
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

# The rule of the Energy Policy Act of 2005, spelled out so that the zone database is not its own
# witness: the clock changes at 2:00 on the second Sunday of March and the first of November.


def spring_change(year: int) -> datetime:
    return datetime(year, 3, 8 + (6 - date(year, 3, 8).weekday()), 7, tzinfo=UTC)


def autumn_change(year: int) -> datetime:
    return datetime(year, 11, 1 + (6 - date(year, 11, 1).weekday()), 6, tzinfo=UTC)


def new_york_reading(instant: datetime) -> datetime:
    summer = spring_change(instant.year) <= instant < autumn_change(instant.year)
    return (instant - timedelta(hours=4 if summer else 5)).replace(tzinfo=None)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


years = st.integers(2008, 2036)
instants = st.datetimes(datetime(2008, 1, 2), datetime(2036, 12, 30), timezones=st.just(UTC))
near_a_change = st.builds(
    lambda year, change, offset: change(year) + offset,
    years,
    st.sampled_from([spring_change, autumn_change]),
    st.timedeltas(-2 * DAY, 2 * DAY),
)
certain_times = st.times().filter(lambda at: not 1 <= at.hour < 3)


def minutes_between(start: clock, end: clock) -> timedelta:
    return timedelta(hours=end.hour - start.hour, minutes=end.minute - start.minute)


@st.composite
def certain_windows(draw: st.DrawFn) -> ResetWindow:
    """Windows of which neither reading is ever skipped or repeated."""
    weekday = draw(st.none() | st.integers(0, 6))
    start, end = (draw(certain_times).replace(second=0, microsecond=0) for _ in "ab")
    assume(start != end)
    length = minutes_between(start, end) % DAY
    if weekday is not None:
        length += draw(st.sampled_from([0, 0, 1])) * DAY
    return ResetWindow(start, length, weekday)


def covers(window: ResetWindow, reading: datetime) -> bool:
    """Whether a reading of the clock lies in the window; seconds are ignored."""
    minute = reading.weekday() * 1440 + reading.hour * 60 + reading.minute
    length = window.length // MINUTE
    start = window.start.hour * 60 + window.start.minute
    if window.weekday is None:
        return (minute - start) % 1440 < length
    return (minute - start - window.weekday * 1440) % (7 * 1440) < length


@given(instants | near_a_change, st.lists(certain_windows(), max_size=3))
def test_a_hold_lasts_as_long_as_new_yorks_clock_reads_a_time_inside(
    now: datetime, windows: list[ResetWindow]
) -> None:
    expected = now
    while any(covers(window, new_york_reading(expected)) for window in windows):
        expected = expected.replace(second=0, microsecond=0) + MINUTE
        assume(expected - now < 9 * DAY)

    assert hold_until(now, windows) == (None if expected == now else expected)


@pytest.mark.parametrize(
    ("now", "until"),
    [
        # winter: UTC-5
        ("2026-01-15 04:39:59.999999", None),
        ("2026-01-15 04:40:00", "2026-01-15 05:05:00"),
        ("2026-01-15 04:59:00", "2026-01-15 05:05:00"),
        ("2026-01-15 05:00:00", "2026-01-15 05:05:00"),
        ("2026-01-15 05:04:59.999999", "2026-01-15 05:05:00"),
        ("2026-01-15 05:05:00", None),
        # summer: UTC-4
        ("2026-07-15 03:39:59.999999", None),
        ("2026-07-15 03:40:00", "2026-07-15 04:05:00"),
        ("2026-07-15 04:05:00", None),
        ("2026-07-15 04:40:00", None),
        # the nights around both changes
        ("2026-03-08 04:45:00", "2026-03-08 05:05:00"),
        ("2026-03-09 03:45:00", "2026-03-09 04:05:00"),
        ("2026-11-01 03:45:00", "2026-11-01 04:05:00"),
        ("2026-11-02 04:45:00", "2026-11-02 05:05:00"),
        # the turn of the year
        ("2026-01-01 04:45:00", "2026-01-01 05:05:00"),
    ],
)
def test_the_default_window_holds_from_23_40_until_00_05(now: str, until: str | None) -> None:
    assert hold_until(utc(now), DEFAULT) == (utc(until) if until else None)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Pacific/Apia", "America/Los_Angeles"])
def test_the_zone_of_the_machine_does_not_matter(
    zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert hold_until(utc("2026-07-15 03:40"), DEFAULT) == utc("2026-07-15 04:05")
        assert hold_until(utc("2026-07-15 04:05"), DEFAULT) is None
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "zone", [timezone(timedelta(hours=9)), ZoneInfo("America/New_York"), ZoneInfo("Europe/Berlin")]
)
def test_an_instant_may_be_given_in_any_zone(zone: timezone | ZoneInfo) -> None:
    until = hold_until(utc("2026-07-15 03:59").astimezone(zone), DEFAULT)

    assert until == utc("2026-07-15 04:05")
    assert until is not None
    assert until.tzinfo is UTC


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        hold_until(datetime(2026, 7, 15, 3, 40), DEFAULT)


def test_no_windows_never_hold() -> None:
    assert hold_until(utc("2026-07-15 03:59"), ()) is None


def test_windows_that_overlap_or_touch_are_one_hold() -> None:
    windows = parse_reset_windows("00:05-00:30, 23:40-00:05, 00:20-01:00, Thu 01:00-02:00")

    assert hold_until(utc("2026-01-15 04:40"), windows) == utc("2026-01-15 07:00")
    assert hold_until(utc("2026-01-16 04:40"), windows) == utc("2026-01-16 06:00")


def test_windows_that_can_be_read_only_once_are_enough() -> None:
    windows = iter(parse_reset_windows("00:05-00:30, 23:40-00:05"))

    assert hold_until(utc("2026-01-15 04:40"), windows) == utc("2026-01-15 05:30")


def test_a_weekend_window_is_one_hold_across_midnight() -> None:
    windows = parse_reset_windows("Fri 23:00-Sat 03:00")
    held = ["2026-01-17 04:00", "2026-01-17 05:00", "2026-01-17 07:59:59"]
    free = ["2026-01-17 03:59:59", "2026-01-17 08:00", "2026-01-16 05:00", "2026-01-18 05:00"]

    assert {hold_until(utc(now), windows) for now in held} == {utc("2026-01-17 08:00")}
    assert {hold_until(utc(now), windows) for now in free} == {None}


def test_a_window_of_almost_a_day_is_one_hold_until_its_evening() -> None:
    windows = parse_reset_windows("23:40-22:00")

    # 21:00 ET, when it is already tomorrow in UTC
    assert hold_until(utc("2026-01-16 02:00"), windows) == utc("2026-01-16 03:00")
    assert hold_until(utc("2026-01-16 03:00"), windows) is None


# The two nights on which the clock changes


def test_a_time_the_spring_change_skips_is_read_an_hour_later() -> None:
    # 2026-03-08: 02:00 EST (07:00 UTC) becomes 03:00 EDT
    windows = parse_reset_windows("01:30-02:30")

    assert hold_until(utc("2026-03-08 06:30"), windows) == utc("2026-03-08 07:30")
    assert hold_until(utc("2026-03-08 07:30"), windows) is None


def test_a_window_within_the_skipped_hour_is_kept() -> None:
    windows = parse_reset_windows("02:15-02:45")

    assert hold_until(utc("2026-03-08 07:14"), windows) is None
    assert hold_until(utc("2026-03-08 07:15"), windows) == utc("2026-03-08 07:45")
    assert hold_until(utc("2026-03-08 07:45"), windows) is None


def test_a_window_that_would_end_before_it_starts_keeps_its_length() -> None:
    windows = parse_reset_windows("02:30-03:15")

    assert hold_until(utc("2026-03-08 07:30"), windows) == utc("2026-03-08 08:15")


def test_a_window_that_would_end_as_it_starts_keeps_its_length() -> None:
    windows = parse_reset_windows("02:30-03:30")

    assert hold_until(utc("2026-03-08 07:30"), windows) == utc("2026-03-08 08:30")


def test_a_time_the_autumn_change_repeats_means_the_first() -> None:
    # 2026-11-01: 02:00 EDT (06:00 UTC) becomes 01:00 EST
    windows = parse_reset_windows("00:15-01:45")

    assert hold_until(utc("2026-11-01 04:15"), windows) == utc("2026-11-01 05:45")
    assert hold_until(utc("2026-11-01 05:45"), windows) is None
    assert hold_until(utc("2026-11-01 06:30"), windows) is None


def test_a_window_over_the_repeated_hour_holds_through_both() -> None:
    windows = parse_reset_windows("00:30-02:30")

    assert hold_until(utc("2026-11-01 04:30"), windows) == utc("2026-11-01 07:30")


@given(
    years,
    st.sampled_from([spring_change, autumn_change]),
    st.times().map(lambda at: at.replace(second=0, microsecond=0)),
    st.integers(1, 22 * 60),
)
@settings(max_examples=25)
def test_no_daily_window_vanishes_or_lasts_a_day_when_the_clock_changes(
    year: int, change: object, start: clock, minutes: int
) -> None:
    assert callable(change)
    window = ResetWindow(start, minutes * MINUTE)
    noon_before: datetime = change(year) - 43 * HOUR
    instants = [noon_before + i * MINUTE for i in range(4 * 1440)]
    until = [hold_until(now, [window]) for now in instants]

    # Each hold as seen minute by minute; the scan may cut the first and the last.
    holds: list[list[datetime]] = []
    for before, now in pairwise(range(len(instants))):
        end = until[now]
        if end is None:
            continue
        if until[before] is None:
            holds.append([])
        if holds:
            holds[-1].append(instants[now])
            assert holds[-1][0] + len(holds[-1]) * MINUTE <= end
    whole = [hold for hold in holds if hold[-1] != instants[-1]]

    assert len(whole) >= 3
    for hold in whole:
        assert hold_until(hold[0], [window]) == hold[-1] + MINUTE
        assert abs(len(hold) - minutes) <= 60
    assert all(abs(b[0] - a[0] - DAY) <= HOUR for a, b in pairwise(whole))


# Reading the setting


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("23:40-00:05", ["23:40-00:05"]),
        ("Fri 23:00-Sat 03:00", ["Fri 23:00-Sat 03:00"]),
        ("Sun 00:15-01:45", ["Sun 00:15-Sun 01:45"]),
        ("Sun 23:40-00:05", ["Sun 23:40-Mon 00:05"]),
        ("Sat 03:00-Fri 23:00", ["Sat 03:00-Fri 23:00"]),
        ("Fri 23:00-Fri 22:00", ["Fri 23:00-Fri 22:00"]),
        (" 9:05 - 10:00 ,fri 23:00–SAT 3:00, ", ["09:05-10:00", "Fri 23:00-Sat 03:00"]),
        ("none", []),
        (" None ", []),
        ("", []),
        ("  ", []),
    ],
)
def test_accepted_forms(text: str, read: list[str]) -> None:
    assert [str(window) for window in parse_reset_windows(text)] == read


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("23:40", "'23:40' is not"),
        ("23:40-00:05, tomorrow", "'tomorrow' is not"),
        ("23:40-24:00", "24:00 is not a time of day"),
        ("23:60-23:00", "23:60 is not a time of day"),
        ("Fry 23:00-Sat 03:00", "Fry is not one of Mon"),
        ("Fri 23:00-Sam 03:00", "Sam is not one of Mon"),
        ("23:00-Sat 03:00", "first day is missing"),
        ("23:40-23:40", "empty"),
        ("Fri 23:00-23:00", "empty"),
        ("Fri 23:00-Fri 23:00", "empty"),
        ("23:40-00:05\nFri 1:00-2:00", "is not a reset window"),
        ("none, 23:40-00:05", "'none' is not"),
        ("١٢:٠٠-١٣:٠٠", "is not a reset window"),
        ("00:00-12:00, 12:00-00:00", "leave no time to connect"),
        ("Mon 00:00-Fri 00:00, Thu 12:00-Mon 00:00", "leave no time to connect"),
    ],
)
def test_a_bad_part_is_named_in_one_line_with_what_is_accepted(text: str, named: str) -> None:
    with pytest.raises(ValueError, match="reset window") as caught:
        parse_reset_windows(text)

    message = str(caught.value)
    assert named in message
    assert "\n" not in message
    assert "HH:MM-HH:MM" in message or "no time to connect" in message


def test_minutes_beyond_sunday_are_monday_s_once_more() -> None:
    assert len(parse_reset_windows("00:00-23:59, Sun 23:58-Mon 00:30")) == 2


def test_one_free_minute_a_week_is_enough() -> None:
    windows = parse_reset_windows("Mon 00:00-Thu 12:00, Thu 12:01-Mon 00:00")

    assert hold_until(utc("2026-01-16 00:00"), windows) == utc("2026-01-22 17:00")


@pytest.mark.parametrize("between", ["18:00", "18:01"])
def test_windows_that_fill_the_day_together_are_refused(between: str) -> None:
    with pytest.raises(ValueError, match="no time to connect"):
        parse_reset_windows(f"00:00-{between}, {between}-00:00")


@given(certain_windows())
def test_a_window_prints_as_it_is_written(window: ResetWindow) -> None:
    assert parse_reset_windows(str(window)) == (window,)
    assert repr(window) == f"ResetWindow({str(window)!r})"


@given(st.text(alphabet="0123456789:-, MonTueFriatSun", max_size=40))
def test_any_text_is_windows_or_one_line(text: str) -> None:
    try:
        windows = parse_reset_windows(text)
    except ValueError as error:
        message = str(error)
    else:
        message = ""
        assert parse_reset_windows(",".join(map(str, windows))) == windows
    assert "\n" not in message


@pytest.mark.parametrize(
    ("length", "weekday"),
    [
        (timedelta(0), None),
        (-MINUTE, 3),
        (DAY, None),
        (7 * DAY, 0),
        (8 * DAY, 0),
    ],
)
def test_an_empty_or_endless_window_cannot_be_made(length: timedelta, weekday: int | None) -> None:
    with pytest.raises(ValueError, match=r"empty|no time"):
        ResetWindow(clock(23, 40), length, weekday)


def test_windows_made_by_hand_that_leave_no_time_still_end() -> None:
    windows = [ResetWindow(clock(0), 23 * HOUR), ResetWindow(clock(22), 4 * HOUR)]
    until = hold_until(utc("2026-01-15 12:00"), windows)

    assert until is not None
    assert until - utc("2026-01-15 12:00") < 30 * DAY


# Messages


def test_the_end_of_a_hold_is_told_in_eastern_time() -> None:
    now = utc("2026-07-15 03:40")

    assert eastern_text(utc("2026-07-15 04:05")) == "00:05 ET"
    assert eastern_text(utc("2026-01-15 05:05")) == "00:05 ET"
    assert eastern_text(utc("2026-07-16 03:39"), seen_from=now) == "23:39 ET"
    assert eastern_text(utc("2026-07-18 07:00"), seen_from=now) == "Sat 03:00 ET"


def test_the_days_of_the_week_are_numbered_as_python_does() -> None:
    monday = date(2026, 1, 12)

    assert [f"{monday + i * DAY:%a}" for i in range(7)] == list(WEEKDAYS)


def test_the_day_is_told_from_exactly_one_day_on() -> None:
    now = utc("2026-07-15 12:00")
    assert eastern_text(utc("2026-07-16 12:00"), seen_from=now) == "Thu 08:00 ET"
    assert eastern_text(utc("2026-07-16 11:59"), seen_from=now) == "07:59 ET"
