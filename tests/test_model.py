"""The values that cross the bridge's channels."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.model import (
    ApiEvent,
    ApiMode,
    DataType,
    Greeks,
    Position,
    Severity,
    Snapshot,
    new_event_id,
    utc_now,
)

AT = datetime(2026, 7, 15, 14, 30, 0, 123_000, tzinfo=UTC)
EVENT = ApiEvent(AT, ApiMode.SOCKET, "connected")
SNAPSHOT = Snapshot(AT, "DU1", 1.0, 2.0, 3.0, 4.0, 5.0, positions=1, priced=1)

instants = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


def milliseconds(event_id: UUID) -> int:
    return event_id.int >> 80


@given(instants)
def test_an_event_id_is_a_uuid_of_version_7_that_carries_its_time(at: datetime) -> None:
    event_id = new_event_id(at)

    assert (event_id.version, event_id.variant) == (7, RFC_4122)
    carried = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds(event_id))
    assert timedelta(0) <= at - carried < timedelta(milliseconds=1)


@given(st.lists(instants, max_size=20))
def test_event_ids_sort_like_their_rows(times: list[datetime]) -> None:
    times = sorted(times)

    for (earlier, one), (later, other) in pairwise((at, new_event_id(at)) for at in times):
        assert one < other or later - earlier < timedelta(milliseconds=1)


def test_event_ids_of_one_instant_differ() -> None:
    assert len({new_event_id(AT) for _ in range(1000)}) == 1000


def test_the_zone_of_an_instant_does_not_change_its_id() -> None:
    tokyo = AT.astimezone(timezone(timedelta(hours=9)))

    assert milliseconds(new_event_id(tokyo)) == milliseconds(new_event_id(AT))


def test_a_time_without_zone_is_no_instant() -> None:
    with pytest.raises(TypeError, match="naive"):
        ApiEvent(datetime(2026, 7, 15, 14, 30), ApiMode.SOCKET, "when?")


def test_rows_get_an_id_of_their_own_unless_they_bring_one() -> None:
    given_id = UUID(int=7)

    assert EVENT.event_id != ApiEvent(AT, ApiMode.SOCKET, "connected").event_id
    assert milliseconds(EVENT.event_id) == milliseconds(SNAPSHOT.event_id)
    assert ApiEvent(AT, ApiMode.PORTAL, "again", event_id=given_id).event_id == given_id


def test_a_row_can_not_be_changed_on_its_way() -> None:
    position = Position("DU1", 1, "OPT", "X", 1.0, 100.0)
    for value, name in ((EVENT, "message"), (SNAPSHOT, "delta"), (position, "quantity")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, 0)
    with pytest.raises(AttributeError):
        setattr(Greeks(1.0, 1.0, 1.0, 1.0, 1.0), "delta", 0)  # noqa: B010  # mypy knows it


def test_the_words_that_readers_of_the_tables_see() -> None:
    assert [kind.label for kind in DataType] == ["live", "frozen", "delayed", "delayed-frozen"]
    assert [*Severity] == ["info", "warning", "error"]
    assert [*ApiMode] == ["SOCKET", "PORTAL"]
    assert SNAPSHOT.contract == "PORTFOLIO"
    assert EVENT.status == "info"


def test_kinds_of_data_have_the_gateways_numbers_worst_last() -> None:
    assert [*DataType] == [1, 2, 3, 4]
    assert DataType.LIVE < DataType.FROZEN < DataType.DELAYED < DataType.DELAYED_FROZEN


def test_the_order_of_the_greeks_is_fixed() -> None:
    """They are unpacked by place where rows are summed."""
    assert Greeks._fields[:5] == ("delta", "gamma", "vega", "theta", "underlying_price")


def test_the_wall_clock_is_read_in_utc() -> None:
    before = datetime.now(UTC)

    assert utc_now().tzinfo is UTC
    assert before <= utc_now() <= datetime.now(UTC)
