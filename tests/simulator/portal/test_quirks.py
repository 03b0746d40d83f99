"""Recorded oddities of the real Client Portal Gateway, each played on request, seen through TLS."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import orjson
import pytest
import trio
from cryptography import x509
from trio_websocket import WebSocketConnection, open_websocket_url

from tests.simulator.tws.client import PATIENCE_S, eventually
from trio_bridge.simulator.accounts import figures
from trio_bridge.simulator.book import Book, make_book
from trio_bridge.simulator.listings import YEN, list_corn, list_nikkei
from trio_bridge.simulator.portal.certificate import COMMON_NAME
from trio_bridge.simulator.portal.faults import Fault
from trio_bridge.simulator.portal.rules import Refusal
from trio_bridge.simulator.portal.server import (
    RulesBrokenError,
    ServedPortal,
    open_portal_simulator,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GREEKS = "7308,7309,7310,7311"


@pytest.fixture
def book() -> Book:
    book = make_book(accounts=2)
    book.freeze(at=10)
    return book


@pytest.fixture
async def sim(book: Book) -> AsyncIterator[ServedPortal]:
    async with open_portal_simulator(book) as sim:
        sim.quirks.field_delay_s = 0.0
        yield sim


@pytest.fixture
async def http(sim: ServedPortal) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(sim) as http:
        yield http


def trusting(sim: ServedPortal) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=sim.ca_pem.bytes().decode())


def client_of(sim: ServedPortal) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=sim.url + "/v1/api", verify=trusting(sim))


@asynccontextmanager
async def websocket_of(sim: ServedPortal) -> AsyncIterator[WebSocketConnection]:
    url = sim.url.replace("https", "wss") + "/v1/api/ws"
    cookie = f'api={{"session":"{sim.login.token}"}}'.encode()
    async with open_websocket_url(
        url, ssl_context=trusting(sim), extra_headers=[(b"Cookie", cookie)]
    ) as websocket:
        yield websocket


async def quote(http: httpx.AsyncClient, con_id: int, fields: str = GREEKS) -> dict[str, Any]:
    """What the second question brings: the first one only starts the stream."""
    await http.get("/iserver/accounts")
    query = {"conids": str(con_id), "fields": fields}
    await http.get("/iserver/marketdata/snapshot", params=query)
    (entry,) = (await http.get("/iserver/marketdata/snapshot", params=query)).json()
    assert isinstance(entry, dict)
    return entry


class Spoken(NamedTuple):
    """One conversation over TLS."""

    version: str | None
    alpn: str | None
    certificate: bytes
    answer: bytes


STATUS = b"GET /v1/api/iserver/auth/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
UPGRADE = (
    b"GET /v1/api/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def spoken_to(
    sim: ServedPortal, *, request: bytes = STATUS, context: ssl.SSLContext | None = None
) -> Spoken:
    """By the standard library's own sockets, from a thread; trusts anybody unless told whom."""
    if context is None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["http/1.1"])
    with trio.fail_after(PATIENCE_S):
        return await trio.to_thread.run_sync(speak_tls, sim.host, sim.port, request, context)


def speak_tls(host: str, port: int, request: bytes, context: ssl.SSLContext) -> Spoken:
    with (
        socket.create_connection((host, port), timeout=PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        secure.sendall(request)
        certificate = secure.getpeercert(binary_form=True)
        assert certificate is not None
        answer = b""
        version, alpn = secure.version(), secure.selected_alpn_protocol()
        while piece := secure.recv(65536):
            answer += piece
        return Spoken(version, alpn, certificate, answer)


# Refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        (Fault("", status=403, html=True), 403, "text/html"),
        (Fault("", status=503), 503, "application/json"),
        (Fault("", status=601), 601, "application/json"),
    ],
    ids=["page", "503", "601"],
)
async def test_everything_can_be_refused(
    sim: ServedPortal, http: httpx.AsyncClient, fault: Fault, status: int, kind: str
) -> None:
    paths = ("/iserver/accounts", "/portfolio/accounts", "/iserver/auth/status")
    with sim.faults(fault):
        for path in paths:
            answer = await http.get(path)
            assert (answer.status_code, answer.headers["content-type"][: len(kind)]) == (
                status,
                kind,
            )
    assert fault.hits == 3
    assert (await http.get(paths[0])).status_code == 200


async def test_positions_alone_or_one_account_alone_can_be_refused(
    sim: ServedPortal, http: httpx.AsyncClient, book: Book
) -> None:
    first, second = book.accounts
    await http.get("/portfolio/accounts")
    with sim.faults(Fault("/positions/", status=401)):
        assert (await http.get(f"/portfolio/{first}/positions/0")).status_code == 401
        assert (await http.get(f"/portfolio/{first}/summary")).status_code == 200
    with sim.faults(Fault(f"/portfolio/{second}/", status=500)):
        assert (await http.get(f"/portfolio/{first}/positions/0")).status_code == 200
        for rest in ("positions/0", "summary", "ledger"):
            assert (await http.get(f"/portfolio/{second}/{rest}")).status_code == 500


async def test_an_address_can_be_denied(sim: ServedPortal, http: httpx.AsyncClient) -> None:
    sim.denies_address = True
    answer = await http.get("/iserver/auth/status")
    assert (answer.status_code, answer.text) == (404, "Access Denied")
    assert not sim.rules.requests


async def test_texts_can_hold_what_a_terminal_obeys(
    sim: ServedPortal, http: httpx.AsyncClient
) -> None:
    nasty = "\x1b[2J\u202eko si gnihtyreve\u202c"
    sim.login.message = nasty
    assert (await http.get("/iserver/auth/status")).json()["message"] == nasty
    with sim.faults(Fault("/iserver/accounts", status=500, text=nasty)):
        answer = await http.get("/iserver/accounts")
    assert (answer.status_code, answer.text) == (500, nasty)


@pytest.mark.parametrize("established", [None, False, True])
async def test_a_session_can_be_not_established_yet(
    sim: ServedPortal, http: httpx.AsyncClient, established: bool | None
) -> None:
    sim.login.established = established
    assert (await http.get("/iserver/auth/status")).json().get("established") is established


async def test_the_limit_holds_over_all_clients_together(book: Book) -> None:
    statuses: list[int] = []

    async def hurry() -> None:
        async with (
            open_portal_simulator(book) as sim,
            client_of(sim) as one,
            client_of(sim) as other,
        ):
            for client in (one, other):
                for _ in range(6):
                    statuses.append((await client.get("/iserver/auth/status")).status_code)
            await trio.sleep(1.1)
            statuses.append((await one.get("/iserver/auth/status")).status_code)

    with pytest.raises(RulesBrokenError, match="pacing"):
        await hurry()
    assert statuses == [200] * 10 + [429] * 3


# Upstream --------------------------------------------------------------------------------------


async def give_up_on(http: httpx.AsyncClient, path: str) -> None:
    with pytest.raises(httpx.ReadTimeout):
        # Patient while connecting: on a loaded machine that takes longer than the silence.
        await http.get(path, timeout=httpx.Timeout(PATIENCE_S, read=0.3))


async def test_what_was_given_up_while_upstream_hung_is_sent_at_once_when_it_returns(
    book: Book,
) -> None:
    async def hang_and_return() -> None:
        async with open_portal_simulator(book) as sim, client_of(sim) as http:
            await http.get("/iserver/auth/status")
            sim.upstream.hang()
            async with trio.open_nursery() as nursery:
                for _ in range(17):
                    nursery.start_soon(give_up_on, http, "/iserver/auth/status")
            await eventually(lambda: sim.upstream.queued == 12)
            assert len(sim.rules.requests) == 1 + 5
            sim.upstream.come_back()
            await eventually(lambda: len(sim.rules.requests) == 18)
            returned = [one.at for one in sim.rules.requests][6:]
            assert returned[-1] - returned[0] < 1.0
            assert sim.upstream.queued == 0

    with pytest.raises(RulesBrokenError, match="pacing"):
        await hang_and_return()


async def test_who_still_waits_is_answered_when_upstream_returns(
    sim: ServedPortal, http: httpx.AsyncClient
) -> None:
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append((await http.get("/iserver/auth/status", timeout=PATIENCE_S)).status_code)

    sim.upstream.hang()
    async with trio.open_nursery() as nursery:
        for _ in range(7):
            nursery.start_soon(ask)
        await eventually(lambda: sim.upstream.queued == 2)
        assert statuses == []
        sim.upstream.come_back()
    assert statuses == [200] * 7
    assert (await http.get("/iserver/auth/status")).status_code == 200


async def test_upstream_that_refuses_gives_no_answer_not_even_later(
    sim: ServedPortal, http: httpx.AsyncClient
) -> None:
    sim.upstream.refuse()
    await give_up_on(http, "/iserver/auth/status")
    sim.upstream.come_back()
    assert (await http.get("/iserver/auth/status")).status_code == 200
    assert len(sim.rules.requests) == 1


async def test_a_websocket_is_accepted_before_upstream_is_reached(sim: ServedPortal) -> None:
    sim.upstream.hang()
    with trio.fail_after(PATIENCE_S):
        async with websocket_of(sim) as websocket:
            with trio.move_on_after(0.3) as silence:
                await websocket.get_message()
            assert silence.cancelled_caught
            assert sim.websocket.opened == 0
            sim.upstream.come_back()
            assert orjson.loads(await websocket.get_message())["topic"] == "system"


# The WebSocket ---------------------------------------------------------------------------------


async def test_a_websocket_can_be_accepted_and_mute(sim: ServedPortal, book: Book) -> None:
    sim.websocket.mute = True
    con_id = book.market.options()[0].con_id
    with trio.fail_after(PATIENCE_S):
        async with websocket_of(sim) as websocket:
            await websocket.send_message(f'smd+{con_id}+{{"fields":["7308"]}}')
            await eventually(lambda: len(sim.websocket.messages) == 1)
            with trio.move_on_after(1.0) as silence:
                await websocket.get_message()
            assert silence.cancelled_caught


@pytest.mark.parametrize("binary", [False, True])
async def test_frames_can_be_binary(sim: ServedPortal, binary: bool) -> None:
    sim.websocket.binary = binary
    with trio.fail_after(PATIENCE_S):
        async with websocket_of(sim) as websocket:
            assert isinstance(await websocket.get_message(), bytes if binary else str)


async def test_a_websocket_can_be_refused_with_a_large_page_and_a_cookie(
    sim: ServedPortal,
) -> None:
    page = "<html>" + "x" * 48_000
    sim.websocket.refusal = Refusal(403, page, (("Set-Cookie", "secret=4711"),))
    head, body = (await spoken_to(sim, request=UPGRADE)).answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 403 ")
    assert b"set-cookie: secret=4711" in head.lower()
    assert page.encode() in body


# Accounts --------------------------------------------------------------------------------------


def ids(entries: list[dict[str, Any]]) -> list[str]:
    return [one["id"] for one in entries]


async def test_an_advisers_login_sees_other_accounts_in_each_list(
    sim: ServedPortal, http: httpx.AsyncClient, book: Book
) -> None:
    sim.account_lists.master = "F7654321"
    everyone = ["F7654321", *book.accounts]
    assert ids((await http.get("/portfolio/accounts")).json()) == ["F7654321"]
    assert ids((await http.get("/portfolio/subaccounts")).json()) == everyone
    named = (await http.get("/iserver/accounts")).json()
    assert named["accounts"] == [*everyone, "All"]
    assert (await http.get("/portfolio/F7654321/positions/0")).json() == []
    first = (await http.get(f"/portfolio/{book.accounts[0]}/positions/0")).json()
    assert len(first) == len(book.positions(book.accounts[0]))


@pytest.mark.parametrize("refuses", [False, True])
async def test_more_than_a_hundred_sub_accounts_come_in_pages(refuses: bool) -> None:
    book = make_book(options=0, accounts=130)
    async with open_portal_simulator(book) as sim, client_of(sim) as http:
        sim.account_lists.master = "F1"
        sim.account_lists.refuses_long_list = refuses
        answer = await http.get("/portfolio/subaccounts")
        if refuses:
            assert answer.status_code == 400
        else:
            assert len(answer.json()) == 100
        pages = [
            (await http.get("/portfolio/subaccounts2", params={"page": page})).json()
            for page in range(8)
        ]
        assert [len(one["subaccounts"]) for one in pages] == [20] * 6 + [11, 0]
        assert pages[0]["metadata"]["total"] == 131
        named = [one for page in pages for one in ids(page["subaccounts"])]
        assert named == ["F1", *book.accounts]


async def test_any_list_can_lack_an_account_for_a_while(
    sim: ServedPortal, http: httpx.AsyncClient, book: Book
) -> None:
    first, second = book.accounts
    sim.account_lists.missing["/iserver/accounts"] = {second}
    sim.account_lists.missing["/portfolio/subaccounts"] = {first}
    assert ids((await http.get("/portfolio/accounts")).json()) == [first, second]
    assert ids((await http.get("/portfolio/subaccounts")).json()) == [second]
    assert (await http.get("/iserver/accounts")).json()["accounts"] == [first]
    sim.account_lists.missing.clear()
    assert (await http.get("/iserver/accounts")).json()["accounts"] == [first, second]


async def test_lists_of_sub_accounts_open_the_portfolio_too(
    http: httpx.AsyncClient, book: Book
) -> None:
    path = f"/portfolio/{book.accounts[0]}/summary"
    assert (await http.get(path)).status_code == 400
    await http.get("/portfolio/subaccounts")
    assert (await http.get(path)).status_code == 200
    assert (await http.get("/portfolio/DU0/summary")).status_code == 400
    assert (await http.get("/portfolio/DU0/ledger")).status_code == 400


async def test_summary_and_ledger_tell_the_books_money(
    sim: ServedPortal, http: httpx.AsyncClient, book: Book
) -> None:
    account = book.accounts[0]
    list_nikkei(book, account)
    book.money.set_figures(account, GrossPositionValue=57_500.0, Cushion=None)
    sim.quirks.null_figures = {"sma"}
    await http.get("/portfolio/accounts")
    told = (await http.get(f"/portfolio/{account}/summary")).json()
    truth = {one.key.lower(): one.amount for one in figures(book, account)}
    assert set(told) == set(truth)
    assert told["grosspositionvalue"]["amount"] == 57_500.0
    assert told["maintmarginreq"]["amount"] == truth["maintmarginreq"]
    assert (told["netliquidation"]["currency"], told["accountready"]["value"]) == ("USD", "true")
    assert (told["sma"]["isNull"], told["sma"]["amount"]) == (True, 0.0)
    assert "cushion" not in told
    ledger = (await http.get(f"/portfolio/{account}/ledger")).json()
    assert set(ledger) == {"USD", "JPY", "BASE"}
    assert ledger["JPY"]["exchangerate"] == YEN
    assert ledger["USD"]["cashbalance"] == 1_000_000.0


# Contracts and market data ---------------------------------------------------------------------


@pytest.mark.parametrize("said", ["DPB", "YB", "N", "O", "S", ""])
async def test_availability_can_be_any_word(
    sim: ServedPortal, http: httpx.AsyncClient, book: Book, said: str
) -> None:
    con_id = book.market.options()[0].con_id
    sim.quirks.availability[con_id] = said
    entry = await quote(http, con_id, "6509,7308")
    assert entry["6509"] == said
    assert "7308" in entry, "words only: silence_greeks takes the values away"


async def test_gammas_can_have_fewer_decimals_than_the_rest(
    sim: ServedPortal, http: httpx.AsyncClient, book: Book
) -> None:
    con_id = book.market.options()[0].con_id
    sim.quirks.decimals = 6
    sim.quirks.decimals_of["7309"] = 2
    entry = await quote(http, con_id)
    places = {name: len(entry[name].partition(".")[2]) for name in GREEKS.split(",")}
    assert places == {"7308": 6, "7309": 2, "7310": 6, "7311": 6}


@pytest.mark.parametrize(
    ("field", "value", "name", "text"),
    [
        ("delta", 2147483647.0, "7308", "2,147,483,647.000"),
        ("delta", -40.0, "7308", "-40.000"),
        ("gamma", -0.5, "7309", "-0.500"),
    ],
)
async def test_impossible_values_are_told_as_they_are(
    http: httpx.AsyncClient, book: Book, field: str, value: float, name: str, text: str
) -> None:
    con_id = book.market.options()[0].con_id
    book.market.override(con_id, **{field: value})
    assert (await quote(http, con_id))[name] == text


async def test_betas_are_told_where_there_are_any(http: httpx.AsyncClient, book: Book) -> None:
    first, second, *_ = book.market.options()
    book.market.change_contract(first.con_id, beta=1.25)
    assert (await quote(http, first.con_id, "7718"))["7718"] == "1.250"
    assert "7718" not in await quote(http, second.con_id, "7718")


async def test_magnifiers_are_told_where_the_portal_tells_them(
    sim: ServedPortal, http: httpx.AsyncClient, book: Book
) -> None:
    account = book.accounts[0]
    corn, other = list_corn(book, account)
    plain = book.market.options()[0]

    async def told(con_id: int) -> tuple[Any, ...]:
        info = (await http.get(f"/iserver/contract/{con_id}/info-and-rules")).json()
        secdef = (await http.get("/trsrv/secdef", params={"conids": str(con_id)})).json()["secdef"]
        return info["rules"]["priceMagnifier"], secdef[0]["displayRule"]["magnification"]

    assert await told(corn.con_id) == (100, 100)
    assert await told(plain.con_id) == (None, 0)
    sim.quirks.magnification[other.con_id] = 2
    sim.quirks.magnifier_in_rules[other.con_id] = None
    assert await told(other.con_id) == (None, 2)
    await http.get("/portfolio/accounts")
    held = (await http.get(f"/portfolio/{account}/positions/0")).json()
    rules = {one["conid"]: one["displayRule"]["magnification"] for one in held}
    assert (rules[corn.con_id], rules[other.con_id], rules[plain.con_id]) == (100, 2, 0)


async def test_the_last_day_of_trading_can_come_before_the_expiry(
    http: httpx.AsyncClient, book: Book
) -> None:
    option = book.market.options()[0]
    book.market.change_contract(option.con_id, expiry="20300117", real_expiry="20300118")
    info = (await http.get(f"/iserver/contract/{option.con_id}/info")).json()
    query = {"conids": str(option.con_id)}
    (defined,) = (await http.get("/trsrv/secdef", params=query)).json()["secdef"]
    assert info["maturity_date"] == "20300118"
    assert (defined["lastTradingDay"], defined["expiry"]) == ("20300117", "20300118")


# TLS -------------------------------------------------------------------------------------------


async def test_the_certificate_can_be_like_the_real_ones(book: Book) -> None:
    async with open_portal_simulator(book, vendor_tls=True) as sim:
        spoken = await spoken_to(sim)
        certificate = x509.load_der_x509_certificate(spoken.certificate)
        assert certificate == x509.load_pem_x509_certificate(sim.ca_pem.bytes())
        assert certificate.subject.rfc4514_string() == f"CN={COMMON_NAME}"
        assert [one.oid._name for one in certificate.extensions] == []
        assert certificate.not_valid_after_utc.year == 2019
        assert (spoken.version, spoken.alpn) == ("TLSv1.2", None)
        head, _, body = spoken.answer.partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head.lower()
        assert b"content-length" not in head.lower()
        assert b'"authenticated":true' in body
        context = trusting(sim)
        for checks_name, complaint in ((True, "verify failed"), (False, "expired")):
            context.check_hostname = checks_name
            with pytest.raises(ssl.SSLCertVerificationError, match=complaint):
                await spoken_to(sim, context=context)


async def test_by_default_it_is_one_that_can_be_verified(sim: ServedPortal) -> None:
    spoken = await spoken_to(sim, context=trusting(sim))
    assert spoken.version == "TLSv1.3"
    assert b"content-length" in spoken.answer.lower()


# A client of other people ----------------------------------------------------------------------


async def test_ibind_reads_an_advisers_accounts_and_their_money(
    sim: ServedPortal, book: Book, tmp_path: Path
) -> None:
    sim.account_lists.master = "F7654321"
    sim.rules.wants_bodies = False
    ca_file = tmp_path / "ca.pem"
    sim.ca_pem.write_to_path(ca_file)
    account = book.accounts[1]
    with trio.fail_after(60):
        found = await trio.to_thread.run_sync(
            partial(drive_ibind, sim.host, sim.port, str(ca_file), account)
        )
    everyone = ["F7654321", *book.accounts]
    assert ids(found["accounts"]) == ["F7654321"]
    assert ids(found["subaccounts"]) == everyone
    assert ids(found["page"]["subaccounts"]) == everyone
    assert found["brokerage"]["accounts"] == [*everyone, "All"]
    truth = {one.key.lower(): one.amount for one in figures(book, account)}
    assert found["summary"]["grosspositionvalue"]["amount"] == truth["grosspositionvalue"]
    assert found["ledger"]["USD"]["exchangerate"] == 1.0


def drive_ibind(host: str, port: int, ca_file: str, account: str) -> dict[str, Any]:
    from ibind import IbkrClient

    client = IbkrClient(
        host=host,
        port=str(port),
        cacert=ca_file,
        account_id=account,
        auto_register_shutdown=False,
    )
    try:
        return {
            "accounts": client.portfolio_accounts().data,
            "subaccounts": client.portfolio_subaccounts().data,
            "page": client.large_portfolio_subaccounts(0).data,
            "brokerage": client.receive_brokerage_accounts().data,
            "summary": client.portfolio_summary(account).data,
            "ledger": client.get_ledger(account).data,
        }
    finally:
        client.close()
