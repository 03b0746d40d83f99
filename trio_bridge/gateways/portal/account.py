"""The accounts of a login: which there are, by every list that the gateway has, and what each of
them is worth.

An adviser's login finds only its own account in `/portfolio/accounts`; those of the clients are in
`/portfolio/subaccounts`, beyond a hundred in pages of `/portfolio/subaccounts2`, and all of them in
`/iserver/accounts` (https://www.interactivebrokers.com/campus/ibkr-api-page/cpapi-v1/#portfolio).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import trio

from trio_bridge.errors import GatewayError
from trio_bridge.gateways.accounts import is_one
from trio_bridge.gateways.portal.health import AnswerError, LoggedOutError, PausedError
from trio_bridge.gateways.portal.values import ShapeError, read_objects, read_positive, read_text
from trio_bridge.gateways.portal.wire.pacing import (
    ACCOUNTS,
    BROKERAGE_ACCOUNTS,
    LEDGER,
    SUB_ACCOUNT_PAGES,
    SUB_ACCOUNTS,
    SUMMARY,
)
from trio_bridge.gateways.worth import AccountValues

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from trio_bridge.gateways.portal.holdings import Memory
    from trio_bridge.gateways.portal.wire.client import PortalClient, Shared
    from trio_bridge.gateways.portal.wire.pacing import EndpointLimit

LONGEST_LIST: Final = 100
"""`/portfolio/subaccounts` names no more than this many, if it does not refuse them."""

MOST_PAGES: Final = 500

DOUBT_GAP_S: Final = 0.5
"""From one account in doubt to the next: two requests each."""

DOUBT_AGAIN_S: Final = 5.0
"""From one look at an account in doubt to the next."""


class Listed(NamedTuple):
    """The accounts of a login.

    `unlisted`: those that no list of the portfolio names, only the brokerage session's; perhaps
    their positions cannot be had.
    """

    accounts: tuple[str, ...]
    unlisted: frozenset[str]
    asked_at: float


async def list_accounts(client: PortalClient) -> Listed:
    """Read every list.

    Raises:
        GatewayError: no usable answer, or both lists that could name an adviser's clients failed.
    """
    answer = await client.ask(ACCOUNTS, read=read_accounts)
    failures: list[AnswerError] = []
    clients = await _clients(client, failures)
    brokerage = await _names(client, BROKERAGE_ACCOUNTS, read_brokerage_accounts, failures)
    if failures and not clients and not brokerage:
        raise failures[-1]
    portfolio = dict.fromkeys((*answer.value, *clients))
    everyone = dict.fromkeys((*portfolio, *brokerage))
    accounts = tuple(one for one in everyone if is_one(one, everyone))
    return Listed(accounts, frozenset(accounts) - portfolio.keys(), answer.asked_at)


async def _clients(client: PortalClient, failures: list[AnswerError]) -> tuple[str, ...]:
    found = await _names(client, SUB_ACCOUNTS, read_sub_accounts, failures)
    if found and len(found) < LONGEST_LIST:
        return found
    paged: dict[str, None] = {}
    for page in range(MOST_PAGES):
        names = await _names(client, SUB_ACCOUNT_PAGES, read_sub_accounts, failures, page=page)
        if paged.keys() >= set(names):
            break
        paged |= dict.fromkeys(names)
    return (*found, *paged)


async def _names(
    client: PortalClient,
    endpoint: EndpointLimit,
    read: Callable[[object], tuple[str, ...]],
    failures: list[AnswerError],
    *,
    page: int | None = None,
) -> tuple[str, ...]:
    """The accounts of one list; none if the gateway has no such list for this login."""
    query = None if page is None else {"page": str(page)}
    try:
        return (await client.ask(endpoint, read=read, query=query, slow=True)).value
    except (LoggedOutError, PausedError):
        raise
    except AnswerError as error:
        failures.append(error)
        return ()


def read_accounts(payload: object) -> tuple[str, ...]:
    """The account ids of `/portfolio/accounts`.

    Raises:
        ShapeError: it is something else.
    """
    found = _ids(payload)
    if not found:
        raise ShapeError("the gateway names no account")
    return found


def read_sub_accounts(payload: object) -> tuple[str, ...]:
    """The account ids of `/portfolio/subaccounts`, or of a page of `/portfolio/subaccounts2`.

    Raises:
        ShapeError: it is something else.
    """
    return _ids(payload.get("subaccounts") if isinstance(payload, dict) else payload)


def read_brokerage_accounts(payload: object) -> tuple[str, ...]:
    """The account ids of `/iserver/accounts`.

    Raises:
        ShapeError: it is something else.
    """
    names = payload.get("accounts") if isinstance(payload, dict) else None
    if not isinstance(names, list):
        raise ShapeError("the brokerage session's accounts are not a list")
    return tuple(name.strip() for name in names if isinstance(name, str) and name.strip())


def _ids(payload: object) -> tuple[str, ...]:
    found = dict.fromkeys(
        read_text(entry, "accountId", "id") for entry in read_objects(payload, "accounts")
    )
    found.pop("", None)
    return tuple(found)


class ValuesLoop:
    """Keeps the account values in memory; `run` it while the session is well.

    Accounts that seem to hold nothing come first, because rows wait for them.
    """

    def __init__(self, client: PortalClient, shared: Shared, memory: Memory) -> None:
        self._client = client
        self._memory = memory
        self._timing = shared.timing
        self._asked_at: dict[str, float] = {}

    async def run(self) -> NoReturn:
        """Follow the values until cancelled."""
        while True:
            now = trio.current_time()
            account, due = self._next(now)
            if due > now:
                with trio.move_on_at(due):
                    await self._memory.wait_compared()
                continue
            self._asked_at[account] = now
            await self._look_at(account)
            in_doubt = bool(self._memory.doubted())
            await trio.sleep(DOUBT_GAP_S if in_doubt else self._timing.values_gap_s)

    def _next(self, now: float) -> tuple[str, float]:
        """The account to ask about next, and when."""
        due = {
            account: self._asked_at.get(account, -math.inf) + self._timing.values_s
            for account in self._memory.accounts
        }
        for account in self._memory.doubted():
            due[account] = self._asked_at.get(account, -math.inf) + DOUBT_AGAIN_S
        doubted = {account: due[account] for account in self._memory.doubted()}
        first = {account: at for account, at in doubted.items() if at <= now} or due
        if not first:
            return "", math.inf
        account = min(first, key=first.__getitem__)
        return account, first[account]

    async def _look_at(self, account: str) -> None:
        at = trio.current_time()
        try:
            summary = await self._client.ask(SUMMARY, read=read_figures, slow=True, account=account)
        except GatewayError as error:
            self._memory.values_refused(str(error))
            return
        values = AccountValues(account, at)
        for key, amount, currency in summary.value:
            values.take(key, amount, currency)
        try:
            ledger = await self._client.ask(LEDGER, read=read_ledger, slow=True, account=account)
        except GatewayError:
            pass  # what is missing then is not known
        else:
            for key, amount, currency in ledger.value:
                values.take(key, amount, currency)
        self._memory.take_values(account, values)


def read_figures(payload: object) -> list[tuple[str, object, str]]:
    """Key, amount and currency of each figure of `/portfolio/{id}/summary`; the amount is None for
    those that are `isNull`.

    Raises:
        ShapeError: it is something else.
    """
    return [
        (
            key,
            None if entry.get("isNull") else read_text(entry, "value") or entry.get("amount"),
            read_text(entry, "currency"),
        )
        for key, entry in _entries(payload, "a summary")
    ]


def read_ledger(payload: object) -> list[tuple[str, object, str]]:
    """The same of `/portfolio/{id}/ledger`: each currency's cash and exchange rate.

    Raises:
        ShapeError: it is something else.
    """
    return [
        (member, amount, currency)
        for currency, entry in _entries(payload, "a ledger")
        for member, amount in (
            ("cashbalance", entry.get("cashbalance")),
            ("exchangerate", read_positive(entry.get("exchangerate"))),
        )
    ]


def _entries(payload: object, what: str) -> Iterable[tuple[str, Mapping[str, object]]]:
    if not isinstance(payload, dict):
        raise ShapeError(f"{what} is not an object")
    return [(key, entry) for key, entry in payload.items() if isinstance(entry, dict)]
