"""`check` finds each broken thing, says what to do about it, and disturbs nobody."""

from __future__ import annotations

import shutil
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.support.command import Done, run_command, run_process
from tests.support.database import count_rows, fetch, store, wait_for_rows
from tests.support.postgres import reachable_directory
from tests.support.process import PATIENCE_S, free_port, running_service
from tests.support.receiver import open_receiver
from tests.support.rows import snapshot
from trio_bridge.model import utc_now
from trio_bridge.rows import TABLES
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.portal.certificate import vendor_certificate
from trio_bridge.simulator.portal.server import open_portal_simulator
from trio_bridge.simulator.tws.server import open_tws_simulator
from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.database.schema import ensure_bridge_schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import PostgresServer

NAMES = ["settings", "spool", "database", "schema", "rights", "rows"]
NAMES += ["gateway", "accounts", "market data"]
REQ_MARKET_DATA = 1
NOBODY = {"IB_SOCKET_PORT": 1}
"""A gateway that refuses at once, for checks of other things."""


async def check(home: Path, *arguments: str, **settings: object) -> dict[str, Any]:
    """Name → finding."""
    done = await run_command(home, "check", "--json", *arguments, **settings)
    assert done.code == (0 if done.json["ok"] else 1)
    assert done.err == ""
    return {finding["name"]: finding for finding in done.json["findings"]}


def line(finding: dict[str, str]) -> str:
    return f"{finding['text']}: {finding['remedy']}"


async def test_all_is_well(tmp_path: Path, fresh_database: str) -> None:
    book = make_book(accounts=2)
    async with open_tws_simulator(book) as sim:
        done = await run_process(
            tmp_path, "check", IB_SOCKET_PORT=sim.port, DATABASE_URL=fresh_database
        )
    lines = done.out.splitlines()
    assert done.code == 0, done
    assert [text[6:18].strip() for text in lines] == NAMES
    assert all(text.startswith(("ok ", "skip")) for text in lines)
    assert f"127.0.0.1:{sim.port}: connected" in done.out
    assert f"{', '.join(sorted(book.accounts))}: {len(book.positions())} positions" in done.out
    assert f"{book.net_greeks().priced} of {len(book.positions())} positions priced" in done.out
    assert "will be made with the first row" in done.out
    assert "\x1b" not in done.out


async def test_nothing_is_left_behind(tmp_path: Path, fresh_database: str) -> None:
    async with open_tws_simulator(make_book()) as sim:
        settings = {"IB_SOCKET_PORT": sim.port, "DATABASE_URL": fresh_database}
        await check(tmp_path, **settings)
        assert fetch(
            fresh_database, "SELECT count(*) FROM pg_class WHERE relname = ANY (%s)", [[*TABLES]]
        ) == [(0,)]
        assert list(tmp_path.iterdir()) == []
        async with running_service(tmp_path, **settings, BRIDGE_POLL_INTERVAL=0.5):
            await wait_for_rows(fresh_database, 1)
        rows = count_rows(fresh_database)
        found = await check(tmp_path, **settings)
        assert found["rights"]["verdict"] == "ok"
        assert count_rows(fresh_database) == rows
        with trio.fail_after(PATIENCE_S):  # the gateway may see us go a moment later
            while sim.sessions:
                await trio.sleep(0.05)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"IB_CLIENT_ID": "0"}, "IB_CLIENT_ID=0: 0 is the owner's own session; use 1 or more"),
        ({"BRIDGE_RESET_WINDOWS": "25:00"}, "BRIDGE_RESET_WINDOWS=25:00"),
        ({"BRIDGE_ALERT_URL": "hooks.slack.com/x"}, "BRIDGE_ALERT_URL: must be a URL like"),
    ],
)
async def test_a_bad_setting(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    found = await check(tmp_path, **settings)
    assert list(found) == ["settings"]
    assert said in found["settings"]["text"]


async def test_a_setting_that_is_misspelt(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("IB_SOCKET_PROT=7497\n")
    done = await run_command(tmp_path, "check", **NOBODY)
    assert (
        "warn  settings     unknown setting IB_SOCKET_PROT in .env: did you mean IB_SOCKET_PORT?"
        in done.out
    )
    done = await run_command(tmp_path, "check", **NOBODY, BRIDGE_POLL_INTERVALL=1)
    assert "unknown setting BRIDGE_POLL_INTERVALL in the environment: did you mean" in done.out


async def test_secrets_that_every_user_can_read(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("DATABASE_URL=postgresql://me:hunter2@127.0.0.1:1/x\nIB_ACCOUNT=U1\n")
    env.chmod(0o644)
    done = await run_command(tmp_path, "check", **NOBODY)
    assert "every user can read DATABASE_URL in .env: chmod o-r .env" in done.out
    assert "hunter2" not in done.out
    env.chmod(0o640)
    assert "can read" not in (await run_command(tmp_path, "check", **NOBODY)).out


@pytest.mark.parametrize("place", ["file/postgres", "file", "/proc/postgres", "/proc/a/b"])
async def test_a_directory_for_the_own_postgresql_that_cannot_be_made(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    found = await check(tmp_path, **NOBODY, BRIDGE_EMBEDDED_DIR=tmp_path / place)
    assert found["database"]["verdict"] == "fail"
    assert f"BRIDGE_EMBEDDED_DIR={tmp_path / place} cannot be used" in line(found["database"])


async def test_an_own_postgresql_of_which_no_programs_are_left(reachable: Path) -> None:
    data = reachable / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")
    found = await check(reachable, **NOBODY, BRIDGE_EMBEDDED_DIR=data.parent)
    assert found["database"]["verdict"] == "fail"
    assert "holds data of PostgreSQL 9" in line(found["database"])


async def test_looking_at_the_own_postgresql_makes_nothing(reachable: Path) -> None:
    found = await check(reachable, **NOBODY, BRIDGE_EMBEDDED_DIR=reachable / "a" / "b")
    assert found["database"]["verdict"] == "ok"
    assert f"in {reachable / 'a' / 'b'}: starts with the service" in line(found["database"])
    assert not (reachable / "a").exists()


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that PostgreSQL's account can enter, also when these tests run as root."""
    directory = reachable_directory("trio_bridge-check-")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


async def test_a_spool_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "buffer").mkdir()
    found = await check(tmp_path, **NOBODY, BRIDGE_BUFFER_PATH=tmp_path / "buffer")
    assert found["spool"]["verdict"] == "fail"
    assert "BRIDGE_BUFFER_PATH=" in line(found["spool"])
    assert "must be a file that this user can read and write" in line(found["spool"])


async def test_rows_that_wait_and_lines_in_quarantine(tmp_path: Path) -> None:
    buffer = tmp_path / "buffer"
    row = b'{"table":"api_logs","row":{"timestamp":"2026-01-02T00:00:00Z","message":"x"}}\n'
    buffer.write_bytes(row * 3)
    found = await check(tmp_path, **NOBODY, BRIDGE_BUFFER_PATH=buffer)
    assert found["spool"]["verdict"] == "warn"
    assert "3 rows wait for the database" in line(found["spool"])
    assert "`trio-bridge flush`" in line(found["spool"])
    buffer.with_name("buffer.quarantine.jsonl").write_bytes(b"{}\n")
    found = await check(tmp_path, **NOBODY, BRIDGE_BUFFER_PATH=buffer)
    assert "1 line could not be stored" in line(found["spool"])
    assert "buffer.quarantine.jsonl" in line(found["spool"])


DATABASE_TROUBLES: list[Any] = [
    pytest.param({"DATABASE_URL": "mysql://x"}, "the scheme must be postgresql", id="scheme"),
    pytest.param(
        {"DATABASE_URL": "postgresql://u:secret-p@127.0.0.1:1/d"},
        "start PostgreSQL there, or correct DATABASE_URL",
        id="refused",
    ),
    pytest.param(
        {"DATABASE_URL": "postgresql://u:secret-p@no-such-host.invalid/d"},
        "cannot find the host 'no-such-host.invalid'",
        id="host",
    ),
]


@pytest.mark.parametrize(("settings", "said"), DATABASE_TROUBLES)
async def test_a_database_out_of_reach(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    found = await check(tmp_path, **NOBODY, **settings)
    assert found["database"]["verdict"] == "fail"
    assert said in line(found["database"])
    assert "secret-p" not in str(found)
    assert {found[name]["verdict"] for name in ("schema", "rights", "rows")} == {"skip"}


async def test_two_services_that_record_the_same_account(
    tmp_path: Path, fresh_database: str
) -> None:
    settings: dict[str, object] = {**NOBODY, "DATABASE_URL": fresh_database}
    slots = [utc_now() - timedelta(seconds=5 * number) for number in range(10)]
    await store(fresh_database, [snapshot(number, at) for number, at in enumerate(slots)])
    found = await check(tmp_path, **settings)
    assert found["rows"]["verdict"] == "ok"
    assert found["rows"]["text"] == "10 rows in the last 1 min, no slot has two"
    await store(fresh_database, [snapshot(100 + number, at) for number, at in enumerate(slots)])
    found = await check(tmp_path, **settings)
    assert found["rows"]["verdict"] == "warn"
    assert "slots hold two rows of U1: two services record into this" in line(found["rows"])
    found = await check(tmp_path, **settings, IB_ACCOUNT="U2")
    assert found["rows"]["verdict"] == "ok"


@pytest.mark.parametrize("ahead_s", [20, 3_630], ids=["within the look-back", "beyond it"])
async def test_a_row_from_the_future_is_named(
    tmp_path: Path, fresh_database: str, ahead_s: int
) -> None:
    now = utc_now()
    times = [now - timedelta(seconds=5), now + timedelta(seconds=ahead_s)]
    await store(fresh_database, [snapshot(number, at) for number, at in enumerate(times)])
    found = await check(tmp_path, **NOBODY, DATABASE_URL=fresh_database)
    assert found["rows"]["verdict"] == "warn"
    assert "the last row is from the future, by " in line(found["rows"])


async def test_a_database_that_is_not_there(tmp_path: Path, postgres: PostgresServer) -> None:
    found = await check(tmp_path, **NOBODY, DATABASE_URL=postgres.url_of("no_such_database"))
    assert "make the database with createdb" in line(found["database"])


async def test_a_frozen_database(tmp_path: Path, own_postgres: PostgresServer) -> None:
    own_postgres.freeze()
    found = await check(tmp_path, **NOBODY, DATABASE_URL=f"{own_postgres.url}?connect_timeout=1")
    assert "did not answer in time" in line(found["database"])


async def test_a_password_that_is_wrong(tmp_path: Path, own_postgres: PostgresServer) -> None:
    own_postgres.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    own_postgres.install("pg_hba.conf", b"local all all trust\nhost all all all scram-sha-256\n")
    own_postgres.restart()
    url = own_postgres.url_of("portfolio_engine", user="guarded").replace("guarded", "guarded:bad")
    found = await check(tmp_path, **NOBODY, DATABASE_URL=url)
    assert "check user and password in DATABASE_URL, or DB_USER and DB_PASS" in line(
        found["database"]
    )


async def test_a_standby(
    tmp_path: Path, own_postgres: PostgresServer, postgres_factory: Any
) -> None:
    standby = postgres_factory.standby_of(own_postgres)
    found = await check(tmp_path, **NOBODY, DATABASE_URL=standby.url)
    assert "it is a standby" in line(found["database"])
    assert "target_session_attrs=read-write" in line(found["database"])
    standby.close()


async def test_tables_that_may_not_be_made(tmp_path: Path, own_postgres: PostgresServer) -> None:
    own_postgres.execute("CREATE ROLE guest LOGIN")
    own_postgres.execute("REVOKE CREATE ON SCHEMA public FROM public")
    url = own_postgres.url_of("portfolio_engine", user="guest")
    found = await check(tmp_path, **NOBODY, DATABASE_URL=url)
    assert found["schema"]["verdict"] == "fail"
    assert "GRANT CREATE ON SCHEMA public TO guest" in line(found["schema"])
    assert found["rights"]["verdict"] == "skip"


async def test_tables_that_are_somebody_elses(tmp_path: Path, own_postgres: PostgresServer) -> None:
    await make_tables(own_postgres)
    own_postgres.execute("CREATE ROLE guest LOGIN")
    own_postgres.execute("ALTER TABLE portfolio_greeks DROP COLUMN priced")
    url = own_postgres.url_of("portfolio_engine", user="guest")
    found = await check(tmp_path, **NOBODY, DATABASE_URL=url)
    assert "portfolio_greeks must be completed" in line(found["schema"])
    assert "as the owner" in line(found["schema"])


async def test_tables_that_may_not_be_written(tmp_path: Path, own_postgres: PostgresServer) -> None:
    await make_tables(own_postgres)
    own_postgres.execute("CREATE ROLE guest LOGIN")
    own_postgres.execute("GRANT SELECT ON portfolio_greeks, api_logs TO guest")
    url = own_postgres.url_of("portfolio_engine", user="guest")
    found = await check(tmp_path, **NOBODY, DATABASE_URL=url)
    assert found["schema"]["verdict"] == "ok"
    assert found["rights"]["verdict"] == "fail"
    assert "needs SELECT and INSERT on the tables" in line(found["rights"])


async def test_tables_that_refuse_every_row(tmp_path: Path, own_postgres: PostgresServer) -> None:
    await make_tables(own_postgres)
    own_postgres.execute("ALTER TABLE portfolio_greeks ADD desk text NOT NULL DEFAULT 'x'")
    own_postgres.execute("ALTER TABLE portfolio_greeks ALTER desk DROP DEFAULT")
    found = await check(tmp_path, **NOBODY, DATABASE_URL=own_postgres.url)
    assert "portfolio_greeks.desk may not be empty" in line(found["schema"])


async def make_tables(server: PostgresServer) -> None:
    """As the service does."""
    connection = await TrioConnection.connect(server.conninfo, autocommit=True)
    await ensure_bridge_schema(connection)
    await connection.close()


async def test_no_gateway(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = await check(tmp_path, IB_SOCKET_PORT=free.getsockname()[1])
    assert "is TWS or IB Gateway up, its API port enabled?" in line(found["gateway"])
    assert found["accounts"]["verdict"] == "skip"


async def test_something_else_at_the_gateways_port(tmp_path: Path) -> None:
    async with open_tws_simulator(make_book()) as sim:
        sim.accept_and_close()
        found = await check(tmp_path, IB_SOCKET_PORT=sim.port)
    assert found["gateway"]["verdict"] == "fail"
    assert "IB_SOCKET_HOST and IB_SOCKET_PORT say where it is" in line(found["gateway"])


async def test_a_client_id_in_use_by_another_program(tmp_path: Path) -> None:
    async with open_tws_simulator(make_book()) as sim:
        sim.occupy_client_id(10)
        found = await check(tmp_path, IB_SOCKET_PORT=sim.port)
    assert "client id 10 is in use by another program" in line(found["gateway"])
    assert "set IB_CLIENT_ID" in line(found["gateway"])


async def test_an_account_that_the_login_does_not_know(tmp_path: Path) -> None:
    book = make_book()
    async with open_tws_simulator(book) as sim:
        found = await check(tmp_path, IB_SOCKET_PORT=sim.port, IB_ACCOUNT="U404")
    assert found["gateway"]["verdict"] == "ok"
    assert "IB_ACCOUNT=U404: this login does not manage U404" in line(found["accounts"])
    assert book.accounts[0] in line(found["accounts"])


async def test_options_without_market_data(tmp_path: Path) -> None:
    book = make_book()
    options = [one.contract.con_id for one in book.positions() if one.contract.sec_type == "OPT"]
    async with open_tws_simulator(book) as sim:
        sim.refuse_market_data(options[:1], 354)
        found = await check(tmp_path, IB_SOCKET_PORT=sim.port)
    assert found["market data"]["verdict"] == "warn"
    assert "market-data subscriptions" in line(found["market data"])


async def test_a_portal_where_nobody_is_logged_in(tmp_path: Path) -> None:
    async with open_portal_simulator(make_book()) as portal:
        portal.login.logged_in = False
        found = await check(tmp_path, IB_API_MODE="portal", IBKR_GATEWAY_URL=portal.url)
    assert found["gateway"]["verdict"] == "fail"
    assert "in a browser and log in" in line(found["gateway"])


async def test_a_portal_that_is_well(tmp_path: Path) -> None:
    book = make_book()
    async with open_portal_simulator(book) as portal:
        found = await check(tmp_path, IB_API_MODE="portal", IBKR_GATEWAY_URL=portal.url)
    assert found["gateway"]["verdict"] == "ok"
    assert f"{len(book.positions())} positions" in line(found["accounts"])


async def test_a_portal_whose_certificate_is_pinned(tmp_path: Path) -> None:
    own = tmp_path / "gateway.pem"
    settings: dict[str, object] = {"IB_API_MODE": "portal", "IBKR_CA_FILE": own}
    async with open_portal_simulator(make_book(), host="0.0.0.0", vendor_tls=True) as portal:
        settings["IBKR_GATEWAY_URL"] = portal.url
        portal.ca_pem.write_to_path(own)
        found = await check(tmp_path, **settings)
        assert found["gateway"]["verdict"] == "ok"
        assert "its certificate is the one in IBKR_CA_FILE" in line(found["gateway"])
        vendor_certificate().cert_chain_pems[0].write_to_path(own)
        found = await check(tmp_path, **settings)
    assert found["gateway"]["verdict"] == "fail"
    assert line(found["gateway"]).count("SHA-256") == 1


async def test_beside_a_running_service_it_asks_as_a_visitor_and_takes_one_line(
    tmp_path: Path, fresh_database: str
) -> None:
    book = make_book()
    async with (
        open_tws_simulator(book) as sim,
        running_service(
            tmp_path, IB_SOCKET_PORT=sim.port, DATABASE_URL=fresh_database, BRIDGE_POLL_INTERVAL=0.5
        ) as service,
    ):
        await wait_for_rows(fresh_database, 2)
        found = await check(tmp_path, IB_SOCKET_PORT=sim.port, DATABASE_URL=fresh_database)
        clients = {one.client_id for one in sim.transcript if one.client_id is not None}
        asked = [one for one in sim.received(REQ_MARKET_DATA) if one.client_id == 11]
        rows = count_rows(fresh_database)
        await wait_for_rows(fresh_database, rows + 2)
        assert "disconnected" not in service.output
    assert f"process {service.pid}" in line(found["spool"])
    assert "as client 11" in line(found["gateway"])
    assert f"process {service.pid}" in line(found["gateway"])
    assert f"{len(book.positions())} positions" in line(found["accounts"])
    assert clients == {10, 11}
    assert len(asked) <= 2  # an option and, with it, its underlying


async def test_beside_a_running_service_the_portal_is_left_in_peace(
    tmp_path: Path, fresh_database: str
) -> None:
    settings: dict[str, object] = {"IB_API_MODE": "portal", "DATABASE_URL": fresh_database}
    async with open_portal_simulator(make_book()) as portal:
        settings["IBKR_GATEWAY_URL"] = portal.url
        async with running_service(tmp_path, **settings) as service:
            await service.wait_for_output("connected to")
            found = await check(tmp_path, **settings)
    assert found["gateway"]["verdict"] == "skip"
    assert f"process {service.pid} uses it" in line(found["gateway"])


async def test_beside_a_service_that_reaches_no_gateway_it_says_what_to_do(
    tmp_path: Path, fresh_database: str
) -> None:
    settings: dict[str, object] = {
        "DATABASE_URL": fresh_database,
        "BRIDGE_STATUS_PORT": free_port(),
        **NOBODY,
    }
    async with running_service(tmp_path, **settings) as service:
        await service.wait_for_output("reconnect attempt 2")
        found = await check(tmp_path, **settings)
    assert "is backing off" in found["gateway"]["text"]
    assert "is TWS or IB Gateway up" in found["gateway"]["remedy"]
    assert found["page"]["verdict"] == "ok"
    assert "the service answers" in line(found["page"])


async def test_a_gateway_that_is_set_but_not_used_yet_is_asked_itself(
    tmp_path: Path, fresh_database: str
) -> None:
    """The settings were changed, and are checked before the service is restarted with them."""
    settings: dict[str, object] = {
        "DATABASE_URL": fresh_database,
        "BRIDGE_STATUS_PORT": free_port(),
    }
    async with (
        open_tws_simulator(make_book()) as sim,
        open_portal_simulator(make_book()) as portal,
        running_service(tmp_path, IB_SOCKET_PORT=sim.port, **settings) as service,
    ):
        await service.wait_for_output("connected to")
        found = await check(tmp_path, IB_SOCKET_PORT=1, **settings)
        assert "connection refused by 127.0.0.1:1" in line(found["gateway"])
        settings |= {"IB_API_MODE": "portal", "IBKR_GATEWAY_URL": portal.url}
        found = await check(tmp_path, **settings)
        assert found["gateway"]["verdict"] == "ok"
        assert line(found["gateway"]).startswith(f"{portal.url}: connected")


@pytest.mark.parametrize("endpoint", [True, False], ids=["with its endpoint", "without"])
async def test_an_account_that_would_end_the_running_service_at_its_next_start(
    tmp_path: Path, fresh_database: str, endpoint: bool
) -> None:
    settings: dict[str, object] = {"DATABASE_URL": fresh_database, "BRIDGE_POLL_INTERVAL": 0.5}
    if endpoint:
        settings["BRIDGE_STATUS_PORT"] = free_port()
    async with (
        open_tws_simulator(make_book(accounts=2)) as sim,
        running_service(tmp_path, IB_SOCKET_PORT=sim.port, **settings),
    ):
        settings["IB_SOCKET_PORT"] = sim.port
        await wait_for_rows(fresh_database, 2)
        first, *_ = sorted({one.account for one in sim.book.positions()})
        assert (await check(tmp_path, **settings))["accounts"]["verdict"] == "ok"
        found = await check(tmp_path, **settings, IB_ACCOUNT=first)
        assert found["accounts"]["verdict"] == "ok"
        found = await check(tmp_path, **settings, IB_ACCOUNT="U999")
        assert found["accounts"]["verdict"] == "fail"
        assert "U999" in line(found["accounts"])


async def test_beside_a_portal_service_what_it_records_is_all_that_is_known(
    tmp_path: Path, fresh_database: str
) -> None:
    settings: dict[str, object] = {
        "IB_API_MODE": "portal",
        "DATABASE_URL": fresh_database,
        "BRIDGE_STATUS_PORT": free_port(),
    }
    async with open_portal_simulator(make_book()) as portal:
        settings["IBKR_GATEWAY_URL"] = portal.url
        async with running_service(tmp_path, **settings):
            await wait_for_rows(fresh_database, 1)
            assert (await check(tmp_path, **settings))["accounts"]["verdict"] == "ok"
            found = await check(tmp_path, **settings, IB_ACCOUNT="U999")
            assert found["accounts"]["verdict"] == "fail"
            assert "whether the login has U999 too is unknown" in line(found["accounts"])
            found = await check(tmp_path, **settings, IBKR_CA_FILE=tmp_path / "none.pem")
            assert found["gateway"]["verdict"] == "fail"
            assert "IBKR_CA_FILE=" in line(found["gateway"])


async def test_another_bridge_at_the_port_is_not_taken_for_this_one(
    tmp_path: Path, fresh_database: str
) -> None:
    """After a change of the port, say: a restart would end with exit code 2."""
    port = free_port()
    other = tmp_path / "other"
    other.mkdir()
    async with (
        running_service(
            other, **NOBODY, DATABASE_URL=fresh_database, BRIDGE_STATUS_PORT=port
        ) as one,
        running_service(tmp_path, **NOBODY, DATABASE_URL=fresh_database) as two,
    ):
        await one.wait_for_output("reconnect attempt")
        await two.wait_for_output("reconnect attempt")
        found = await check(
            tmp_path, **NOBODY, DATABASE_URL=fresh_database, BRIDGE_STATUS_PORT=port
        )
    assert found["page"]["verdict"] == "fail"
    assert f"BRIDGE_STATUS_PORT={port}: another program" in line(found["page"])


async def test_an_address_that_is_not_this_machines_would_keep_it_from_starting(
    tmp_path: Path,
) -> None:
    found = await check(
        tmp_path,
        **NOBODY,
        BRIDGE_STATUS_PORT=free_port(),
        BRIDGE_STATUS_HOST="192.0.2.1",
        BRIDGE_STATUS_TOKEN="0123456789abcdef",
    )
    assert found["page"]["verdict"] == "fail"
    assert "not an address of this machine" in line(found["page"])


async def test_a_page_whose_port_would_end_the_service(tmp_path: Path) -> None:
    port = free_port()
    found = await check(tmp_path, **NOBODY, BRIDGE_STATUS_PORT=port)
    assert found["page"]["verdict"] == "ok"
    assert line(found["page"]).startswith(f"http://127.0.0.1:{port}/: starts with the service")
    async with open_receiver() as other:
        found = await check(tmp_path, **NOBODY, BRIDGE_STATUS_PORT=other.port)
        assert found["page"]["verdict"] == "fail"
        assert f"BRIDGE_STATUS_PORT={other.port}: another program" in line(found["page"])
    assert "page" not in await check(tmp_path, **NOBODY)


async def test_alerts_are_tried_when_asked_for(tmp_path: Path) -> None:
    async with open_receiver() as receiver:
        settings = {**NOBODY, "BRIDGE_ALERT_URL": receiver.url()}
        found = await check(tmp_path, **settings)
        assert found["alerts"]["verdict"] == "skip"
        assert receiver.posts == []
        found = await check(tmp_path, "--alert", **settings)
        assert found["alerts"]["verdict"] == "ok"
        assert "alerts of this bridge arrive here" in receiver.text
        receiver.answers = [403]
        found = await check(tmp_path, "--alert", **settings)
        assert "check BRIDGE_ALERT_URL" in line(found["alerts"])
    assert "the-secret" not in str(found)


async def test_no_word_is_cut_off_in_a_pipe(tmp_path: Path) -> None:
    done: Done = await run_process(tmp_path, "check", **NOBODY, COLUMNS=20)
    assert done.code == 1
    assert "is TWS or IB Gateway up, its API port enabled?" in done.out
    assert len(done.out.splitlines()) == len(NAMES)


async def test_proxies_that_would_end_the_service(tmp_path: Path) -> None:
    found = await check(
        tmp_path,
        **NOBODY,
        BRIDGE_ALERT_URL="https://hooks.example.com/secret-p",
        ALL_PROXY="socks5://127.0.0.1:1",
    )
    assert found["alerts"]["verdict"] == "fail"
    assert "ALL_PROXY" in found["alerts"]["text"]
    assert "secret-p" not in str(found)
