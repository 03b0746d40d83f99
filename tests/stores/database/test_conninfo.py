"""A wrong DATABASE_URL ends in one line that helps and that gives no password away."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_bridge.config import Settings
from trio_bridge.errors import ConfigError
from trio_bridge.stores.database.conninfo import (
    conninfo_from_settings,
    host_attempts,
    parse_conninfo,
    safe_target,
)


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://h:6543/db", {"host": "h", "port": "6543", "dbname": "db"}),
        ("POSTGRES://u@h/db", {"user": "u", "host": "h", "dbname": "db"}),
        ("postgresql://h/db   # the one in the cellar", {"host": "h", "dbname": "db"}),
        ("host=/run/postgresql dbname=db", {"host": "/run/postgresql", "dbname": "db"}),
        ("postgresql:///db?user=me@corp", {"dbname": "db", "user": "me@corp"}),
        ("postgresql://u:%40%2F@[::1]:5/db", {"user": "u", "password": "@/", "host": "::1"}),
        (
            "postgresql://a:1,b:2/db?target_session_attrs=read-write",
            {"host": "a,b", "port": "1,2", "target_session_attrs": "read-write"},
        ),
    ],
)
def test_every_form_of_libpq_is_understood(text: str, expected: dict[str, str]) -> None:
    assert parse_conninfo(text).items() >= expected.items()


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("mysql://u:hunter2@h/db", "scheme must be postgresql"),
        ("postgresql+psycopg://u:hunter2@h/db", "scheme must be postgresql"),
        ("hunter2", "neither a URL nor key=value"),
        ("postgresql://u:hunter2@h:99999/db", "port 99999 is out of range"),
        ("postgresql://u:hunter2@h:0/db", "port 0 is out of range"),
        ("postgresql://u:hunter2@h:5432x/db", "port is not a number"),
        ("postgresql://u:hunter2@h/db?sslmoed=require", "malformed"),
        ("postgresql://u:hunter2@h/db?sslmode=yes", "sslmode must be one of disable"),
        ("postgresql://u:hunter2@h/db?target_session_attrs=rw", "must be one of any, read-write"),
        ("postgresql://u:hunter2@h/db?connect_timeout=soon", "whole number of seconds"),
        ("postgresql://u:hun ter2@h/db", "malformed"),
        ("postgresql://u:hunter2%@h/db", "malformed"),
        ("postgresql://u:hunter2%E4@h/db", "malformed"),
        ("postgresql://u:hunter2%zz@h/db", "malformed"),
        ("postgresql://u:hun@ter2@h/db", "percent-encode"),
        ("postgresql://u:hun/ter2@h/db", 'a "/" before the "@"'),
        ("postgresql://u:12/hunter2@h:5432/db", 'a "/" before the "@"'),
        ("postgresql://u:hunter2@[::1/db", "malformed"),
        ("postgresql://u:hunter2@a:1,b:2,c/db?port=1,2", "2 ports for 3 hosts"),
        ("host=h password=hunter2 sslmoed=require", "malformed"),
        ("host=h sslmoed=require password=hunter2", "malformed"),
        ("host=h password=hun ter2", "malformed"),
        ("host=h password='hunter2", "malformed"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_conninfo(text)
    message = str(caught.value)
    assert message.startswith("DATABASE_URL: ")
    assert hint in message
    assert "\n" not in message
    assert not any(piece in message for piece in ("hunter2", "ter2", "hun@", "hun/"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://\r0/x", r"\r0:5432/x"),
        ("postgresql://h/x%0Ay", r"h:5432/x\ny"),
        ("host=h\x85 dbname=x", r"h\x85:5432/x"),
        ("service=a\x85b", r"service a\x85b"),
        ("postgresql://h/dépôt", "h:5432/dépôt"),
    ],
)
def test_what_is_shown_is_one_line(text: str, shown: str) -> None:
    assert safe_target(text) == shown


@given(
    password=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    rest=st.sampled_from(["@h/db", "@h:5432/db", "@h:99999/db", "@h/db?x=1", "@h:5/db?sslmode=x"]),
)
def test_no_piece_of_any_password_is_ever_quoted(password: str, rest: str) -> None:
    """Whatever was not percent-encoded: its pieces may look like a host, a port or an option."""
    secret = f"{password}Pq7zKw{password}"
    with pytest.raises(ConfigError) as caught:
        parse_conninfo(f"postgresql://user:{secret}{rest}/broken?nonsense=%")
    assert "Pq7zKw" not in str(caught.value)
    for text in (f"postgresql://user:{secret}{rest}", f"postgresql://u:{quote(secret)}@h/db"):
        try:
            shown = safe_target(text)
        except ConfigError as error:
            shown = str(error)
        assert "Pq7zKw" not in shown


def test_a_target_is_shown_without_user_and_password() -> None:
    assert safe_target("postgresql://u:secret@db.example:6000/risk") == "db.example:6000/risk"
    assert safe_target("host=a,b port=1,2 dbname=risk password=secret") == "a:1,b:2/risk"
    assert safe_target("postgresql://u:secret@/risk?host=/run/pg") == "/run/pg:5432/risk"


def test_without_database_settings_the_embedded_postgresql_is_used() -> None:
    assert conninfo_from_settings(settings()) is None


def test_any_of_the_separate_settings_brings_the_defaults_of_the_others() -> None:
    conninfo = conninfo_from_settings(settings(db_pass="it's a \\secret"))
    assert conninfo is not None
    assert (
        parse_conninfo(conninfo).items()
        >= {
            "host": "localhost",
            "port": "5432",
            "dbname": "portfolio_engine",
            "user": "portfolio",
            "password": "it's a \\secret",
        }.items()
    )


def test_the_url_wins_over_the_separate_settings() -> None:
    conninfo = conninfo_from_settings(settings(database_url="postgresql://u:p@h/db", db_host="x"))
    assert conninfo is not None
    assert safe_target(conninfo) == "h:5432/db"


def test_a_bad_host_setting_is_not_blamed_on_the_url() -> None:
    with pytest.raises(ConfigError, match=r"^DB_HOST: "):
        conninfo_from_settings(settings(db_host="me@host"))


def test_each_host_is_an_attempt_of_its_own_with_its_port() -> None:
    attempts = host_attempts(parse_conninfo("postgresql://a:1,b:2/db"))
    assert [(one["host"], one["port"]) for one in attempts] == [("a", "1"), ("b", "2")]
    attempts = host_attempts(parse_conninfo("postgresql://a,b/db?port=7"))
    assert [(one["host"], one["port"]) for one in attempts] == [("a", "7"), ("b", "7")]


def test_a_standby_is_preferred_by_a_first_round_over_all_hosts() -> None:
    attempts = host_attempts(
        parse_conninfo("postgresql://a,b/?target_session_attrs=prefer-standby")
    )
    assert [(one["host"], one["target_session_attrs"]) for one in attempts] == [
        ("a", "standby"),
        ("b", "standby"),
        ("a", "any"),
        ("b", "any"),
    ]
