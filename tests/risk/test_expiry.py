"""Last trading instants: days, times and zones as gateways say them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.risk.expiry import ALIASES, CLOSES, last_trade, zone_of


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "clock", "zone", "at"),
    [
        ("20240621", "16:00", "US/Eastern", "2024-06-21 20:00"),
        ("20240621", "08:30", "US/Central", "2024-06-21 13:30"),  # a quarterly option on ES
        ("20241220", "08:30:00", "US/Central", "2024-12-20 14:30"),
        ("20230624", "04:00:00", "Asia/Shanghai", "2023-06-23 20:00"),  # TWS's login was there
        ("20240621", "13:00", "MET", "2024-06-21 11:00"),  # DAX
        ("20241220", "13:00", "MET (Middle Europe Time)", "2024-12-20 12:00"),
        ("20240621", "16:00", "EST (Eastern Standard Time)", "2024-06-21 20:00"),
        ("20240621", "15:00", "CST (Central Standard Time)", "2024-06-21 20:00"),
        ("20240621", "15:15", "Japan", "2024-06-21 06:15"),
        ("20240621", "15:15", "JST", "2024-06-21 06:15"),
        ("20240621", "16:30", "GB-Eire", "2024-06-21 15:30"),
        ("20240621", "16:30", "UTC", "2024-06-21 16:30"),
    ],
)
def test_day_time_and_zone_are_an_instant(day: str, clock: str, zone: str, at: str) -> None:
    assert last_trade(day, clock, zone, currency="USD") == utc(at)


@pytest.mark.parametrize(
    ("currency", "zone", "at"),
    [
        ("USD", "", "2024-06-21 21:00"),  # 16:00 in Chicago
        ("USD", "US/Central", "2024-06-21 21:00"),
        ("EUR", "", "2024-06-21 16:30"),
        ("JPY", "Japan", "2024-06-21 06:45"),
        ("HKD", "", "2024-06-21 08:30"),
        ("GBP", "GB-Eire", "2024-06-21 17:00"),
        ("ZAR", "Africa/Johannesburg", "2024-06-21 22:00"),  # a currency without an entry
        ("", "", "2024-06-22 12:00"),  # the day ends last at UTC-12
    ],
)
def test_a_day_alone_ends_with_the_latest_usual_close(currency: str, zone: str, at: str) -> None:
    assert last_trade("20240621", "", zone, currency=currency) == utc(at)


@pytest.mark.parametrize(
    ("currency", "at"),
    [("USD", "2024-06-21 20:00"), ("JPY", "2024-06-21 07:00"), ("ZAR", "2024-06-22 04:00")],
)
def test_a_zone_that_is_not_known_is_the_currencys(currency: str, at: str) -> None:
    assert last_trade("20240621", "16:00", "Mars/Olympus", currency=currency) == utc(at)


@pytest.mark.parametrize(
    "day",
    ["", "202406", "NOEXP", "20240632", "2024-W25", "00010101", "99991231", "２０２４０６２１"],
)
def test_what_is_no_day_is_no_instant(day: str) -> None:
    assert last_trade(day, "16:00", "US/Eastern") is None


def test_a_time_that_cannot_be_read_is_no_time() -> None:
    assert last_trade("20240621", "soon", "US/Eastern", currency="USD") == utc("2024-06-21 21:00")


@given(st.text(max_size=30), st.text(max_size=10), st.text(max_size=60), st.text(max_size=4))
def test_no_text_of_a_gateway_breaks_it(day: str, clock: str, zone: str, currency: str) -> None:
    for on in (day, "20240621"):
        at = last_trade(on, clock, zone, currency=currency)
        assert at is None or at.tzinfo is UTC


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "America", "US/Nowhere", "a\0b"])
def test_what_is_no_zone_is_none(name: str) -> None:
    assert zone_of(name) is None


def test_every_zone_that_we_name_exists() -> None:
    for name in (*ALIASES.values(), *(close.zone for close in CLOSES.values())):
        assert isinstance(zone_of(name), ZoneInfo), name


@given(
    st.sampled_from(sorted(CLOSES)),
    st.dates(datetime(2020, 1, 1).date(), datetime(2040, 1, 1).date()),
)
def test_an_option_ends_on_its_day_where_it_trades(currency: str, day: datetime) -> None:
    at = last_trade(f"{day:%Y%m%d}", currency=currency)
    assert at is not None
    there = at.astimezone(ZoneInfo(CLOSES[currency].zone))
    assert there.date() == day
    assert there.time() == CLOSES[currency].at
    assert (
        timedelta(0) < at - datetime(day.year, day.month, day.day, tzinfo=UTC) < timedelta(days=1)
    )
