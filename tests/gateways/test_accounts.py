"""Which accounts count, pure; what it means for rows, test_portal and test_socket_rows show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trio_bridge.errors import ConfigError
from trio_bridge.events.gateway import AccountAppeared, AccountGone
from trio_bridge.gateways.accounts import Accounts

if TYPE_CHECKING:
    from trio_bridge.events.event import Event


@pytest.fixture
def heard() -> list[Event]:
    """What was reported."""
    return []


def accounts_of(heard: list[Event], *wanted: str) -> Accounts:
    accounts = Accounts(wanted, heard.append)
    accounts.managed(["U2", "U1"])
    return accounts


def test_all_that_the_login_manages_count_and_nothing_is_said(heard: list[Event]) -> None:
    accounts = accounts_of(heard)
    assert accounts.chosen == ("U1", "U2")
    assert accounts.counts("U2")
    assert heard == []
    assert not accounts.are_named


def test_only_those_that_the_settings_name_count(heard: list[Event]) -> None:
    accounts = accounts_of(heard, "U2")
    accounts.managed(["U1", "U2", "U3"])
    assert not accounts.counts("U1")
    assert not accounts.counts("U3")
    assert accounts.chosen == ("U2",)
    assert heard == []
    assert accounts.are_named


@pytest.mark.parametrize("listed", [True, False])
def test_one_that_appears_counts_and_is_told_once(heard: list[Event], listed: bool) -> None:
    accounts = accounts_of(heard)
    for _ in range(2):
        if listed:
            accounts.managed(["U0", "U1", "U2"])
        else:
            assert accounts.counts("U0")
    assert accounts.chosen == ("U0", "U1", "U2")
    assert heard == [AccountAppeared("U0")]


def test_one_that_is_not_named_once_still_counts(heard: list[Event]) -> None:
    accounts = accounts_of(heard)
    for _ in range(3):
        accounts.managed(["U1"])
        accounts.managed(["U1", "U2"])
    assert accounts.chosen == ("U1", "U2")
    assert heard == []


def test_one_that_is_not_named_twice_in_a_row_is_gone_and_that_is_told_once(
    heard: list[Event],
) -> None:
    accounts = accounts_of(heard)
    for _ in range(4):
        accounts.managed(["U1"])
    assert accounts.chosen == ("U1",)
    assert heard == [AccountGone("U2")]


def test_another_login_brings_its_own(heard: list[Event]) -> None:
    accounts = accounts_of(heard)
    seen = []
    for _ in range(3):
        accounts.managed(["U8"])
        seen.append(accounts.chosen)
    assert seen == [("U1", "U2", "U8"), ("U8",), ("U8",)]


def test_an_account_of_the_settings_that_is_not_there_is_an_error(heard: list[Event]) -> None:
    with pytest.raises(ConfigError) as caught:
        accounts_of(heard, "U9", "U1")
    assert str(caught.value) == (
        "IB_ACCOUNT=U9,U1: this login does not manage U9; it manages U1, U2"
    )
