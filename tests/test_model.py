"""The values that cross the bridge's channels."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from trio_bridge.model import (
    AccountSet,
    ApiEvent,
    ApiMode,
    DataType,
    Greeks,
    Position,
    Severity,
    Snapshot,
    utc_now,
)

AT = datetime(2026, 7, 15, 14, 30, 0, 123_000, tzinfo=UTC)
EVENT = ApiEvent(AT, ApiMode.SOCKET, "connected")
SNAPSHOT = Snapshot(AT, "DU1", 1.0, 2.0, 3.0, 4.0, 5.0, positions=1, priced=1)


def test_a_time_without_zone_is_no_instant() -> None:
    with pytest.raises(TypeError, match="naive"):
        ApiEvent(datetime(2026, 7, 15, 14, 30), ApiMode.SOCKET, "when?")


def test_events_get_an_id_of_their_own_unless_they_bring_one() -> None:
    given_id = UUID(int=7)

    assert EVENT.event_id != ApiEvent(AT, ApiMode.SOCKET, "connected").event_id
    assert ApiEvent(AT, ApiMode.PORTAL, "again", event_id=given_id).event_id == given_id


def test_a_row_is_the_same_one_whoever_takes_it_and_whatever_it_says() -> None:
    def row(at: datetime = AT, account: str = "DU2,DU1", **others: Any) -> Snapshot:
        values: dict[str, Any] = {"delta": 1.0, **others}
        return Snapshot(
            timestamp=at,
            account=account,
            gamma=None,
            vega=None,
            theta=None,
            underlying_price=None,
            positions=1,
            priced=1,
            **values,
        )

    tokyo = AT.astimezone(timezone(timedelta(hours=9)))
    for same in (row(delta=7.0, recorder="other:1"), row(tokyo), row(account="DU1,DU2")):
        assert same.event_id == row().event_id
    later = AT + timedelta(microseconds=1)
    for other in (row(later), row(account="DU1"), row(account="DU1,DU2,DU3"), row(contract="SPX")):
        assert other.event_id != row().event_id
    assert row(event_id=UUID(int=7)).event_id == UUID(int=7)


def test_a_set_of_accounts_is_stored_once_for_each_time_that_a_process_begins_with_it() -> None:
    one = AccountSet(AT, "65-accounts-0123456789abcdef", "DU1,DU2")

    assert one.event_id == AccountSet(AT, one.key, "").event_id
    assert one.event_id != AccountSet(AT + timedelta(seconds=5), one.key, one.accounts).event_id
    assert one.event_id != AccountSet(AT, "65-accounts-0123456789abcdee", one.accounts).event_id


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
