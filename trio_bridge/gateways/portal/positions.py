"""Keeps the positions in memory: every account, every page, or nothing."""

from __future__ import annotations

import itertools
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from trio_bridge.errors import GatewayError
from trio_bridge.events.gateway import AccountLeftOut
from trio_bridge.gateways.accounts import Accounts
from trio_bridge.gateways.portal.account import list_accounts
from trio_bridge.gateways.portal.contracts import Definition
from trio_bridge.gateways.portal.health import AnswerError
from trio_bridge.gateways.portal.holdings import Held, HeldKey
from trio_bridge.gateways.portal.values import (
    ShapeError,
    read_con_id,
    read_exact,
    read_objects,
    read_positive,
    read_text,
)
from trio_bridge.gateways.portal.wire.pacing import INVALIDATE, POSITIONS
from trio_bridge.policy.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence, Set

    from trio_bridge.gateways.portal.holdings import Memory
    from trio_bridge.gateways.portal.login import Login
    from trio_bridge.gateways.portal.wire.client import PortalClient, Shared

CONFIRM_S: Final = 1.0
"""How long before a doubtful download is repeated."""

POSITIONS_SHARE_S: Final = 0.5
"""Positions take at most one request per this many seconds, on average."""

MOST_PAGES: Final = 1_000

SMALLEST_PAGE: Final = 30
"""For entries that do not name their page's size. Pages were of 30 in the API's first specification
and are of 100 in today's, where each entry says so."""

NO_SUCH_ENDPOINT: Final = frozenset({404, 405, 501})

NOT_OURS: Final = frozenset({400, 403, 404})
"""How positions are refused that the login cannot have."""

ASK_AGAIN_AFTER: Final = 2
"""After this many failures the accounts are requested again, which the gateway expects first: its
session may have been renewed unnoticed."""


class PositionLoop:
    """Polls accounts and positions; `run` it while the session is well, from an empty memory."""

    def __init__(self, client: PortalClient, shared: Shared, memory: Memory, login: Login) -> None:
        self._client = client
        self._memory = memory
        self._login = login
        self._timing = shared.timing
        self._accounts = Accounts(shared.settings.ib_account, shared.emit)
        self._accounts_asked_at = -math.inf
        self._unlisted: frozenset[str] = frozenset()
        self._left_out: dict[str, None] = {}
        """Accounts that only the brokerage session names, and whose positions are refused."""
        self._emit = shared.emit
        self._requests = 0
        """Made by the last download."""

    async def load_accounts(self) -> None:
        """Request the accounts and select those that the settings name.

        Raises:
            ConfigError: the gateway does not know an account of IB_ACCOUNT.
            GatewayError: no usable answer.
        """
        listed = await list_accounts(self._client)
        self._accounts.managed(listed.accounts)
        self._accounts_asked_at = listed.asked_at
        self._unlisted = listed.unlisted
        for account in [one for one in self._left_out if one not in listed.unlisted]:
            del self._left_out[account]

    async def know_accounts(self) -> None:
        """Load the accounts unless this login has named them: it may be another person's.

        Raises:
            ConfigError: as `load_accounts`.
        """
        while self._accounts_asked_at == -math.inf or self._accounts.are_in_doubt:
            try:
                await self.load_accounts()
            except GatewayError:
                await trio.sleep(self._timing.positions_s)

    def forget_accounts(self) -> None:
        """The login has ended: ask the next one for its accounts before its positions."""
        self._accounts_asked_at = -math.inf

    async def run(self) -> NoReturn:
        """Follow the positions until cancelled.

        Raises:
            ConfigError: as `load_accounts`.
        """
        backoff = Backoff(self._timing.backoff_s)
        while True:
            began = trio.current_time()
            try:
                if backoff.attempts >= ASK_AGAIN_AFTER:
                    await self.load_accounts()
                await self._look_for_accounts()
                download = await self._download(self._recorded)
                accounts = self._recorded
                doubtful = self._memory.holdings.is_doubtful(download, accounts)
                if doubtful and not await self._login.is_well():
                    # A gateway that is cut off may know of no positions.
                    raise AnswerError("the session is not well")
            except GatewayError:
                await trio.sleep(backoff.delay_s)
                backoff = backoff.attempted()
                continue
            backoff = backoff.restarted()
            # A large book must not crowd out its quotes.
            pause_s = max(self._timing.positions_s, self._requests * POSITIONS_SHARE_S)
            round_s = max(pause_s, trio.current_time() + CONFIRM_S - began)
            # A book of many accounts takes long: here, too, one round may fail.
            stale_at = began + max(self._timing.positions_stale_s, 2 * round_s)
            if self._memory.accept(download, accounts, asked_at=began, stale_at=stale_at):
                await trio.sleep_until(began + round_s)
            else:
                await trio.sleep(CONFIRM_S)

    @property
    def _recorded(self) -> tuple[str, ...]:
        """The accounts that count and whose positions can be had."""
        return tuple(one for one in self._accounts.chosen if one not in self._left_out)

    async def _look_for_accounts(self) -> None:
        """Look now and then for newly managed accounts."""
        due = self._accounts_asked_at + self._timing.accounts_s
        if not self._accounts.are_named and trio.current_time() >= due:
            with suppress(GatewayError):
                await self.load_accounts()

    async def _download(self, accounts: Sequence[str]) -> list[Held]:
        """All positions of these accounts, page by page."""
        held: list[Held] = []
        self._requests = 0
        for account in accounts:
            try:
                await self._invalidate(account)
                held += await self._download_account(account, frozenset(accounts) - {account})
            except AnswerError as error:
                if not self._can_be_left_out(account, error):
                    raise
                self._left_out[account] = None
                self._emit(AccountLeftOut(account, str(error)))
        return held

    def _can_be_left_out(self, account: str, error: AnswerError) -> bool:
        unlisted = account in self._unlisted and not self._accounts.are_named
        return unlisted and error.status in NOT_OURS

    async def _invalidate(self, account: str) -> None:
        """Have the gateway reload the account's positions, where it supports that."""
        self._requests += 1
        try:
            await self._client.ask(INVALIDATE, slow=True, account=account)
        except AnswerError as error:
            # Pages from a cache that was not cleared are as old as the cache.
            if error.status not in NO_SUCH_ENDPOINT:
                raise

    async def _download_account(self, account: str, others: Set[str]) -> list[Held]:
        held: list[Held] = []
        for page in itertools.count():
            self._requests += 1
            answer = await self._client.ask(
                POSITIONS,
                read=lambda payload: (read_page(payload, account, others), is_last_page(payload)),
                slow=True,
                account=account,
                page=page,
            )
            found, is_last = answer.value
            held += found
            if is_last:
                break
            if page >= MOST_PAGES:
                raise AnswerError(f"account {account} has more than {MOST_PAGES} pages")
        return held


def read_page(payload: object, account: str, others: Set[str] = frozenset()) -> list[Held]:
    """One page of `/portfolio/{account}/positions/{page}`.

    Args:
        payload: the JSON.
        account: the one that was asked about.
        others: accounts asked about separately, whose positions must not be in it.

    Raises:
        ShapeError: an entry cannot be read, or would count twice: either makes a false row.
    """
    entries = read_objects(payload, "positions")
    if strangers := others & {read_text(entry, "acctId") for entry in entries}:
        raise ShapeError(
            f"asked for positions of account {account}, it gives those of {', '.join(strangers)}"
        )
    return [_read_held(entry, account) for entry in entries]


def is_last_page(payload: object) -> bool:
    """Whether the page is not full, so that none follows."""
    entries = read_objects(payload, "positions")
    sizes = [read_positive(entry.get("pageSize")) or SMALLEST_PAGE for entry in entries]
    return len(entries) < min(sizes, default=SMALLEST_PAGE)


def _read_held(entry: Mapping[str, object], account: str) -> Held:
    con_id = read_con_id(entry.get("conid"))
    quantity = read_exact(entry.get("position"))
    if con_id is None or quantity is None:
        raise ShapeError(
            f"a position of account {account} has conid {entry.get('conid')!r} "
            f"and quantity {entry.get('position')!r}"
        )
    key = HeldKey(account, con_id, read_text(entry, "model"))
    kind, symbol = ("assetClass", "secType"), ("ticker", "contractDesc")
    return Held(key, quantity, Definition.read(entry, kind, symbol, "undConid"))
