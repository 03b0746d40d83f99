"""Ids, accounts and recorders: the same where they must be, in every process and version."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge import identity
from trio_bridge.identity import (
    LONGEST_ACCOUNT,
    account_of,
    derived_event_id,
    is_key,
    new_event_id,
    recorder,
)

AT = datetime(2026, 7, 15, 14, 30, 0, 123_000, tzinfo=UTC)
MANY = tuple(f"DU{number:07}" for number in range(500))

instants = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


def milliseconds(event_id: UUID) -> int:
    return event_id.int >> 80


@given(instants)
def test_an_event_id_is_a_uuid_of_version_7_that_carries_its_time(at: datetime) -> None:
    for event_id in (new_event_id(at), derived_event_id(at, "PORTFOLIO", "DU1")):
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


def test_tables_hold_ids_and_keys_that_are_never_made_otherwise() -> None:
    assert derived_event_id(AT, "PORTFOLIO", "DU1,DU2") == UUID(
        "019f662f-3ebb-7355-83db-583ff8e00228"
    )
    assert account_of(MANY) == "500-accounts-b5843e51f3c79cac"


@given(instants, instants)
def test_no_two_timestamps_share_an_id(one: datetime, other: datetime) -> None:
    """Where a unique key must hold the time, an id that came with two would be stored twice."""
    if one != other:
        assert derived_event_id(one, "PORTFOLIO", "DU1") != derived_event_id(
            other, "PORTFOLIO", "DU1"
        )
    later = one + timedelta(microseconds=1)
    assert derived_event_id(one, "PORTFOLIO", "DU1") != derived_event_id(later, "PORTFOLIO", "DU1")


def test_the_parts_of_an_id_do_not_run_into_one_another() -> None:
    assert derived_event_id(AT, "PORTFOLIO", "DU1") != derived_event_id(AT, "PORTFOLIOD", "U1")


def test_two_processes_give_one_slot_one_id_and_themselves_two_names() -> None:
    script = (
        "from datetime import datetime, UTC; from trio_bridge.identity import recorder;"
        "from trio_bridge.model import Snapshot;"
        "print(Snapshot(datetime(2026, 7, 15, tzinfo=UTC), 'DU2,DU1', *[None] * 5, 0, 0).event_id,"
        " recorder())"
    )
    command = [sys.executable, "-c", script]
    one, other = (
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        for _ in range(2)
    )
    assert one[0] == other[0]
    assert one[1] != other[1]


def test_a_recorder_names_host_and_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "nuc\udcff\n")
    identity._host.cache_clear()
    try:
        host, process = recorder().split(":")
    finally:
        identity._host.cache_clear()
    assert host.isprintable()
    assert host.startswith("nuc")
    assert process.split("-")[0] == str(os.getpid())
    assert recorder() == recorder()


@pytest.mark.parametrize("number", [1, 2, 6])
def test_a_short_list_of_accounts_is_written_out(number: int) -> None:
    names = MANY[:number]
    assert account_of(names) == ",".join(names)
    assert len(account_of(names)) <= LONGEST_ACCOUNT


def test_a_long_list_has_a_short_key_whatever_its_order() -> None:
    key = account_of(MANY)
    assert key == account_of(MANY[::-1])
    assert len({key, account_of(MANY[1:]), account_of((*MANY[1:], "DU9"))}) == 3
    assert len(key) <= LONGEST_ACCOUNT
    assert "," not in key
    assert is_key(key)
    assert not any(is_key(one) for one in (None, "", "DU1", "DU1,DU2", f"{key},DU1"))
