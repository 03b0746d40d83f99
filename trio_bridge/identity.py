"""What makes a record itself: its id, the accounts that it covers, and the process that made it."""

from __future__ import annotations

import os
import re
import socket
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING
from uuid import UUID

from trio_bridge.text import clean

if TYPE_CHECKING:
    from collections.abc import Collection

NO_ID = UUID(int=0)
"""RFC 9562's nil UUID, "no value" (section 5.9): a record without an id makes one of its own."""

LONGEST_ACCOUNT = 64
"""Characters of `portfolio_greeks.account`. The names of 500 accounts would be 5.7 kB in every
row."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
"""PostgreSQL's own resolution of time."""

_MILLISECOND = timedelta(milliseconds=1)
_ID_BYTES = 10
_DIGEST_BYTES = 8
_TOKEN = os.urandom(2).hex()
_STANDBY = " (standby)"
_KEY = re.compile(r"\d+-accounts-[0-9a-f]{16}")


def new_event_id(at: datetime) -> UUID:
    """A UUIDv7 (RFC 9562 section 5.7) with the time `at`, so that ids sort as their rows do.

    Raises:
        TypeError: `at` has no time zone, so it is not an instant.
    """
    return _version_7(at, os.urandom(_ID_BYTES))


def derived_event_id(at: datetime, *parts: str) -> UUID:
    """As `new_event_id`, but the same in every process for the same instant and parts.

    Tables hold these ids: how they are made must never change. The hash covers the microseconds,
    too, so that no two timestamps share an id.
    """
    text = "\0".join([str((at - EPOCH) // MICROSECOND), *parts])
    digest = blake2b(text.encode("utf-8", "backslashreplace"), digest_size=_ID_BYTES)
    return _version_7(at, digest.digest())


def _version_7(at: datetime, rest: bytes) -> UUID:
    milliseconds = (at - EPOCH) // _MILLISECOND & (1 << 48) - 1
    value = milliseconds << 80 | int.from_bytes(rest, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


def account_of(accounts: Collection[str]) -> str:
    """What a row's `account` holds: the names, separated by commas; if that is longer than
    LONGEST_ACCOUNT, a key that these accounts have in every process (`model.AccountSet`)."""
    names = ",".join(accounts)
    if len(names) <= LONGEST_ACCOUNT:
        return names
    in_order = ",".join(sorted(accounts))
    digest = blake2b(in_order.encode("utf-8", "backslashreplace"), digest_size=_DIGEST_BYTES)
    return f"{len(accounts)}-accounts-{digest.hexdigest()}"


def is_key(account: str | None) -> bool:
    """Whether this is such a key."""
    return account is not None and _KEY.fullmatch(account) is not None


def recorder() -> str:
    """This process, as `recorder` names it: host, process id, and four digits that tell it from the
    process 1 of another container on a host of the same name."""
    return f"{_host()}:{os.getpid()}-{_TOKEN}"


def as_standby(name: str) -> str:
    """What a recorder is called in rows that it wrote as a standby (BRIDGE_STANDBY)."""
    return f"{name}{_STANDBY}"


def is_standby(name: str) -> bool:
    return name.endswith(_STANDBY)


@cache
def _host() -> str:
    return clean(socket.gethostname(), LONGEST_ACCOUNT)
