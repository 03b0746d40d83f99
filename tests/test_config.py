"""Every setting: its default, where it is read from, and the error for a bad value."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from trio_bridge.config import (
    ENVIRONMENT_NAMES,
    SECRETS,
    Settings,
    is_loopback,
    load_settings,
    settings_remarks,
)
from trio_bridge.errors import ConfigError
from trio_bridge.model import ApiMode, DataType, Verdict
from trio_bridge.policy.reset_window import parse_reset_windows

PASSWORD = "hunter2"
URL = f"postgresql://recorder:{PASSWORD}@db.example.com:5433/risk?sslmode=require"
WEBHOOK = "https://hooks.example.com/services/hunter2"
TOKEN = "q8-Zk$2v!hL0_xW7"


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing is configured; returns the working directory."""
    names = {name.lower() for name in ENVIRONMENT_NAMES.values()}
    for name in list(os.environ):
        if name.lower() in names:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/home/owner")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# One line for each setting: name, attribute, default, a text, and what it means

SETTINGS: list[tuple[str, str, Any, str, Any]] = [
    ("IB_API_MODE", "ib_api_mode", ApiMode.SOCKET, "PORTAL", ApiMode.PORTAL),
    ("IB_SOCKET_HOST", "ib_socket_host", "127.0.0.1", "gateway.lan", "gateway.lan"),
    ("IB_SOCKET_PORT", "ib_socket_port", 4001, "7497", 7497),
    ("IB_CLIENT_ID", "ib_client_id", 10, "11", 11),
    ("IB_ACCOUNT", "ib_account", (), "DU1, DU2", ("DU1", "DU2")),
    ("IB_MARKET_DATA_LINES", "ib_market_data_lines", 90, "50", 50),
    ("IB_MARKET_DATA_TYPE", "ib_market_data_type", DataType.FROZEN, "3", DataType.DELAYED),
    (
        "IBKR_GATEWAY_URL",
        "ibkr_gateway_url",
        "https://localhost:5000",
        "https://gateway.lan:5001/v1/api/",
        "https://gateway.lan:5001",
    ),
    ("IBKR_CA_FILE", "ibkr_ca_file", None, "~/ca.pem", Path("/home/owner/ca.pem")),
    ("BRIDGE_POLL_INTERVAL", "poll_interval_s", 5.0, "0.5", 0.5),
    (
        "BRIDGE_BUFFER_PATH",
        "buffer_path",
        Path("/home/owner/.portfolio_bridge_buffer.jsonl"),
        "/var/lib/bridge/buffer.jsonl",
        Path("/var/lib/bridge/buffer.jsonl"),
    ),
    ("BRIDGE_FLUSH_INTERVAL", "flush_interval_s", 60.0, "30", 30.0),
    ("BRIDGE_RESEND", "resend_s", 86_400.0, "0", 0.0),
    ("BRIDGE_RECONNECT_BACKOFF", "reconnect_backoff_s", (5.0, 10.0, 20.0), "1,2.5", (1.0, 2.5)),
    (
        "BRIDGE_RESET_WINDOWS",
        "reset_windows",
        parse_reset_windows("23:40-00:05"),
        "Fri 23:00-Sat 03:00, 00:15-01:45",
        parse_reset_windows("Fri 23:00-Sat 03:00, 00:15-01:45"),
    ),
    ("BRIDGE_HEARTBEAT", "heartbeat_s", 10.0, "5", 5.0),
    ("BRIDGE_GREEKS_MAX_AGE", "greeks_max_age_s", 120.0, "60", 60.0),
    ("BRIDGE_READY", "ready", Verdict.COMPLETE, "Partial", Verdict.PARTIAL),
    ("BRIDGE_STANDBY", "standby", False, "1", True),
    ("BRIDGE_LOG_FORMAT", "log_format", "console", "json", "json"),
    ("BRIDGE_LOG_LEVEL", "log_level", "info", "debug", "debug"),
    ("BRIDGE_ALERT_URL", "alert_url", None, WEBHOOK, SecretStr(WEBHOOK)),
    ("BRIDGE_ALERT_AFTER", "alert_after_s", 300.0, "60", 60.0),
    ("BRIDGE_STATUS_PORT", "status_port", None, "8650", 8650),
    ("BRIDGE_STATUS_HOST", "status_host", "127.0.0.1", "[::1]", "::1"),
    ("BRIDGE_STATUS_TOKEN", "status_token", None, TOKEN, SecretStr(TOKEN)),
    ("BRIDGE_DB_TIMEOUT", "db_timeout_s", 2.0, "1.5", 1.5),
    ("DATABASE_URL", "database_url", None, URL, SecretStr(URL)),
    ("DB_HOST", "db_host", None, "db.lan", "db.lan"),
    ("DB_PORT", "db_port", None, "5433", 5433),
    ("DB_NAME", "db_name", None, "risk", "risk"),
    ("DB_USER", "db_user", None, "recorder", "recorder"),
    ("DB_PASS", "db_pass", None, PASSWORD, SecretStr(PASSWORD)),
    ("BRIDGE_EMBEDDED_DIR", "embedded_dir", None, "~/pg", Path("/home/owner/pg")),
]
IDS = [row[0] for row in SETTINGS]


def test_no_setting_is_missing_here() -> None:
    assert {name: attribute for name, attribute, *_ in SETTINGS} == {
        name: attribute for attribute, name in ENVIRONMENT_NAMES.items()
    }


@pytest.mark.parametrize(("name", "attribute", "default", "text", "value"), SETTINGS, ids=IDS)
class TestEachSetting:
    def test_has_its_default(
        self, name: str, attribute: str, default: Any, text: str, value: Any
    ) -> None:
        assert getattr(load_settings(), attribute) == default

    def test_is_read_from_the_environment(
        self,
        name: str,
        attribute: str,
        default: Any,
        text: str,
        value: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv(name, text)
        read = load_settings()

        assert getattr(read, attribute) == value
        assert type(getattr(read, attribute)) is type(value) or isinstance(value, Path)

    def test_is_read_from_the_file(
        self, name: str, attribute: str, default: Any, text: str, value: Any, nothing_set: Path
    ) -> None:
        (nothing_set / ".env").write_text(f'{name}="{text}"  # why\n', "utf-8")

        assert getattr(load_settings(), attribute) == value

    def test_empty_or_only_a_comment_means_not_set(
        self,
        name: str,
        attribute: str,
        default: Any,
        text: str,
        value: Any,
        nothing_set: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for empty in ("", "  ", "# all" if name != "DB_PASS" else ""):
            monkeypatch.setenv(name, empty)
            assert getattr(load_settings(), attribute) == default
        monkeypatch.delenv(name)
        (nothing_set / ".env").write_text(f"{name}=\n", "utf-8")
        assert getattr(load_settings(), attribute) == default

    def test_can_be_given_by_a_program(
        self, name: str, attribute: str, default: Any, text: str, value: Any
    ) -> None:
        assert getattr(load_settings(**{attribute: text}), attribute) == value
        assert getattr(load_settings(**{attribute: value}), attribute) == value

    def test_trailing_comments_are_forgiven(
        self,
        name: str,
        attribute: str,
        default: Any,
        text: str,
        value: Any,
        nothing_set: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (nothing_set / ".env").write_text(f"{name}={text} # as agreed\n", "utf-8")
        assert getattr(load_settings(), attribute) == value
        if name.lower() in SECRETS - {"bridge_alert_url", "bridge_status_token"}:
            return  # from the environment, " #" may be part of a password
        monkeypatch.setenv(name, f" {text}   # as agreed")
        assert getattr(load_settings(), attribute) == value

    def test_the_variables_case_does_not_matter(
        self,
        name: str,
        attribute: str,
        default: Any,
        text: str,
        value: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv(name.lower(), text)

        assert getattr(load_settings(), attribute) == value


def test_a_program_wins_over_the_environment_and_that_over_the_file(
    nothing_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "IB_SOCKET_PORT=1\nDB_PORT=1\nBRIDGE_HEARTBEAT=1\nBRIDGE_DB_TIMEOUT=1\n"
    (nothing_set / ".env").write_text(lines, "utf-8")
    for name in ("DB_PORT", "BRIDGE_HEARTBEAT", "BRIDGE_DB_TIMEOUT"):
        monkeypatch.setenv(name, "2")
    read = load_settings(heartbeat_s=3, db_timeout_s=3)

    assert (read.ib_socket_port, read.db_port) == (1, 2)
    assert (read.heartbeat_s, read.db_timeout_s) == (3, 3)


# Forgiven


@pytest.mark.parametrize("text", ["portal", "Portal", "PORTAL", " pOrTaL # the other one"])
def test_the_case_of_the_mode_is_forgiven(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IB_API_MODE", text)

    assert load_settings().ib_api_mode is ApiMode.PORTAL


@pytest.mark.parametrize("name", ["BRIDGE_LOG_LEVEL", "BRIDGE_LOG_FORMAT"])
def test_the_case_of_the_log_settings_is_forgiven(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, {"BRIDGE_LOG_LEVEL": "WARNING", "BRIDGE_LOG_FORMAT": "JSON"}[name])

    assert load_settings()


def test_a_comment_sign_inside_a_value_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_BUFFER_PATH", "/data/a#b.jsonl")
    monkeypatch.setenv("DB_PASS", "# p #1")

    assert load_settings().buffer_path == Path("/data/a#b.jsonl")
    assert load_settings().db_pass == SecretStr("# p #1")


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_dollar_sign_in_the_file_stands_for_itself(quote: str, nothing_set: Path) -> None:
    """In a password, `${HOME}` is not a variable, and `${NOTHING}` is not empty."""
    password = "a${HOME}b$c$$d${NOTHING}e"
    lines = (
        f"DB_PASS={quote}${{NOTHING}}{quote}\n"
        f"DATABASE_URL={quote}postgresql://u:{password}@db/risk{quote}\n"
    )
    (nothing_set / ".env").write_text(lines, "utf-8")

    settings = load_settings()

    assert settings.db_pass == SecretStr("${NOTHING}")
    assert settings.database_url == SecretStr(f"postgresql://u:{password}@db/risk")


def test_an_account_named_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IB_ACCOUNT", "DU2,DU1,,DU2 ,")

    assert load_settings().ib_account == ("DU2", "DU1")


def test_no_windows_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_RESET_WINDOWS", "none")

    assert load_settings().reset_windows == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LOG_LEVEL", "trace"),
        ("LOG_FORMAT", "xml"),
        ("ALERT_URL", "nonsense"),
        ("POLL_INTERVAL_S", "nonsense"),
        ("HEARTBEAT_S", "nonsense"),
    ],
)
def test_variables_of_other_programs_are_left_alone(
    name: str, text: str, nothing_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attribute names are not variables: only the documented names are."""
    before = load_settings()
    monkeypatch.setenv(name, text)
    (nothing_set / ".env").write_text(f"{name}={text}\nSOMETHING=else\n", "utf-8")

    assert load_settings() == before


# Refused, in one line

BAD = [
    ("IB_API_MODE", "WEB", "SOCKET or PORTAL"),
    ("IB_SOCKET_PORT", "0", "1 or more"),
    ("IB_SOCKET_PORT", "65536", "65535 or less"),
    ("IB_SOCKET_PORT", "4001.5", "whole number"),
    ("IB_MARKET_DATA_TYPE", "9" * 20, "too large a number"),
    ("IB_CLIENT_ID", "0", "owner"),
    ("IB_CLIENT_ID", "-1", "1 or more"),
    ("IB_CLIENT_ID", "2147483648", "2147483647 or less"),
    ("IB_CLIENT_ID", "ten", "whole number"),
    ("IB_MARKET_DATA_LINES", "0", "1 or more"),
    ("IB_MARKET_DATA_LINES", "10001", "10000 or less"),
    ("IB_MARKET_DATA_TYPE", "5", "1, 2, 3 or 4"),
    ("IB_MARKET_DATA_TYPE", "live", "1, 2, 3 or 4"),
    ("IBKR_GATEWAY_URL", "localhost:5000", "https://localhost:5000"),
    ("IBKR_GATEWAY_URL", "ftp://localhost", "https://localhost:5000"),
    ("IBKR_GATEWAY_URL", "https://", "https://localhost:5000"),
    ("IBKR_GATEWAY_URL", "https://localhost:x", "https://localhost:5000"),
    ("IBKR_GATEWAY_URL", "https://gateway..lan", "https://localhost:5000"),
    ("IBKR_GATEWAY_URL", f"https://{'x' * 64}.lan", "https://localhost:5000"),
    ("IBKR_GATEWAY_URL", "https://[v1.x]:5000", "https://localhost:5000"),
    ("IBKR_GATEWAY_URL", "https://localhost?a=1", "nothing after it"),
    ("IBKR_GATEWAY_URL", "http://gateway.lan:5000", "use https"),
    ("BRIDGE_POLL_INTERVAL", "0.09", "0.1 or more"),
    ("BRIDGE_POLL_INTERVAL", "5s", "a number"),
    ("BRIDGE_POLL_INTERVAL", "inf", "a number"),
    ("BRIDGE_POLL_INTERVAL", "nan", "a number"),
    ("BRIDGE_FLUSH_INTERVAL", "0", "more than 0"),
    ("BRIDGE_RESEND", "-1", "0 or more"),
    ("BRIDGE_RECONNECT_BACKOFF", "5,0.01", "0.1 or more"),
    ("BRIDGE_RECONNECT_BACKOFF", "5,soon", "a number"),
    ("BRIDGE_RECONNECT_BACKOFF", ",", "not be empty"),
    ("BRIDGE_RESET_WINDOWS", "23:40", "HH:MM-HH:MM"),
    ("BRIDGE_RESET_WINDOWS", "00:00-12:00,12:00-00:00", "leave no time"),
    ("BRIDGE_HEARTBEAT", "0.9", "1 or more"),
    ("BRIDGE_GREEKS_MAX_AGE", "-1", "more than 0"),
    ("BRIDGE_DB_TIMEOUT", "0", "more than 0"),
    ("BRIDGE_ALERT_AFTER", "0", "more than 0"),
    ("BRIDGE_BUFFER_PATH", "~nobody-of-that-name/buffer", "no such user"),
    ("BRIDGE_READY", "blind", "complete, stale or partial"),
    ("BRIDGE_READY", "standby", "complete, stale or partial"),
    ("BRIDGE_STANDBY", "2", "must be 1 or 0"),
    ("BRIDGE_LOG_FORMAT", "xml", "console or json"),
    ("BRIDGE_LOG_LEVEL", "loud", "debug, info, warning or error"),
    ("BRIDGE_STATUS_PORT", "0", "1 or more"),
    ("BRIDGE_STATUS_PORT", "http", "whole number"),
    ("DB_PORT", "five", "whole number"),
]


@pytest.mark.parametrize(("name", "text", "allowed"), BAD, ids=[f"{n}={t}" for n, t, _ in BAD])
def test_a_bad_value_is_one_line_with_variable_value_and_what_is_allowed(
    name: str, text: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError) as caught:
        load_settings()

    message = str(caught.value)
    assert message.startswith(f"{name}=")
    assert text.split(",")[-1] in message
    assert allowed in message
    assert "\n" not in message


def test_a_bad_value_is_a_value_error_for_a_program() -> None:
    with pytest.raises(ValueError, match="IB_API_MODE=WEB"):
        load_settings(ib_api_mode="WEB")


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IB_CLIENT_ID", "0")
    monkeypatch.setenv("DB_PORT", "x")
    with pytest.raises(ConfigError, match=r"IB_CLIENT_ID=0: .*; DB_PORT=x: ") as caught:
        load_settings()

    assert "\n" not in str(caught.value)


def test_a_bad_value_of_several_lines_is_still_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IB_CLIENT_ID", "1\n2")
    with pytest.raises(ConfigError, match="IB_CLIENT_ID=1 2: must be a whole number"):
        load_settings()
    monkeypatch.setenv("IB_CLIENT_ID", "1")
    monkeypatch.setenv("BRIDGE_STATUS_PORT", "8650")
    monkeypatch.setenv("BRIDGE_STATUS_HOST", "0\r0")
    with pytest.raises(ConfigError, match="BRIDGE_STATUS_HOST=0 0 lets other machines in"):
        load_settings()


def test_a_files_byte_order_mark_hides_no_setting(nothing_set: Path) -> None:
    (nothing_set / ".env").write_text("IB_CLIENT_ID=7\n", "utf-8-sig")
    assert load_settings().ib_client_id == 7


@pytest.mark.parametrize(
    "content",
    [b"IB_CLIENT_ID=\xff\xfe", "IB_CLIENT_ID=7\n".encode("utf-16-le"), b"DB_HOST=0 \0"],
)
def test_a_file_that_is_not_text_is_one_line(content: bytes, nothing_set: Path) -> None:
    (nothing_set / ".env").write_bytes(content)
    with pytest.raises(ConfigError, match=r"\.env in the working directory") as caught:
        load_settings()

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line", ["IB_SOCKET_PORT: 4002", "IB_SOCKET_PORT 4002", 'DB_PASS="hunter2', "DB_PASS='hun'ter2"]
)
def test_a_line_that_can_not_be_read_is_refused_without_its_text(
    line: str, nothing_set: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (nothing_set / ".env").write_text(f"# mine\nIB_CLIENT_ID=7\n{line}\nIB_ACCOUNT=U1\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert str(caught.value) == (
        ".env in the working directory, line 3: must be NAME=VALUE, with no quote left open, or a "
        "# comment"
    )
    assert caplog.text == ""


def test_what_is_almost_a_setting_is_found_and_other_names_are_left_alone(
    nothing_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(settings_remarks()) == []
    lines = ["IB_SOCKET_PROT=7497", "bridge_poll_intervall=1", "BRIDGE_POLLINTERVAL=2"]
    others = ["ib_client_id=3", "IB_USERNAME=me", "DB_PASSWORD=x", "TWS_PORT=1", "PORT=2", "ALONE"]
    (nothing_set / ".env").write_text("\n".join([*lines, *others]), "utf-8")
    monkeypatch.setenv("IB_CLIENTID", "7")
    monkeypatch.setenv("DB_PASSWORD", "x")
    assert list(settings_remarks()) == [
        ("unknown setting IB_CLIENTID in the environment", "did you mean IB_CLIENT_ID?"),
        ("unknown setting IB_SOCKET_PROT in .env", "did you mean IB_SOCKET_PORT?"),
        ("unknown setting bridge_poll_intervall in .env", "did you mean BRIDGE_POLL_INTERVAL?"),
        ("unknown setting BRIDGE_POLLINTERVAL in .env", "did you mean BRIDGE_POLL_INTERVAL?"),
    ]


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ("DB_PASS=x\nBRIDGE_STATUS_TOKEN=0123456789abcdef", "DB_PASS, BRIDGE_STATUS_TOKEN"),
        ("DATABASE_URL=postgresql://me:x@h/d", "DATABASE_URL"),
        ("DATABASE_URL=host=h password=x", "DATABASE_URL"),
        ("BRIDGE_ALERT_URL=https://h/x", "BRIDGE_ALERT_URL"),
        ("DATABASE_URL=postgresql://h/d\nIB_ACCOUNT=U1\nDB_PASS=", None),
    ],
)
def test_secrets_that_every_user_can_read_are_named(
    lines: str, named: str | None, nothing_set: Path
) -> None:
    file = nothing_set / ".env"
    file.write_text(lines, "utf-8")
    file.chmod(0o604)
    found = [] if named is None else [(f"every user can read {named} in .env", "chmod o-r .env")]
    assert list(settings_remarks()) == found
    file.chmod(0o660)
    assert list(settings_remarks()) == []


def test_a_directory_in_the_place_of_the_file_is_refused(nothing_set: Path) -> None:
    (nothing_set / ".env").mkdir()
    with pytest.raises(ConfigError, match=r"^\.env in the working directory is a directory: "):
        load_settings()


@given(
    st.sampled_from(IDS),
    st.sampled_from(["", "~", "0", "-", "http://"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
)
@settings(max_examples=300)
def test_any_text_is_a_setting_or_one_line(name: str, start: str, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, start + text)
        try:
            load_settings()
        except ConfigError as error:
            lines = str(error).splitlines()
        else:
            lines = [name]
    assert len(lines) == 1
    assert lines[0].startswith(name)


# Secrets


def test_secrets_are_masked_wherever_the_settings_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("DB_PASS", PASSWORD)
    monkeypatch.setenv("BRIDGE_ALERT_URL", WEBHOOK)
    monkeypatch.setenv("BRIDGE_STATUS_TOKEN", TOKEN)
    read = load_settings()

    for shown in (repr(read), str(read), repr(read.model_dump()), read.model_dump_json()):
        assert PASSWORD not in shown
        assert TOKEN not in shown
    assert "**********" in repr(read)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BRIDGE_ALERT_URL", f"ftp://{PASSWORD}"),
        ("BRIDGE_ALERT_URL", f"https://[{PASSWORD}"),
        ("BRIDGE_ALERT_URL", f"https://hooks..slack.com/{PASSWORD}"),
        ("BRIDGE_STATUS_TOKEN", f"{PASSWORD} with spaces"),
        ("IBKR_GATEWAY_URL", f"https://owner:{PASSWORD}@localhost:5000"),
    ],
)
def test_a_refused_secret_is_not_shown(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(ConfigError, match=f"^{name}: must be") as caught:
        load_settings()
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__

    with pytest.raises(ValidationError) as direct:
        Settings()
    assert PASSWORD not in str(direct.value)


# The status endpoint


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "bridge.lan", "127.0.0.1.lan"])
def test_other_machines_are_let_in_with_a_token_only(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_STATUS_HOST", host)
    assert load_settings().status_port is None  # off, so no one can connect
    monkeypatch.setenv("BRIDGE_STATUS_PORT", "8650")
    with pytest.raises(
        ConfigError, match=r"^BRIDGE_STATUS_TOKEN: must be set when BRIDGE_STATUS_H"
    ):
        load_settings()
    for poor in ("", "short", "two words are not one", "ünicode-is-no-ascii", "x" * 201):
        monkeypatch.setenv("BRIDGE_STATUS_TOKEN", poor)
        with pytest.raises(ConfigError, match=r"^BRIDGE_STATUS_TOKEN: must be"):
            load_settings()
    monkeypatch.setenv("BRIDGE_STATUS_TOKEN", TOKEN)
    assert load_settings().status_host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "LOCALHOST", "::1"])
def test_this_machine_needs_no_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_STATUS_HOST", host)
    monkeypatch.setenv("BRIDGE_STATUS_PORT", "8650")
    assert load_settings().status_token is None


@pytest.mark.parametrize("host", ["bridge..lan", f"{'x' * 64}.lan", "[.lan]"])
def test_a_host_that_cannot_be_looked_up_is_one_line(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_STATUS_HOST", host)
    with pytest.raises(ConfigError, match=r"^BRIDGE_STATUS_HOST=.*: must be an address"):
        load_settings()


@pytest.mark.parametrize("name", ["BRIDGE_BUFFER_PATH", "IB_SOCKET_HOST", "DB_PASS"])
def test_bytes_that_are_not_text_are_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, os.fsdecode(b"/caf\xe9"))
    with pytest.raises(ConfigError, match=f"^{name}: must be UTF-8 text$"):
        load_settings()


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().ib_client_id = 0


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.0.0.2", "::1"])
def test_what_only_this_machine_sees_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "192.168.0.1", "localhost.lan", "127.0.0"])
def test_what_others_may_see_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
