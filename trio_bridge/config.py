"""Every setting and its default, once. From the environment, then `.env`, then the default.

A name in capitals is the environment variable; the same name in lower case, with its unit where it
could be mistaken, is the attribute.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

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
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from trio_bridge.errors import ConfigError
from trio_bridge.model import ApiMode, DataType
from trio_bridge.policy.reset_window import ResetWindow, parse_reset_windows

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def _csv(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _windows(value: Any) -> Any:
    return parse_reset_windows(value) if isinstance(value, str) else value


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
HomePath = Annotated[Path, AfterValidator(Path.expanduser)]


class Settings(BaseSettings):
    """The bridge's configuration, checked and frozen. Secrets are masked when printed.

    `load_settings()` makes one with errors fit for a person; constructing it directly raises
    pydantic's ValidationError (a ValueError too).
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
    ib_api_mode: Annotated[ApiMode, BeforeValidator(_upper)] = ApiMode.SOCKET
    ib_socket_host: str = "127.0.0.1"
    ib_socket_port: Annotated[int, Field(ge=1, le=65535)] = 4001
    ib_client_id: Annotated[int, Field(ge=1, le=2**31 - 1)] = 10
    ib_account: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_csv)] = ()
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
    reconnect_backoff_s: Annotated[
        tuple[Seconds, ...],
        NoDecode,
        BeforeValidator(_csv),
        Field(min_length=1, alias="BRIDGE_RECONNECT_BACKOFF"),
    ] = (5.0, 10.0, 20.0)
    reset_windows: Annotated[
        tuple[ResetWindow, ...],
        NoDecode,
        BeforeValidator(_windows),
        Field(alias="BRIDGE_RESET_WINDOWS", validate_default=True),
    ] = "23:40-00:05"  # type: ignore[assignment]  # parsed by the validator, like any other value
    heartbeat_s: Annotated[float, Field(ge=1, allow_inf_nan=False, alias="BRIDGE_HEARTBEAT")] = 10.0
    greeks_max_age_s: Annotated[Seconds, Field(alias="BRIDGE_GREEKS_MAX_AGE")] = 120.0
    log_format: Annotated[
        str, BeforeValidator(_lower), Field(pattern="^(console|json)$", alias="BRIDGE_LOG_FORMAT")
    ] = "console"
    log_level: Annotated[
        str,
        BeforeValidator(_lower),
        Field(pattern="^(debug|info|warning|error)$", alias="BRIDGE_LOG_LEVEL"),
    ] = "info"

    # The database
    db_timeout_s: Annotated[Seconds, Field(alias="BRIDGE_DB_TIMEOUT")] = 2.0
    database_url: SecretStr | None = None
    db_host: str | None = None
    db_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    db_name: str | None = None
    db_user: str | None = None
    db_pass: SecretStr | None = None
    embedded_dir: Annotated[HomePath | None, Field(alias="BRIDGE_EMBEDDED_DIR")] = None


ENVIRONMENT_NAMES = {
    name: (field.alias or name).upper() for name, field in Settings.model_fields.items()
}
"""Attribute → environment variable."""
