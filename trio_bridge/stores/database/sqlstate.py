"""What the database's refusals mean to the bridge: one table.

The question is never "what went wrong" but "may this row ever get in": what may is an outage and
waits, in order, with everything behind it; what never will is rejected and set aside. When in
doubt it is an outage: loud, and nothing is lost. A code that is not in the table is unclear: a
trigger's own refusal of one row, say, or of all; delivery finds out by trying others.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import trio
from psycopg import pq

from trio_bridge.errors import (
    OutageError,
    RowRejectedError,
    SchemaMissingError,
    StoreError,
    UnclearError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import AsyncConnection

TROUBLE = (psycopg.Error, OSError, trio.ClosedResourceError)
"""The errors that a database can cause. Anything else is a bug."""

DETAIL_LENGTH = 300
"""Characters of the server's own words: a rejected value can be long."""


LIBPQS_ADVICE = re.compile(r"\n\t[^\n;]*")
"""`Is the server running on that host and accepting TCP/IP connections?`"""


@dataclass(frozen=True, slots=True)
class Meaning:
    """The error to raise, and what the user can do about it."""

    error: type[StoreError]
    remedy: str = ""


OUTAGE = Meaning(OutageError)
UNCLEAR = Meaning(UnclearError)
REJECTED = Meaning(RowRejectedError)
SCHEMA = Meaning(SchemaMissingError)

MEANINGS = {
    "08": OUTAGE,  # connection exceptions; also a distributed server whose worker died
    "22": REJECTED,  # data exceptions: out of range, malformed, NUL bytes
    "2200H": Meaning(
        OutageError, "the numbers of its id are used up: let column and sequence be bigint"
    ),
    "23": REJECTED,  # integrity constraints
    "25006": Meaning(
        OutageError,
        "a standby, or default_transaction_read_only is on: name the primary in DATABASE_URL (of "
        "several hosts target_session_attrs=read-write finds it), or set that to off",
    ),
    "28": Meaning(OutageError, "check user and password in DATABASE_URL, or DB_USER and DB_PASS"),
    "3D000": Meaning(
        OutageError, "make the database with createdb, or name another in DATABASE_URL or DB_NAME"
    ),
    "3F000": SCHEMA,  # the schema in the search path is gone
    "40": OUTAGE,  # serialization failure, deadlock
    "42501": Meaning(
        UnclearError,  # a policy may refuse a single row
        "the user needs SELECT and INSERT on the tables and USAGE on their sequences, and to make "
        "or complete them CREATE on the schema and to own them",
    ),
    "42703": SCHEMA,  # undefined column
    "42P01": SCHEMA,  # undefined table
    "42P10": SCHEMA,  # the unique key that ON CONFLICT names is missing
    "53": OUTAGE,  # out of disk, memory, connections
    "54": REJECTED,  # beyond a limit of the server's: too long for an index, too deeply nested
    "55": OUTAGE,  # not in the right state, lock not available
    "57": OUTAGE,  # shutting down, starting up, cancelled by an operator or a timeout
    "58": OUTAGE,  # errors of its disk
}
"""SQLSTATE, or its first two characters (the class), to meaning; the longer one wins.
https://www.postgresql.org/docs/current/errcodes-appendix.html"""

STANDBY = Meaning(
    OutageError,
    "this server is a standby: name the primary in DATABASE_URL; of several hosts "
    "target_session_attrs=read-write finds it",
)
READ_ONLY_BY_DEFAULT = Meaning(
    OutageError,
    "no standby, but default_transaction_read_only is on for this server, database or user (some "
    "providers set it when the disk is nearly full): make room, or set it to off",
)
LEFT_READ_ONLY = Meaning(
    OutageError,
    "neither a standby nor read-only by default: a pooler gives out a connection that another "
    "program left read-only, until it renews it",
)

NOT_LET_IN = Meaning(
    OutageError, "the server's administrator must add a line for this user to its pg_hba.conf"
)
NOT_LET_IN_UNENCRYPTED = Meaning(
    OutageError,
    "the connection was not encrypted, and the server's pg_hba.conf lets this user in only if it "
    "is, or not at all: try sslmode=require in DATABASE_URL",
)

FROM_BIGINT = frozenset({"int84", "int82"})
"""The server's own functions that make a smaller number of a bigint. No value of ours is one: it is
the sequence's, which has outgrown its column."""

TAKES_TRANSACTION_ID = frozenset({"GetNewTransactionId", "GetNewMultiXactId"})
"""Functions of the server that take no writes any more when a wraparound of its counter is near."""

_WHILE_CONNECTING = {
    # Where encryption is preferred, the attempt with it comes first.
    r"no pg_hba.conf entry .*, SSL encryption": NOT_LET_IN,
    r"no pg_hba.conf entry .*, no encryption": NOT_LET_IN_UNENCRYPTED,
    r"no pg_hba.conf entry": NOT_LET_IN,
    r'authentication failed|no password supplied|role ".*" does not exist': MEANINGS["28"],
    r'database ".*" does not exist': MEANINGS["3D000"],
    r"session is read-only|server is in hot standby mode": MEANINGS["25006"],
}
"""libpq gives no SQLSTATE for a refused connection: the words of an English server must do. In
another language only the remedy is missing."""


@contextmanager
def store_errors(
    connection: AsyncConnection[Any] | None = None, *, own_columns: frozenset[str] = frozenset()
) -> Iterator[None]:
    """Raise a database's errors in the block as the bridge's own; see `store_error`.

    Raises:
        StoreError: the database can't be reached or used; the text says why and what to do.
    """
    try:
        yield
    except TROUBLE as error:
        raise store_error(error, connection, own_columns=own_columns) from error


def store_error(
    error: Exception,
    connection: AsyncConnection[Any] | None = None,
    *,
    own_columns: frozenset[str] = frozenset(),
) -> StoreError:
    """The bridge's error for one of the driver's or the operating system's.

    `connection` is where a statement failed; `own_columns` are those that the bridge fills in the
    table at hand.
    """
    code = error.sqlstate if isinstance(error, psycopg.Error) else None
    text = _text(error)
    if code is None:
        if isinstance(error, psycopg.DataError):
            return RowRejectedError(text, sqlstate="22000")
        return _made(_connecting(text), text, "")
    assert isinstance(error, psycopg.Error)
    meaning = MEANINGS.get(code) or MEANINGS.get(code[:2], UNCLEAR)
    if meaning.error is RowRejectedError:
        meaning = _rejected(error, code, own_columns)
    if code == "25006" and connection is not None:
        meaning = _read_only(connection) or meaning
    return _made(meaning, f"{text} (SQLSTATE {code})", code)


def _rejected(error: psycopg.Error, code: str, own_columns: frozenset[str]) -> Meaning:
    """Not the row's fault when the table, or the server, refuses every row."""
    diagnostic = error.diag
    if code == "22003" and diagnostic.source_function in FROM_BIGINT:
        return MEANINGS["2200H"]
    if code == "54000" and _is_wraparound(diagnostic):
        return Meaning(OutageError, "vacuum the database that it names")
    if code == "23505" and "(id)=" in (diagnostic.message_detail or ""):
        return SCHEMA  # the sequence is behind the rows: completing the schema advances it
    if code == "23502" and (column := _column(diagnostic)) not in own_columns:
        if column == "id":
            return SCHEMA
        return Meaning(
            OutageError,
            "the bridge does not know this column: give it a default or let it be empty",
        )
    if code == "23514" and _is_without_partition(diagnostic):
        return Meaning(OutageError, "the table is partitioned: make the missing partition")
    return REJECTED


def _read_only(connection: AsyncConnection[Any]) -> Meaning | None:
    """Why a server takes no writes, as PostgreSQL 14 and newer report unasked; else None."""
    if connection.pgconn.status != pq.ConnStatus.OK:
        return None
    told = [
        connection.pgconn.parameter_status(name)
        for name in (b"in_hot_standby", b"default_transaction_read_only")
    ]
    match told:
        case [b"on", _]:
            return STANDBY
        case [_, b"on"]:
            return READ_ONLY_BY_DEFAULT
        case [b"off", b"off"]:
            return LEFT_READ_ONLY
    return None


def _column(diagnostic: psycopg.errors.Diagnostic) -> str | None:
    """TimescaleDB, and Citus for its workers, name the column in the text only."""
    if diagnostic.column_name is not None:
        return diagnostic.column_name
    found = re.search(r'column "([^"]+)"', diagnostic.message_primary or "")
    return found[1] if found else None


def _is_without_partition(diagnostic: psycopg.errors.Diagnostic) -> bool:
    """PostgreSQL has no SQLSTATE of its own for it; Citus names a worker's constraint in the text
    only."""
    named = diagnostic.constraint_name or " check constraint " in (diagnostic.message_primary or "")
    return not named


def _is_wraparound(diagnostic: psycopg.errors.Diagnostic) -> bool:
    """A distributed server passes on its worker's words only."""
    named = diagnostic.source_function in TAKES_TRANSACTION_ID
    return named or "wraparound" in (diagnostic.message_primary or "")


def _connecting(text: str) -> Meaning:
    found = (meaning for words, meaning in _WHILE_CONNECTING.items() if re.search(words, text))
    return next(found, OUTAGE)


def _made(meaning: Meaning, text: str, code: str) -> StoreError:
    if meaning.error is RowRejectedError:
        return RowRejectedError(text, sqlstate=code)
    if meaning.error is UnclearError:
        return UnclearError(text, sqlstate=code, remedy=meaning.remedy)
    return meaning.error(text, remedy=meaning.remedy)


def _text(error: Exception) -> str:
    """The server's words in one line, without libpq's questions: our remedy is enough."""
    if isinstance(error, psycopg.Error) and (primary := error.diag.message_primary):
        detail = error.diag.message_detail
        words = f"{primary}: {detail}" if detail else primary
    else:
        words = str(error) or type(error).__name__
    line = " ".join(LIBPQS_ADVICE.sub("", words).split())
    return line if len(line) <= DETAIL_LENGTH else f"{line[:DETAIL_LENGTH]}…"
