"""One table says what may be waited for and what never will be; doubt means to wait."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from tests.support.process import free_port
from trio_bridge.errors import (
    OutageError,
    RowRejectedError,
    SchemaMissingError,
    StoreError,
    UnclearError,
)
from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.sqlstate import store_error


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [
        ("08006", OutageError),  # a distributed server lost its worker
        ("53100", OutageError),  # disk full
        ("53200", OutageError),  # out of memory
        ("53300", OutageError),  # too many connections
        ("57P01", OutageError),  # shutting down
        ("57P03", OutageError),  # starting up
        ("58030", OutageError),  # I/O error
        ("40001", OutageError),  # serialization failure
        ("40P01", OutageError),  # deadlock
        ("55P03", OutageError),  # lock not available
        ("25006", OutageError),  # read-only
        ("28P01", OutageError),  # wrong password
        ("3D000", OutageError),  # no such database
        ("42501", UnclearError),  # no right to the table, or a policy against the row
        ("42P01", SchemaMissingError),
        ("42703", SchemaMissingError),
        ("42P10", SchemaMissingError),
        ("3F000", SchemaMissingError),
        ("22003", RowRejectedError),
        ("22P02", RowRejectedError),
        ("22P05", RowRejectedError),
        ("54000", RowRejectedError),
        ("XX000", UnclearError),  # not known: nothing is thrown away for that alone
        ("XX001", UnclearError),
        ("0A000", UnclearError),
        ("42804", UnclearError),
        ("42601", UnclearError),
        ("P0001", UnclearError),
    ],
)
def test_every_kind_of_refusal_has_its_meaning(sqlstate: str, expected: type[StoreError]) -> None:
    error = store_error(errors.lookup(sqlstate)("the server's\nown words"))
    assert type(error) is expected
    assert str(error).startswith(f"the server's own words (SQLSTATE {sqlstate})")
    if isinstance(error, RowRejectedError | UnclearError):
        assert error.sqlstate == sqlstate


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("consuming input failed: server closed the connection"),
        psycopg.InterfaceError("the connection is lost"),
        psycopg.OperationalError("FATAL:  the database system is starting up"),
        ConnectionResetError("reset"),
        TimeoutError(),
    ],
)
def test_without_a_code_it_is_an_outage(error: Exception) -> None:
    found = store_error(error)
    assert type(found) is OutageError
    assert str(found) == " ".join((str(error) or "TimeoutError").split())


async def test_who_cannot_connect_is_told_why_and_not_asked_back() -> None:
    """libpq asks `Is the server running on that host …?` behind each host."""
    one, other = free_port(), free_port()
    for conninfo, told in (
        (
            f"host=127.0.0.1,127.0.0.1 port={one},{other}",
            f'connection to server at "127.0.0.1", port {one} failed: Connection refused; '
            f'connection to server at "127.0.0.1", port {other} failed: Connection refused',
        ),
        (
            f"host=/nowhere port={one}",
            f'connection to server on socket "/nowhere/.s.PGSQL.{one}" failed: '
            "No such file or directory",
        ),
    ):
        with pytest.raises(psycopg.OperationalError) as refused:
            await TrioConnection.connect(conninfo)
        assert str(store_error(refused.value)) == told


def test_what_the_driver_cannot_encode_is_the_rows_fault() -> None:
    found = store_error(psycopg.DataError("PostgreSQL text fields cannot contain NUL bytes"))
    assert isinstance(found, RowRejectedError)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ('FATAL:  password authentication failed for user "u"', "DB_PASS"),
        ('FATAL:  role "u" does not exist', "DB_USER"),
        ('FATAL:  no pg_hba.conf entry for host "::1", user "u"', "pg_hba.conf"),
        ('FATAL:  no pg_hba.conf entry for host "::1", user "u", no encryption', "sslmode=require"),
        ('FATAL:  database "risk" does not exist', "createdb"),
        ("connection to server failed: session is read-only", "target_session_attrs"),
    ],
)
def test_a_refused_connection_comes_with_the_remedy(words: str, remedy: str) -> None:
    assert remedy in str(store_error(psycopg.OperationalError(words)))


def test_a_long_complaint_is_cut() -> None:
    assert len(str(store_error(errors.lookup("22P02")("x" * 100_000)))) < 400
