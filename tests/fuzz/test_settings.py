"""Whatever stands in the environment and in `.env`: settings, or one line that tells no secret."""

from __future__ import annotations

import logging
import math
import os
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_bridge.config import ENVIRONMENT_NAMES, SECRETS, Settings, load_settings
from trio_bridge.errors import ConfigError
from trio_bridge.stores.database.conninfo import (
    conninfo_from_settings,
    host_attempts,
    parse_conninfo,
    safe_target,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.long

NAMES = sorted(ENVIRONMENT_NAMES.values())
SECRET = "Pq7zKwVx"
WORDS = st.sampled_from(
    [
        "SOCKET", "portal", "0", "-1", "1", "5", "0.1", "1e400", "nan", "inf", "1_0", "\u0665",
        "1e3", "23:40-00:05", "Fri 23:00-Sat 03:00", "24:00-25:00", "00:00-00:00", "Mon", "-",
        ":", ",", ";", "https://", "http://", "localhost", "127.0.0.1", "[::1]", ":5000",
        "/v1/api", "?", "@", "%", "#", " # note", "postgresql://", "postgres://", "host=",
        "port=", "password=", "user=", "sslmode=", "require", "~", "~nobody/x", "~/",
        "/dev/null", "$HOME", "${HOME}", "${", "'", "\"", "\\", "\n", "\x00", "\x85", "\ud800",
        " ", "\t", "DU1", "json", "debug", SECRET,
    ]
)  # fmt: skip
VALUES = st.one_of(
    st.lists(WORDS, max_size=6).map("".join),
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
    st.from_regex(r"(Mon|Fri|sun)? ?\d{1,2}:\d{2} ?- ?(Sat)? ?\d{1,2}:\d{2}(, ?)?"),
)
ENVIRONMENTS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5)
LINES = st.one_of(
    st.builds(
        lambda export, name, sign, value: f"{export}{name}{sign}{value}",
        st.sampled_from(["", "export ", " ", "# "]),
        st.sampled_from(NAMES) | st.text(max_size=5),
        st.sampled_from(["=", " = ", "", "=="]),
        VALUES | VALUES.map(repr),
    ),
    st.text(max_size=30),
)
FILES = st.one_of(
    st.lists(LINES, max_size=5).map(lambda lines: "\n".join(lines).encode("utf-8", "replace")),
    st.binary(max_size=40),
)


def can_be_in_an_environment(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


@given(environment=ENVIRONMENTS, file=FILES)
@example(environment={}, file=b"DB_HOST=0 \0")
@example(environment={"BRIDGE_STATUS_PORT": "1", "BRIDGE_STATUS_HOST": "0\r0"}, file=b"")
def settings_or_one_line(environment: dict[str, str], file: bytes) -> None:
    with open(".env", "wb") as dotenv:  # noqa: PTH123
        dotenv.write(file)
    usable = {name: value for name, value in environment.items() if can_be_in_an_environment(value)}
    with patch.dict(os.environ, usable):
        try:
            settings = load_settings()
            text = conninfo_from_settings(settings)
            target = "" if text is None else safe_target(text)
        except ConfigError as error:
            told = str(error)
            assert told.strip()
            assert len(told.splitlines()) == 1, repr(told)
            for name in environment.keys() | set(NAMES):
                # A DATABASE_URL may hold it where no password stands: its own tests judge that.
                if name == "DATABASE_URL":
                    continue
                if name.lower() in SECRETS and SECRET in usable.get(name, ""):
                    others = [usable.get(other, "") for other in NAMES if other != name]
                    if not any(SECRET in other for other in others) and SECRET not in str(file):
                        assert SECRET not in told
            return
    assert "\n" not in target
    judge(settings)


def judge(settings: Settings) -> None:
    """What the rest of the program relies on."""
    assert settings.ib_client_id >= 1
    assert 1 <= settings.ib_socket_port <= 65535
    assert settings.poll_interval_s >= 0.1
    assert settings.reconnect_backoff_s
    for seconds in (
        settings.poll_interval_s,
        settings.flush_interval_s,
        *settings.reconnect_backoff_s,
        settings.heartbeat_s,
        settings.greeks_max_age_s,
        settings.alert_after_s,
        settings.db_timeout_s,
    ):
        assert math.isfinite(seconds)
        assert seconds > 0
    for secret in (settings.database_url, settings.db_pass):
        if secret is not None and SECRET in secret.get_secret_value():
            assert secret.get_secret_value() not in repr(settings)


PIECES = st.one_of(
    WORDS,
    st.sampled_from(
        ["u", ":", "@", "/", "db", ",", "h1", ":5432", "?", "&", "target_session_attrs=", "any",
         "connect_timeout=", "[", "]", "%20", "%zz", "%00", "hostaddr=", "service=", "options="]
    ),
    st.text(max_size=4),
)  # fmt: skip
CONNINFOS = st.one_of(
    st.lists(PIECES, max_size=12).map("".join),
    st.lists(PIECES, max_size=10).map(lambda parts: "postgresql://" + "".join(parts)),
    st.lists(PIECES, max_size=10).map(lambda parts: " ".join(parts)),
    st.text(),
)


@given(text=CONNINFOS)
@example(text="postgresql://u:p@[::1/db")
def a_database_url_is_understood_or_refused(text: str) -> None:
    try:
        parameters = parse_conninfo(text)
        target = safe_target(text)
    except ConfigError as error:
        told = str(error)
    else:
        told = target
        password = parameters.get("password", "")
        elsewhere = " ".join(value for name, value in parameters.items() if name != "password")
        assert SECRET in elsewhere or SECRET not in password or SECRET not in target
        assert host_attempts(parameters)
    assert len(told.splitlines()) <= 1, repr(told)


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {name.lower() for name in NAMES}
    for name in list(os.environ):
        if name.lower() in names or name.startswith("PG"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    logging.getLogger("dotenv").setLevel(logging.CRITICAL)


def test_settings(fuzz: Callable[[Any], None]) -> None:
    fuzz(settings_or_one_line)


def test_the_database_url(fuzz: Callable[[Any], None]) -> None:
    fuzz(a_database_url_is_understood_or_refused)
