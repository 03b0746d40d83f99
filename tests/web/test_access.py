"""Who may ask, and who is turned away."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from trio_bridge.web.access import Access

TOKEN = "correct-horse-battery"
OPEN = Access(None, 8650)
CLOSED = Access(SecretStr(TOKEN), 8650)


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8650", "LOCALHOST:9000", "127.0.0.1:8650", "127.8.9.1", "[::1]:8650"],
)
def test_names_of_this_machine_are_ours(host: str) -> None:
    assert OPEN.host_is_ours({"host": host})


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8650",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "192.168.1.5:8650",
        "[::2]:8650",
        "[::1",
        "",
        "2130706433",
    ],
)
def test_a_name_that_was_rebound_to_this_machine_is_not(host: str) -> None:
    assert not OPEN.host_is_ours({"host": host})
    assert not OPEN.host_is_ours({})


def test_where_a_token_is_asked_for_any_name_will_do() -> None:
    assert CLOSED.host_is_ours({"host": "bridge.lan:8650"})


@pytest.mark.parametrize(
    ("site", "mode", "foreign"),
    [
        (None, None, False),
        ("none", "navigate", False),
        ("same-origin", "cors", False),
        ("cross-site", "no-cors", True),
        ("cross-site", "cors", True),
        ("same-site", "no-cors", True),
        ("cross-site", "navigate", False),
    ],
)
def test_requests_of_another_sites_page_are_foreign(
    site: str | None, mode: str | None, foreign: bool
) -> None:
    marks = {"sec-fetch-site": site, "sec-fetch-mode": mode}

    assert OPEN.is_foreign({name: mark for name, mark in marks.items() if mark}) is foreign


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_token_opens(scheme: str) -> None:
    assert CLOSED.knows_token({"authorization": f"{scheme} {TOKEN}"})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": "Bearer \xfc\xff"},
        {"cookie": f"trio_bridge_8650={TOKEN}"},
        {"cookie": "trio_bridge_8650="},
        {"cookie": 'trio_bridge_8650="\xff'},
        {"cookie": "=;;=;,"},
    ],
)
def test_nothing_else_does(headers: dict[str, str]) -> None:
    assert not CLOSED.knows_token(headers)


def test_the_cookie_that_is_given_for_it_opens_too_and_does_not_tell_it() -> None:
    name, _, rest = CLOSED.set_cookie.partition("=")
    value = rest.partition(";")[0]

    assert CLOSED.knows_token({"cookie": f"theme=dark; {name}={value}"})
    assert TOKEN not in CLOSED.set_cookie
    assert "HttpOnly" in CLOSED.set_cookie
    assert "SameSite=Strict" in CLOSED.set_cookie
    assert "; Path=/;" in CLOSED.set_cookie  # also for /api and /events
    assert "; Max-Age=7776000" in CLOSED.set_cookie  # three months without asking again


def test_a_new_token_makes_old_cookies_useless() -> None:
    other = Access(SecretStr("another-secret-token"), 8650)
    name, _, rest = CLOSED.set_cookie.partition("=")

    assert not other.knows_token({"cookie": f"{name}={rest.partition(';')[0]}"})


def test_two_bridges_on_one_machine_do_not_share_a_cookie() -> None:
    assert Access(SecretStr(TOKEN), 8651).cookie_name != CLOSED.cookie_name


def test_without_a_token_everybody_on_this_machine_may_look() -> None:
    assert OPEN.knows_token({})
    assert not OPEN.is_token("")
