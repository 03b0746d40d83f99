"""The simulated portal behaves as documented for the real one, and a second, independent client
(ibind) works with it."""

from __future__ import annotations

import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from trio_bridge.simulator.book import Book, make_book
from trio_bridge.simulator.portal.faults import Fault
from trio_bridge.simulator.portal.rules import Rules, SimulatedLogin
from trio_bridge.simulator.portal.server import (
    RulesBrokenError,
    ServedPortal,
    open_portal_simulator,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GREEKS = "7308,7309,7310,7311,6509"


@pytest.fixture
def book() -> Book:
    book = make_book(options=110, accounts=2)
    book.freeze(at=10)
    return book


@pytest.fixture
async def sim(book: Book) -> AsyncIterator[ServedPortal]:
    async with open_portal_simulator(book) as sim:
        yield sim


@pytest.fixture
async def http(sim: ServedPortal) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(sim) as http:
        yield http


def client_of(sim: ServedPortal) -> httpx.AsyncClient:
    context = ssl.create_default_context(cadata=sim.ca_pem.bytes().decode())
    return httpx.AsyncClient(base_url=sim.url + "/v1/api", verify=context)


def option_ids(book: Book) -> list[int]:
    return [held.contract.con_id for held in book.positions() if held.contract.is_option]


async def test_it_is_served_over_tls_with_a_certificate_of_its_own(sim: ServedPortal) -> None:
    assert sim.url.startswith("https://127.0.0.1:")
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ConnectError):
            await http.post(sim.url + "/v1/api/tickle", json={})


async def test_a_tickle_tells_the_session_and_its_state(http: httpx.AsyncClient) -> None:
    answer = (await http.post("/tickle", json={})).json()
    assert answer["session"]
    assert answer["iserver"]["authStatus"]["authenticated"] is True
    assert (await http.get("/iserver/auth/status")).json()["connected"] is True


async def test_a_post_without_a_body_is_refused(http: httpx.AsyncClient) -> None:
    assert (await http.post("/iserver/auth/status")).status_code == 411


async def test_positions_need_the_accounts_first(http: httpx.AsyncClient, book: Book) -> None:
    path = f"/portfolio/{book.accounts[0]}/positions/0"
    assert (await http.get(path)).status_code == 400
    accounts = (await http.get("/portfolio/accounts")).json()
    assert [account["id"] for account in accounts] == list(book.accounts)
    assert (await http.get(path)).status_code == 200


async def test_positions_come_in_pages_of_a_hundred() -> None:
    book = make_book(options=230)
    async with open_portal_simulator(book) as sim, client_of(sim) as http:
        await http.get("/portfolio/accounts")
        pages = [
            (await http.get(f"/portfolio/{book.accounts[0]}/positions/{page}")).json()
            for page in range(4)
        ]
    assert [len(page) for page in pages] == [100, 100, 34, 0]
    told = {entry["conid"]: entry["position"] for page in pages for entry in page}
    assert told == {held.contract.con_id: held.quantity for held in book.positions()}


async def test_positions_are_cached_until_invalidated(http: httpx.AsyncClient, book: Book) -> None:
    account = book.accounts[0]
    path = f"/portfolio/{account}/positions/0"
    await http.get("/portfolio/accounts")
    before = (await http.get(path)).json()
    book.set_position(account, before[0]["conid"], 99)
    assert (await http.get(path)).json() == before
    await http.post(f"/portfolio/{account}/positions/invalidate", json={})
    assert (await http.get(path)).json()[0]["position"] == 99


async def test_a_snapshot_needs_a_preflight_and_fields_come_one_by_one(
    http: httpx.AsyncClient, sim: ServedPortal, book: Book
) -> None:
    sim.quirks.field_delay_s = 0.3
    con_id = option_ids(book)[0]
    query = {"conids": str(con_id), "fields": GREEKS}
    assert (await http.get("/iserver/marketdata/snapshot", params=query)).status_code == 400
    await http.get("/iserver/accounts")
    seen: list[int] = []
    (entry,) = (await http.get("/iserver/marketdata/snapshot", params=query)).json()
    assert "7308" not in entry
    while not seen or seen[-1] < 5:
        (entry,) = (await http.get("/iserver/marketdata/snapshot", params=query)).json()
        seen.append(sum(name in entry for name in GREEKS.split(",")))
        await trio.sleep(0.2)
    assert seen == sorted(seen)
    assert len(set(seen)) > 2
    model = book.quote(con_id).model
    assert model is not None
    assert float(entry["7308"]) == pytest.approx(model.delta, abs=0.0005)
    assert float(entry["7309"]) == pytest.approx(model.gamma, abs=0.0005)
    assert float(entry["7310"].replace(",", "")) == pytest.approx(model.theta, abs=0.0005)
    assert float(entry["7311"].replace(",", "")) == pytest.approx(model.vega, abs=0.0005)


async def test_without_a_login_everything_is_401(
    http: httpx.AsyncClient, sim: ServedPortal
) -> None:
    sim.login.log_out()
    assert (await http.post("/tickle", json={})).status_code == 401
    assert (await http.get("/iserver/auth/status")).status_code == 401
    assert (await http.get("/trsrv/secdef", params={"conids": "1"})).status_code == 401


async def test_without_a_brokerage_session_the_portfolio_still_answers(
    http: httpx.AsyncClient, sim: ServedPortal
) -> None:
    sim.login.brokerage = False
    assert (await http.get("/iserver/accounts")).json()["error"] == "no bridge"
    assert (await http.get("/portfolio/accounts")).status_code == 200
    answer = await http.post("/iserver/auth/ssodh/init", json={"publish": True, "compete": False})
    assert answer.json()["authenticated"] is True
    assert (await http.get("/iserver/accounts")).status_code == 200


async def test_faults_strike_until_they_are_lifted(
    http: httpx.AsyncClient, sim: ServedPortal
) -> None:
    with sim.faults(Fault("/tickle", status=503)) as fault:
        assert (await http.post("/tickle", json={})).status_code == 503
    await trio.sleep(1.1)
    with sim.faults(Fault("/tickle", html=True)):
        assert "<html>" in (await http.post("/tickle", json={})).text
    with sim.faults(Fault("/iserver/accounts", hang=True)), trio.move_on_after(0.5) as waiting:
        await http.get("/iserver/accounts")
    assert waiting.cancelled_caught
    await trio.sleep(1.1)
    assert (await http.post("/tickle", json={})).status_code == 200
    assert fault.hits == 1


async def test_the_gateway_goes_down_and_comes_back_on_its_port(sim: ServedPortal) -> None:
    url = sim.url
    await sim.stop()
    with pytest.raises(OSError, match="failed"):
        await trio.open_tcp_stream(sim.host, sim.port)
    await sim.start()
    assert sim.url == url
    stream = await trio.open_tcp_stream(sim.host, sim.port)
    await stream.aclose()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/iserver/account/DU1/orders", {}),
        ("DELETE", "/iserver/account/DU1/order/1", None),
        ("GET", "/iserver/account/orders", None),
        ("POST", "/iserver/reply/1", {"confirmed": True}),
        ("POST", "/logout", {}),
        ("POST", "/iserver/reauthenticate", {}),
        ("POST", "/iserver/auth/ssodh/init", {"publish": True, "compete": True}),
        ("POST", "/iserver/auth/ssodh/init", {"publish": True}),
        ("PUT", "/tickle", {}),
    ],
)
async def test_what_a_read_only_client_never_does_fails_loudly(
    book: Book, method: str, path: str, body: dict[str, Any] | None
) -> None:
    async def misbehave() -> None:
        async with open_portal_simulator(book) as sim, client_of(sim) as http:
            await http.request(method, path, json=body)

    with pytest.raises(RulesBrokenError, match=path.split("/")[-1]):
        await misbehave()


async def test_too_many_requests_lead_into_the_penalty_box(book: Book) -> None:
    statuses = []

    async def hurry() -> None:
        async with open_portal_simulator(book) as sim, client_of(sim) as http:
            await http.post("/tickle", json={})
            statuses.append((await http.post("/tickle", json={})).status_code)
            await trio.sleep(1.1)
            statuses.append((await http.get("/iserver/accounts")).status_code)

    with pytest.raises(RulesBrokenError, match="pacing"):
        await hurry()
    assert statuses == [429, 429]


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.mark.parametrize(
    ("path", "allowed", "period_s"),
    [("/trsrv/secdef", 10, 1.0), ("/tickle", 1, 1.0), ("/portfolio/accounts", 1, 5.0)],
)
def test_pacing_is_judged_over_any_window(path: str, allowed: int, period_s: float) -> None:
    clock = Clock()
    rules = Rules(SimulatedLogin(), clock)
    for _ in range(3):
        for _ in range(allowed):
            assert rules.judge("POST", path, {}, {}) is None
        clock.time += period_s
    for _ in range(allowed):
        assert rules.judge("POST", path, {}, {}) is None
    clock.time += period_s * 0.99
    refusal = rules.judge("POST", path, {}, {})
    assert refusal is not None
    assert refusal.status == 429
    assert rules.violations
    clock.time += 590
    refusal = rules.judge("POST", path, {}, {})
    assert refusal is not None
    assert refusal.status == 429
    clock.time += 11
    rules.person_logs_in()
    assert rules.judge("POST", path, {}, {}) is None


def test_a_session_without_tickles_expires() -> None:
    clock = Clock()
    login = SimulatedLogin()
    rules = Rules(login, clock)
    for _ in range(20):
        clock.time += 60
        assert rules.judge("POST", "/tickle", {}, {}) is None
    clock.time += 400
    refusal = rules.judge("GET", "/iserver/accounts", {}, None)
    assert refusal is not None
    assert refusal.status == 401
    rules.person_logs_in()
    assert rules.judge("POST", "/tickle", {}, {}) is None


async def test_ibind_finds_its_way_through_it(
    sim: ServedPortal, book: Book, tmp_path: Path
) -> None:
    """A third-party client, on requests instead of httpx, from a thread."""
    sim.rules.wants_bodies = False
    ca_file = tmp_path / "ca.pem"
    sim.ca_pem.write_to_path(ca_file)
    with trio.fail_after(60):
        found = await trio.to_thread.run_sync(
            partial(drive_ibind, sim.host, sim.port, str(ca_file), book.accounts[0])
        )
    held = {one.contract.con_id: one for one in book.positions(book.accounts[0])}
    assert found["healthy"] is True
    assert found["accounts"] == list(book.accounts)
    assert {entry["conid"]: entry["position"] for entry in found["positions"]} == {
        con_id: one.quantity for con_id, one in held.items()
    }
    multipliers = {entry["conid"]: entry["multiplier"] for entry in found["definitions"]}
    assert multipliers == {
        con_id: held[con_id].contract.multiplier for con_id in found["option_ids"]
    }
    assert len(found["quotes"]) == len(found["option_ids"])
    for quote in found["quotes"]:
        model = book.quote(quote["conid"]).model
        assert model is not None
        for field, value in zip(GREEKS.split(","), (
            model.delta, model.gamma, model.theta, model.vega
        ), strict=False):  # fmt: skip
            assert float(quote[field].replace(",", "")) == pytest.approx(value, abs=0.0005)
    assert found["info"]["underlying_con_id"] == held[found["option_ids"][0]].contract.under_con_id


def drive_ibind(host: str, port: int, ca_file: str, account: str) -> dict[str, Any]:
    """Session, accounts, positions, definitions and snapshots through ibind's own calls."""
    import time

    from ibind import IbkrClient

    client = IbkrClient(
        host=host,
        port=str(port),
        cacert=ca_file,
        account_id=account,
        auto_register_shutdown=False,
    )
    try:
        found: dict[str, Any] = {"healthy": client.check_auth_status()}
        client.tickle()
        client.initialize_brokerage_session(compete=False)
        found["accounts"] = [one["accountId"] for one in client.portfolio_accounts().data]
        found["positions"] = []
        for page in range(10):
            entries = client.positions(page=page).data
            found["positions"] += entries
            if len(entries) < 100:
                break
        options = [one for one in found["positions"] if one["assetClass"] in ("OPT", "FOP")]
        found["option_ids"] = con_ids = [one["conid"] for one in options]
        names = list(map(str, con_ids))
        found["definitions"] = client.security_definition_by_conid(names).data["secdef"]
        found["info"] = client.contract_information_by_conid(names[0]).data
        client.receive_brokerage_accounts()
        time.sleep(1)
        fields = GREEKS.split(",")
        for _ in range(20):
            found["quotes"] = client.live_marketdata_snapshot(names, fields).data
            if all(field in quote for quote in found["quotes"] for field in fields):
                break
            time.sleep(0.5)
        return found
    finally:
        client.close()
