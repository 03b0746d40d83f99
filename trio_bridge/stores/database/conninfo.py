"""Where the database is: checked before anything connects, and shown without its password.

libpq's own error messages quote the text they fail on, which may be a piece of the password. So
none of them is passed on: every message here is made only of what is known to be harmless.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, NoReturn

from psycopg import OperationalError, ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from trio_bridge.errors import ConfigError

if TYPE_CHECKING:
    from trio_bridge.config import Settings

DEFAULT_HOST = "localhost"
DEFAULT_PORT = 5432
DEFAULT_NAME = "portfolio_engine"
DEFAULT_USER = "portfolio"

SCHEMES = ("postgresql", "postgres")
CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "gssencmode": ("disable", "prefer", "require"),
    "channel_binding": ("disable", "prefer", "require"),
    "load_balance_hosts": ("disable", "random"),
    "target_session_attrs": (
        "any",
        "read-write",
        "read-only",
        "primary",
        "standby",
        "prefer-standby",
    ),
}
"""Options whose wrong values libpq would only report while connecting, as if it were an outage.
https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS"""

FORMS = "postgresql://user:password@host:port/database or key=value pairs"
ENCODE = "percent-encode special characters in user and password (@ %40, / %2F, : %3A, % %25)"

_URL = re.compile(r"\s*([A-Za-z][\w+.-]*)://(.*)", re.DOTALL)
_TRAILING_COMMENT = re.compile(r"\s+(#[^@]*)?\Z")


def parse_conninfo(text: str, *, name: str = "DATABASE_URL") -> dict[str, str]:
    """Check a connection URL or libpq's key=value form; return libpq's parameters.

    `name` is the setting to blame. Nothing is looked up and nothing connects.

    Raises:
        ConfigError: one line, without the password or any other piece of the text that could be
            part of it.
    """
    url = _URL.match(text)
    if url is not None:
        scheme, rest = url[1], url[2]
        if scheme.lower() not in SCHEMES:
            _refuse(name, f"the scheme must be postgresql, not {scheme!r}: {FORMS}")
        # libpq ends the host at the first "/": it would look for a host that is half a password.
        if "@" in rest.partition("/")[2].partition("?")[0]:
            _refuse(name, f'there is a "/" before the "@": {ENCODE}')
        # libpq knows only the exact, lower-case schemes. A comment may follow, as in `.env`.
        text = f"postgresql://{_TRAILING_COMMENT.sub('', rest)}"
    elif "=" not in text:
        _refuse(name, f"neither a URL nor key=value pairs: {FORMS}")
    try:
        pairs = conninfo_to_dict(text)
    except (ProgrammingError, OperationalError, UnicodeError):
        _refuse(name, f"malformed, or an unknown option: {FORMS}; {ENCODE}")
    parameters = {key: str(value) for key, value in pairs.items()}
    _check_values(name, parameters)
    return parameters


def conninfo_from_settings(settings: Settings) -> str | None:
    """DATABASE_URL, else what DB_HOST and its siblings say; None: use the embedded PostgreSQL.

    The text holds the password: for connecting only, see `safe_target` for showing.

    Raises:
        ConfigError: see `parse_conninfo`.
    """
    if settings.database_url is not None:
        text = settings.database_url.get_secret_value()
        return make_conninfo("", **parse_conninfo(text))
    given = (
        settings.db_host,
        settings.db_port,
        settings.db_name,
        settings.db_user,
        settings.db_pass,
    )
    if all(value is None for value in given):
        return None
    password = settings.db_pass
    text = make_conninfo(
        host=settings.db_host or DEFAULT_HOST,
        port=settings.db_port or DEFAULT_PORT,
        dbname=settings.db_name or DEFAULT_NAME,
        user=settings.db_user or DEFAULT_USER,
        password=None if password is None else password.get_secret_value(),
    )
    parse_conninfo(text, name="DB_HOST")
    return text


def safe_target(conninfo: str) -> str:
    """`host:port/database` for logs and messages; several hosts are joined by commas."""
    parameters = with_defaults(parse_conninfo(conninfo))
    if service := parameters.get("service"):
        return _one_line(f"service {service}")
    hosts, ports = split_hosts(parameters), split_ports(parameters)
    places = ",".join(
        f"{host or DEFAULT_HOST}:{port}" for host, port in zip(hosts, ports, strict=True)
    )
    database = parameters.get("dbname") or parameters.get("user") or ""
    return _one_line(f"{places}/{database}")


def _one_line(target: str) -> str:
    """Fit for one line of a log, whatever was percent-encoded in it."""
    return target if target.isprintable() else ascii(target)[1:-1]


def with_defaults(parameters: dict[str, str]) -> dict[str, str]:
    """Add what libpq would take from its PG… variables and its built-in defaults."""
    defaults = {
        option.keyword.decode(): option.val.decode()
        for option in pq.Conninfo.get_defaults()
        if option.val is not None
    }
    return defaults | parameters


def split_hosts(parameters: dict[str, str]) -> list[str]:
    """The host names, addresses or socket directories in their order; one empty name if none."""
    return (parameters.get("host") or parameters.get("hostaddr") or "").split(",")


def split_ports(parameters: dict[str, str]) -> list[str]:
    """One port for each host."""
    ports = [port or str(DEFAULT_PORT) for port in parameters.get("port", "").split(",")]
    count = len(split_hosts(parameters))
    return ports * count if len(ports) == 1 else ports


def host_attempts(parameters: dict[str, str]) -> list[dict[str, str]]:
    """One set of parameters for each host, in the order in which they are to be tried."""
    known = with_defaults(parameters)
    hosts, ports = split_hosts(known), split_ports(known)
    if "service" in known or len(hosts) == 1:
        attempts = [parameters]
    else:
        addresses = known.get("hostaddr", "").split(",")
        attempts = [{**parameters, "port": port} for port in ports]
        for number, attempt in enumerate(attempts):
            if known.get("host"):
                attempt["host"] = hosts[number]
            if known.get("hostaddr"):
                attempt["hostaddr"] = addresses[number]
    if known.get("load_balance_hosts") == "random":
        random.shuffle(attempts)
    if known.get("target_session_attrs") == "prefer-standby":
        # libpq tries all hosts twice for this, which it can't do with one host at a time.
        standbys = [{**attempt, "target_session_attrs": "standby"} for attempt in attempts]
        anyone = [{**attempt, "target_session_attrs": "any"} for attempt in attempts]
        return standbys + anyone
    return attempts


def _check_values(name: str, parameters: dict[str, str]) -> None:
    hosts = split_hosts(parameters)
    # A leading "@" is a socket in the abstract namespace.
    if any("@" in host[1:] for host in hosts):
        _refuse(name, f'a host name holds an "@": {ENCODE}')
    ports = parameters.get("port", "").split(",")
    for port in filter(None, ports):
        if not _is_number(port):
            _refuse(name, f"the port is not a number: 1 to 65535 is allowed; {ENCODE}")
        if not 1 <= int(port) <= 65535:
            _refuse(name, f"port {port} is out of range: 1 to 65535 is allowed")
    if 1 < len(ports) != len(hosts):
        _refuse(name, f"{len(ports)} ports for {len(hosts)} hosts: give one, or one for each host")
    addresses = parameters.get("hostaddr", "").split(",")
    if parameters.get("host") and parameters.get("hostaddr") and len(addresses) != len(hosts):
        _refuse(name, f"{len(addresses)} hostaddr values for {len(hosts)} hosts")
    for option, allowed in CHOICES.items():
        if (value := parameters.get(option)) is not None and value not in allowed:
            _refuse(name, f"{option} must be one of {', '.join(allowed)}")
    timeout = parameters.get("connect_timeout")
    if timeout is not None and not _is_number(timeout.strip()):
        _refuse(name, "connect_timeout must be a whole number of seconds")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _refuse(name: str, reason: str) -> NoReturn:
    raise ConfigError(f"{name}: {reason}", setting=name) from None
