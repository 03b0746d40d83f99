"""Every setting and its default, in one place. Values come from the environment, then `.env`, then
the default.

A name in capitals is the environment variable; the same name in lower case, with its unit where
that could be mistaken, is the attribute.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from trio_bridge.errors import ConfigError
from trio_bridge.model import ApiMode, DataType, Verdict
from trio_bridge.policy.reset_window import ResetWindow, parse_reset_windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NOT_TEXT = ".env in the working directory is not UTF-8 text: save it as UTF-8"

_TOKEN = re.compile(r"[!-~]{16,200}")
_COMMENT = re.compile(r"(?:\A|\s+)#.*\Z", re.DOTALL)


def _comma_list(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _ready(value: Any) -> Any:
    if value not in [one for one in Verdict if one.is_of_a_row]:
        raise ValueError("must be complete, stale or partial")
    return value


def _without_comment(name: str, value: str) -> str:
    """A value without its ` # comment`; in secrets that may be part of the secret, so it stays."""
    if name not in SECRETS:
        return _COMMENT.sub("", value).strip()
    only_comment = name != "db_pass" and value.lstrip().startswith("#")
    return "" if only_comment or not value.strip() else value


def _windows(value: Any) -> Any:
    return parse_reset_windows(value) if isinstance(value, str) else value


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("there is no such user, or no home directory") from None


def _listening_host(host: str) -> str:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not _is_host_name(bare):
        raise ValueError("must be an address of this machine, like 127.0.0.1")
    return bare


def _is_host_name(host: str) -> bool:
    """Whether no part of a name is empty or longer than DNS allows."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _web_address(text: str) -> SplitResult | None:
    """The parts of an http or https URL; None if it is not one."""
    try:
        url = urlsplit(text)
        host = url.hostname or ""
        if "[" in url.netloc:
            ip_address(host)
        well_formed = url.scheme in {"http", "https"} and host and url.port != 0
    except ValueError:
        return None
    return url if well_formed and _is_host_name(host) else None


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine as only this machine sees it: `localhost`,
    127.0.0.0/8 or ::1. Another name may lead there today and elsewhere tomorrow."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
HomePath = Annotated[Path, AfterValidator(_at_home)]
Port = Annotated[int, Field(ge=1, le=65535)]


def _as_written(source: EnvSettingsSource) -> Mapping[str, str | None]:
    """The values that a source has read; a file's exactly as written: a `${…}` in a password is
    part of the password, not a variable (python-dotenv would substitute it, or leave nothing)."""
    if not isinstance(source, DotEnvSettingsSource) or not isinstance(source.env_file, str | Path):
        return source.env_vars
    _refuse_unreadable_lines(Path(source.env_file), source.env_file_encoding)
    read = dotenv_values(source.env_file, encoding=source.env_file_encoding, interpolate=False)
    if "\0" in "".join(f"{name}{value}" for name, value in read.items()):
        # Every second byte of a UTF-16 file is NUL; none of its names would match a setting.
        raise ConfigError(NOT_TEXT)
    return {name.lower(): value for name, value in read.items() if value}


def _refuse_unreadable_lines(file: Path, encoding: str | None) -> None:
    """python-dotenv skips lines that it can't read. Without its port, say, the bridge would use the
    default, which may be another program's.

    The error does not quote the line: it may hold a secret.
    """
    if file.is_dir():  # containers make one to mount a file that does not exist
        raise ConfigError(".env in the working directory is a directory: make it a file")
    if not file.exists():
        return
    with file.open(encoding=encoding) as stream:
        for binding in parse_stream(stream):
            if binding.error:
                raise ConfigError(
                    f".env in the working directory, line {binding.original.line}: must be "
                    "NAME=VALUE, with no quote left open, or a # comment"
                )


def _refuse_undecodable(values: Mapping[str, str | None]) -> None:
    """Python keeps non-UTF-8 bytes in a form that neither JSON nor the database accepts."""
    for name, value in values.items():
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{name.upper()}: must be UTF-8 text") from None


class Settings(BaseSettings):
    """The bridge's configuration, validated and frozen. Secrets are masked when printed.

    `load_settings()` reports errors in a user's words; constructing it directly raises pydantic's
    ValidationError (also a ValueError).
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    # The gateway
    ib_api_mode: ApiMode = ApiMode.SOCKET
    ib_socket_host: str = "127.0.0.1"
    ib_socket_port: Port = 4001
    ib_client_id: Annotated[int, Field(le=2**31 - 1)] = 10
    ib_account: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_list)] = ()
    ib_market_data_lines: Annotated[int, Field(ge=1, le=10_000)] = 90
    ib_market_data_type: DataType = DataType.FROZEN
    ibkr_gateway_url: str = "https://localhost:5000"
    ibkr_ca_file: HomePath | None = None

    # The service
    poll_interval_s: Annotated[
        float, Field(ge=0.1, allow_inf_nan=False, alias="BRIDGE_POLL_INTERVAL")
    ] = 5.0
    buffer_path: Annotated[HomePath, Field(alias="BRIDGE_BUFFER_PATH", validate_default=True)] = (
        Path("~/.portfolio_bridge_buffer.jsonl")
    )
    flush_interval_s: Annotated[Seconds, Field(alias="BRIDGE_FLUSH_INTERVAL")] = 60.0
    resend_s: Annotated[float, Field(ge=0, allow_inf_nan=False, alias="BRIDGE_RESEND")] = 86_400.0
    reconnect_backoff_s: Annotated[
        # Each attempt is an event: without a lower limit, one night would fill the disk.
        tuple[Annotated[float, Field(ge=0.1, allow_inf_nan=False)], ...],
        NoDecode,
        BeforeValidator(_comma_list),
        Field(min_length=1, alias="BRIDGE_RECONNECT_BACKOFF"),
    ] = (5.0, 10.0, 20.0)
    reset_windows: Annotated[
        tuple[ResetWindow, ...],
        NoDecode,
        BeforeValidator(_windows),
        Field(alias="BRIDGE_RESET_WINDOWS", validate_default=True),
    ] = "23:40-00:05"  # type: ignore[assignment]  # parsed by the validator, like any other value
    heartbeat_s: Annotated[float, Field(ge=1, allow_inf_nan=False, alias="BRIDGE_HEARTBEAT")] = 10.0
    ready: Annotated[
        Verdict, BeforeValidator(_ready), BeforeValidator(_lower), Field(alias="BRIDGE_READY")
    ] = Verdict.COMPLETE
    standby: Annotated[bool, Field(alias="BRIDGE_STANDBY")] = False
    greeks_max_age_s: Annotated[Seconds, Field(alias="BRIDGE_GREEKS_MAX_AGE")] = 120.0
    log_format: Annotated[
        Literal["console", "json"], BeforeValidator(_lower), Field(alias="BRIDGE_LOG_FORMAT")
    ] = "console"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(_lower),
        Field(alias="BRIDGE_LOG_LEVEL"),
    ] = "info"

    # Alerts
    alert_url: Annotated[SecretStr | None, Field(alias="BRIDGE_ALERT_URL")] = None
    alert_after_s: Annotated[Seconds, Field(alias="BRIDGE_ALERT_AFTER")] = 300.0

    # The status endpoint
    status_port: Annotated[Port | None, Field(alias="BRIDGE_STATUS_PORT")] = None
    status_host: Annotated[
        str, AfterValidator(_listening_host), Field(alias="BRIDGE_STATUS_HOST")
    ] = "127.0.0.1"
    # After the two settings that its validation depends on.
    status_token: Annotated[
        SecretStr | None, Field(alias="BRIDGE_STATUS_TOKEN", validate_default=True)
    ] = None

    # The database
    db_timeout_s: Annotated[Seconds, Field(alias="BRIDGE_DB_TIMEOUT")] = 2.0
    database_url: SecretStr | None = None
    db_host: str | None = None
    db_port: Port | None = None
    db_name: str | None = None
    db_user: str | None = None
    db_pass: SecretStr | None = None
    embedded_dir: Annotated[HomePath | None, Field(alias="BRIDGE_EMBEDDED_DIR")] = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Accept only documented names from outside: LOG_LEVEL, say, may be another program's."""
        ours = {name.lower() for name in ENVIRONMENT_NAMES.values()}
        for source in (env_settings, dotenv_settings):
            if isinstance(source, EnvSettingsSource):
                read = _as_written(source)
                source.env_vars = {name: read[name] for name in read if name.lower() in ours}
                _refuse_undecodable(source.env_vars)
        return init_settings, env_settings, dotenv_settings

    @model_validator(mode="before")
    @classmethod
    def _forgive_comments_and_blanks(cls, values: Any) -> Any:
        """Drop trailing comments; a value that is then blank counts as not set."""
        if not isinstance(values, dict):
            return values
        read = {
            name: _without_comment(name.lower(), value) if isinstance(value, str) else value
            for name, value in values.items()
        }
        return {name: value for name, value in read.items() if value != ""}

    @field_validator("ib_client_id")
    @classmethod
    def _leave_the_owner_alone(cls, value: int) -> int:
        if value < 1:
            raise ValueError("0 is the owner's own session; use 1 or more, 10 for example")
        return value

    @field_validator("ibkr_gateway_url")
    @classmethod
    def _usable_url(cls, value: str) -> str:
        url = _web_address(value)
        if url is None:
            raise ValueError("must be a URL like https://localhost:5000")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("must be a plain URL like https://localhost:5000, nothing after it")
        if url.scheme == "http" and not is_loopback(url.hostname or ""):
            raise ValueError("http is allowed only on this machine (localhost); use https")
        return value.rstrip("/").removesuffix("/v1/api")

    @field_validator("alert_url")
    @classmethod
    def _usable_webhook(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = _COMMENT.sub("", value.get_secret_value()).strip()
        is_one_word = text.isascii() and text.isprintable() and " " not in text
        if not is_one_word or _web_address(text) is None:
            raise ValueError("must be a URL like https://hooks.example.com/services/secret")
        return SecretStr(text)

    @field_validator("status_token")
    @classmethod
    def _usable_token(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None:
            host = info.data.get("status_host", "127.0.0.1")
            if info.data.get("status_port") is not None and not is_loopback(host):
                raise ValueError(
                    f"must be set when BRIDGE_STATUS_HOST={host} lets other machines in"
                )
            return None
        text = _COMMENT.sub("", value.get_secret_value()).strip()
        if not _TOKEN.fullmatch(text):
            raise ValueError("must be 16 to 200 ASCII letters, digits or symbols, no spaces")
        return SecretStr(text)

    @field_validator("ib_account")
    @classmethod
    def _no_account_twice(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))


SECRETS = frozenset({"database_url", "db_pass", "bridge_alert_url", "bridge_status_token"})
"""Variables (in lower case) whose values are never shown."""

ENVIRONMENT_NAMES = {
    name: (field.alias or name).upper() for name, field in Settings.model_fields.items()
}
"""Attribute → environment variable."""

ALMOST = 0.85
"""Names at least this similar (difflib's ratio) are taken to be misspellings of each other."""


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; keyword arguments (attribute names) override the environment.

    Raises:
        ConfigError: (a ValueError) one line with each bad variable, its value and what is allowed.
    """
    try:
        with _without_warnings():
            return Settings(**overrides)
    except ValidationError as error:
        found = [_explain(dict(one)) for one in error.errors()]
        text = "; ".join(f"{name}{rest}" for name, rest in found)
        raise ConfigError(text, setting=found[0][0]) from None
    except SettingsError as error:
        raise ConfigError(str(error)) from None
    except UnicodeDecodeError:
        raise ConfigError(NOT_TEXT) from None
    except OSError as error:
        raise ConfigError(f".env in the working directory cannot be read: {error}") from None


@contextmanager
def _without_warnings() -> Iterator[None]:
    """python-dotenv would only warn about lines that are refused here."""
    logger = logging.getLogger("dotenv.main")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class Remark(NamedTuple):
    """What looks like a mistake in settings that can be used, and what to do about it."""

    text: str
    remedy: str


def settings_remarks() -> Iterator[Remark]:
    """Names that are almost a setting, in the environment or `.env`; secrets that others can read.

    Other unknown names may be another program's. Only for settings that have been read.
    """
    in_file = dotenv_values(".env", encoding="utf-8", interpolate=False)
    ours = list(ENVIRONMENT_NAMES.values())
    for place, names in (("the environment", os.environ), (".env", in_file)):
        for name in names:
            if name.upper() not in ours and (
                meant := get_close_matches(name.upper(), ours, n=1, cutoff=ALMOST)
            ):
                yield Remark(f"unknown setting {name} in {place}", f"did you mean {meant[0]}?")
    secrets = [name for name, value in in_file.items() if value and _is_secret(name, value)]
    with suppress(FileNotFoundError):
        if secrets and Path(".env").stat().st_mode & stat.S_IROTH:
            yield Remark(f"every user can read {', '.join(secrets)} in .env", "chmod o-r .env")


def _is_secret(name: str, value: str) -> bool:
    without_password = "password" not in value and "@" not in value
    return name.lower() in SECRETS and not (name.lower() == "database_url" and without_password)


def _explain(error: dict[str, Any]) -> tuple[str, str]:
    """One of pydantic's errors in a user's words: the setting, and what is wrong with it."""
    place, *_ = error["loc"] or ("settings",)
    name = ENVIRONMENT_NAMES.get(str(place), str(place).upper())
    value = str(error["input"])
    # An "@" in a URL means that it contains credentials.
    hidden = name.lower() in SECRETS or "@" in value
    shown = "" if hidden else f"={value}"
    limits = error.get("ctx", {})
    match error["type"]:
        case "greater_than_equal":
            allowed = f"must be {limits['ge']:.12g} or more"
        case "greater_than":
            allowed = f"must be more than {limits['gt']:g}"
        case "less_than_equal":
            allowed = f"must be {limits['le']:.12g} or less"
        case "int_parsing" | "int_from_float" | "int_type":
            allowed = "must be a whole number"
        case "int_parsing_size":
            allowed = "is too large a number"
        case "float_parsing" | "float_type" | "finite_number":
            allowed = "must be a number"
        case "bool_parsing" | "bool_type":
            allowed = "must be 1 or 0"
        case "enum" | "literal_error":
            allowed = f"must be {limits['expected'].replace(chr(39), '')}"
        case "too_short":
            allowed = "must not be empty"
        case "value_error":
            allowed = str(limits["error"])
        case _:
            allowed = error["msg"]
    return name, " ".join(f"{shown}: {allowed}".split())
