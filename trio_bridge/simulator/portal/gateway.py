"""The simulated Client Portal Gateway's response to each request."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson
import trio
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response

from trio_bridge.simulator.portal.accounts import AccountLists, ledgers, summary
from trio_bridge.simulator.portal.answers import (
    MOST_CON_IDS,
    MOST_FIELDS,
    PortalQuirks,
    PositionPages,
    Streams,
    contract_info,
    contract_rules,
    definitions,
)
from trio_bridge.simulator.portal.faults import Faults
from trio_bridge.simulator.portal.rules import Refusal, Rules, SimulatedLogin
from trio_bridge.simulator.portal.stream import StreamServer
from trio_bridge.simulator.portal.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.websockets import WebSocket

    from trio_bridge.simulator.book import Book


CLIENT_WENT_AWAY: Final = 499


class RulesBrokenError(AssertionError):
    """A client did something forbidden; the text lists what."""


class PortalSimulator:
    """The gateway's state and its responses; `open_portal_simulator` serves it.

    Args:
        book: what it serves; freeze or change it at any time.
        clock: seconds from any origin; for pacing, sessions and streams.
    """

    def __init__(self, book: Book, *, clock: Callable[[], float] = trio.current_time) -> None:
        self.book = book
        self.quirks = PortalQuirks()
        self.login = SimulatedLogin()
        self.rules = Rules(self.login, clock)
        self.faults = Faults()
        self.upstream = Upstream()
        self.account_lists = AccountLists(book)
        self.denies_address = False
        """Answer 404 to everybody: whence they ask is not allowed."""
        self.chunked = False
        """Send bodies in chunks, without a length."""
        self.streams = Streams(book, self.quirks, clock)
        self.portfolio = PositionPages(book, self.quirks)
        self.websocket = StreamServer(
            book, self.rules, self.login, self.streams, self.upstream, clock
        )
        self._crashes: list[BaseException] = []

    def check(self) -> None:
        """Raise if a client broke a rule, or if the simulator itself failed.

        Raises:
            RulesBrokenError: lists what the client did.
            BaseExceptionGroup: the simulator's own failures.
        """
        if self._crashes:
            raise BaseExceptionGroup("the simulated portal broke", self._crashes)
        if self.rules.violations:
            raise RulesBrokenError("; ".join(self.rules.violations))

    async def answer(self, request: Request) -> Response:
        """Answer one HTTP request."""
        try:
            response = await self._answer(request)
        except ClientDisconnect:
            return Response(status_code=CLIENT_WENT_AWAY)
        except Exception as error:
            self._crashes.append(error)
            raise
        if self.chunked and "content-length" in response.headers:
            del response.headers["content-length"]
        return response

    async def stream(self, socket: WebSocket) -> None:
        """Serve one WebSocket."""
        try:
            await self.websocket.serve(socket)
        except Exception as error:
            self._crashes.append(error)
            raise

    async def _answer(self, request: Request) -> Response:
        path = "/" + request.path_params["path"]
        query = dict(request.query_params)
        body = _json(await request.body())
        if self.denies_address:
            return _response(Refusal(404, "Access Denied"))
        judge = partial(self.rules.judge, request.method, path, query, body)
        refusal = await self.upstream.send(judge)
        if refusal is not None:
            return _response(refusal)
        if (fault := self.faults.find(path)) is not None:
            if not fault.late_s:
                return await fault.answer(request)
            await trio.sleep(fault.late_s)
        for pattern, method, handler in _ROUTES:
            match = pattern.fullmatch(path)
            if match is not None and method == request.method:
                answer = handler(self, query, *match.groups())
                return _response(answer if isinstance(answer, Refusal) else Refusal(200, answer))
        return _response(Refusal(404, {"error": "Resource not found", "statusCode": 404}))

    # The endpoints ---------------------------------------------------------------------------

    def tickle(self, query: dict[str, str]) -> Any:
        return {
            "session": self.login.token,
            "ssoExpires": 400_000,
            "collission": self.login.competing,
            "userId": 1,
            "hmds": {"error": "no bridge"},
            "iserver": {"authStatus": self.login.status()},
        }

    def auth_status(self, query: dict[str, str]) -> Any:
        return self.login.status()

    def open_brokerage(self, query: dict[str, str]) -> Any:
        login = self.login
        if not login.can_open:
            return Refusal(500, {"error": "failed to generate sso dh token", "statusCode": 500})
        if not login.competing and login.connected:
            login.brokerage = True
        return login.status() | {"passed": login.brokerage}

    def accounts(self, query: dict[str, str]) -> Any:
        return self.account_lists.portfolio()

    def sub_accounts(self, query: dict[str, str]) -> Any:
        named = self.account_lists.sub_accounts()
        return Refusal(400, {"error": "too many sub-accounts"}) if named is None else named

    def sub_accounts_page(self, query: dict[str, str]) -> Any:
        return self.account_lists.sub_accounts_page(int(query.get("page", "0")))

    def brokerage_accounts(self, query: dict[str, str]) -> Any:
        return self.account_lists.brokerage()

    def positions(self, query: dict[str, str], account: str, page: str) -> Any:
        if account not in self.account_lists.everyone:
            return Refusal(400, {"error": f"unknown account {account}"})
        return self.portfolio.page(account, int(page))

    def summary(self, query: dict[str, str], account: str) -> Any:
        if account not in self.account_lists.everyone:
            return Refusal(400, {"error": f"unknown account {account}"})
        return summary(self.book, account, self.quirks.null_figures)

    def ledger(self, query: dict[str, str], account: str) -> Any:
        if account not in self.account_lists.everyone:
            return Refusal(400, {"error": f"unknown account {account}"})
        return ledgers(self.book, account)

    def invalidate(self, query: dict[str, str], account: str) -> Any:
        self.portfolio.invalidate(account)
        return {"message": "success"}

    def secdef(self, query: dict[str, str]) -> Any:
        con_ids = _con_ids(query)
        self.streams.defined.update(con_ids)
        return definitions(self.book, self.quirks, con_ids)

    def info(self, query: dict[str, str], con_id: str) -> Any:
        contract = self.book.contracts.get(int(con_id))
        if contract is None:
            return Refusal(404, {"error": "no contract", "statusCode": 404})
        return contract_info(contract, self.quirks)

    def info_and_rules(self, query: dict[str, str], con_id: str) -> Any:
        info = self.info(query, con_id)
        if isinstance(info, Refusal):
            return info
        return info | {"rules": contract_rules(self.book.contract(int(con_id)), self.quirks)}

    def snapshot(self, query: dict[str, str]) -> Any:
        con_ids = _con_ids(query)
        fields = [name for name in query.get("fields", "").split(",") if name]
        if len(con_ids) > MOST_CON_IDS or len(fields) > MOST_FIELDS:
            self.rules.violate(f"a snapshot of {len(con_ids)} contracts, {len(fields)} fields")
            return Refusal(400, {"error": "too many conids or fields"})
        return self.streams.snapshot(con_ids, fields)


_ROUTES: Final = tuple(
    (re.compile(pattern), method, handler)
    for pattern, method, handler in (
        ("/tickle", "POST", PortalSimulator.tickle),
        ("/iserver/auth/status", "POST", PortalSimulator.auth_status),
        ("/iserver/auth/status", "GET", PortalSimulator.auth_status),
        ("/iserver/auth/ssodh/init", "POST", PortalSimulator.open_brokerage),
        ("/iserver/accounts", "GET", PortalSimulator.brokerage_accounts),
        ("/iserver/marketdata/snapshot", "GET", PortalSimulator.snapshot),
        (r"/iserver/contract/(\d+)/info", "GET", PortalSimulator.info),
        (r"/iserver/contract/(\d+)/info-and-rules", "GET", PortalSimulator.info_and_rules),
        ("/portfolio/accounts", "GET", PortalSimulator.accounts),
        ("/portfolio/subaccounts", "GET", PortalSimulator.sub_accounts),
        ("/portfolio/subaccounts2", "GET", PortalSimulator.sub_accounts_page),
        (r"/portfolio/(\w+)/summary", "GET", PortalSimulator.summary),
        (r"/portfolio/(\w+)/ledger", "GET", PortalSimulator.ledger),
        (r"/portfolio/(\w+)/positions/invalidate", "POST", PortalSimulator.invalidate),
        (r"/portfolio/(\w+)/positions/(\d+)", "GET", PortalSimulator.positions),
        ("/trsrv/secdef", "GET", PortalSimulator.secdef),
    )
)


def _con_ids(query: dict[str, str]) -> list[int]:
    return [int(part) for part in query.get("conids", "").split(",") if part.isdigit()]


def _json(body: bytes) -> Any:
    """The request's JSON; None if it has none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _response(refusal: Refusal) -> Response:
    headers = dict(refusal.headers)
    if isinstance(refusal.body, str):
        return HTMLResponse(refusal.body, refusal.status, headers)
    content = orjson.dumps(refusal.body)
    return Response(content, refusal.status, headers, media_type="application/json")
