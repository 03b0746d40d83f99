"""The servers that other tests break really break, and come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from tests.support.postgres import PostgresFactory, PostgresServer


def answers(server: PostgresServer, timeout_s: int = 2) -> bool:
    try:
        psycopg.connect(server.conninfo, connect_timeout=timeout_s).close()
    except psycopg.OperationalError:
        return False
    return True


def test_data_survives_every_kind_of_end(own_postgres: PostgresServer) -> None:
    server = own_postgres
    server.execute("CREATE TABLE kept (number int)")
    server.restart("fast")
    server.restart("immediate")
    server.kill()
    assert not answers(server)
    server.start()
    server.freeze()
    assert not answers(server)
    server.thaw()
    assert server.execute("SELECT count(*) FROM kept") == [(0,)]


def test_a_standby_follows_and_takes_over(
    own_postgres: PostgresServer, postgres_factory: PostgresFactory
) -> None:
    standby = postgres_factory.standby_of(own_postgres)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        standby.execute("CREATE TABLE refused ()")
    own_postgres.kill()
    standby.promote()
    standby.execute("CREATE TABLE taken ()")
    standby.close()
