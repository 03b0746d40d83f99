"""The service in PORTAL mode as a user meets it; a gateway's troubles are in tests/gateways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gateways.portal.support import tolerance
from tests.support.database import fetch, kinds, messages, wait_for_rows
from tests.support.process import running_service
from trio_bridge.events.gateway import Connected
from trio_bridge.events.portal import CertificateUnchecked
from trio_bridge.events.service import ServiceStopped
from trio_bridge.simulator.book import make_book
from trio_bridge.simulator.portal.server import open_portal_simulator

if TYPE_CHECKING:
    from pathlib import Path

PORTAL = {"IB_API_MODE": "PORTAL", "BRIDGE_POLL_INTERVAL": 0.5}


async def test_true_rows_and_events_land_in_the_database(
    tmp_path: Path, fresh_database: str
) -> None:
    book = make_book(accounts=2)
    book.freeze(at=10)
    async with (
        open_portal_simulator(book) as sim,
        running_service(
            tmp_path, IBKR_GATEWAY_URL=sim.url, DATABASE_URL=fresh_database, **PORTAL
        ) as service,
    ):
        await wait_for_rows(fresh_database, 3)
        service.interrupt()
        assert await service.wait() == 0
        assert sim.login.logged_in, "its end is no logout"
        url = sim.url
    truth = book.net_greeks()
    rows = fetch(
        fresh_database,
        "SELECT delta, gamma, vega, theta, positions, priced, account FROM portfolio_greeks",
    )
    for row in rows:
        assert row[:4] == pytest.approx(
            (truth.delta, truth.gamma, truth.vega, truth.theta), abs=tolerance(book)
        )
        assert row[4:] == (truth.positions, truth.priced, ",".join(book.accounts))
    assert fetch(fresh_database, "SELECT DISTINCT api_mode FROM api_logs") == [("PORTAL",)]
    assert Connected(url).message in messages(fresh_database)
    assert kinds(fresh_database).count(CertificateUnchecked.kind) == 1
    assert messages(fresh_database)[-1] == ServiceStopped(url).message


async def test_an_unknown_account_is_answered_with_the_known_ones(
    tmp_path: Path, fresh_database: str
) -> None:
    async with (
        open_portal_simulator(make_book(accounts=2)) as sim,
        running_service(
            tmp_path,
            IBKR_GATEWAY_URL=sim.url,
            DATABASE_URL=fresh_database,
            IB_ACCOUNT="U7",
            **PORTAL,
        ) as service,
    ):
        await service.wait_for_output("reconnect attempt")
        service.interrupt()
        assert await service.wait() == 0
    said = "IB_ACCOUNT=U7: this login does not manage U7; it manages DU1000001, DU1000002"
    assert said in service.output
    assert "trying for 180 s" in service.output
    assert "Traceback" not in service.output


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"IBKR_GATEWAY_URL": "localhost:5000"}, "IBKR_GATEWAY_URL=localhost:5000: "),
        ({"IBKR_GATEWAY_URL": "http://gateway.lan:5000"}, "use https"),
        ({"IBKR_CA_FILE": "/nowhere/ca.pem"}, "IBKR_CA_FILE=/nowhere/ca.pem: "),
    ],
    ids=str,
)
async def test_a_gateway_that_cannot_be_meant_ends_in_one_line(
    tmp_path: Path, fresh_database: str, settings: dict[str, str], said: str
) -> None:
    async with running_service(
        tmp_path, DATABASE_URL=fresh_database, **PORTAL, **settings
    ) as service:
        assert await service.wait() == 2
    (line,) = [one for one in service.output.splitlines() if one.startswith("trio_bridge: ")]
    assert said in line
    assert "Traceback" not in service.output
