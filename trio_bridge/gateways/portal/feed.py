"""Keeps positions and quotes in memory while the session is well.

Three loops share one paced client: positions (every account, every page, or nothing), contract
definitions (before the first quote of a derivative, and for missing multipliers), and quotes.
"""

from __future__ import annotations

import itertools
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

import trio

from trio_bridge.errors import GatewayError
from trio_bridge.events.data import MultipliersKnown, MultipliersUnknown
from trio_bridge.gateways.accounts import Accounts
from trio_bridge.gateways.portal.errors import AnswerError, LoggedOutError, PausedError
from trio_bridge.gateways.portal.holdings import (
    Definition,
    Held,
    Holdings,
    ShapeError,
    is_last_page,
    read_accounts,
    read_contract_info,
    read_definitions,
    read_page,
)
from trio_bridge.gateways.portal.pacing import (
    ACCOUNTS,
    BROKERAGE_ACCOUNTS,
    CONTRACT_INFO,
    DEFINITION_CON_IDS,
    DEFINITIONS,
    INVALIDATE,
    POSITIONS,
    SNAPSHOT,
    SNAPSHOT_CON_IDS,
)
from trio_bridge.gateways.portal.quotes import QuoteBoard
from trio_bridge.gateways.portal.values import REQUESTED_FIELDS, read_con_id
from trio_bridge.gateways.readiness import Blocked, Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence, Set

    from trio_bridge.config import Settings
    from trio_bridge.gateways.base import EventSink
    from trio_bridge.gateways.ongoing import Ongoing
    from trio_bridge.gateways.portal.client import PortalClient
    from trio_bridge.gateways.portal.pacing import Timing
    from trio_bridge.model import Greeks

CONFIRM_S: Final = 1.0
"""Until a download that lacked positions is repeated."""

POSITIONS_SHARE_S: Final = 0.5
"""Positions take no more than one request in so many seconds, on average."""

RESTART_S: Final = 3.0
"""So long a contract is not asked for when its market data are to start anew: the stream looks once
a second for what it should end."""

MOST_PAGES: Final = 1_000

NO_SUCH_ENDPOINT: Final = frozenset({404, 405, 501})

ASK_AGAIN_AFTER: Final = 2
"""After so many failures what the gateway wants to be asked first is asked for again: its session
may have been renewed unnoticed."""


class PortalFeed:
    """What one connection knows of the portfolio; `run` it while the session is well."""

    def __init__(
        self,
        client: PortalClient,
        settings: Settings,
        emit: EventSink,
        troubles: Ongoing,
        timing: Timing,
        is_well: Callable[[], Awaitable[bool]],
    ) -> None:
        """`is_well` looks whether the session is well at this moment."""
        self.accounts: tuple[str, ...] = ()
        """Those that the positions are of: one that has just appeared isn't named without its
        positions."""
        self.portfolio = Holdings()
        self.quotes = QuoteBoard(settings.ib_market_data_type)
        self.streaming = False
        """Whether the WebSocket brings the changes now: then polling only looks after it."""
        self._client = client
        self._settings = settings
        self._troubles = troubles
        self._timing = timing
        self._is_well = is_well
        self._accounts = Accounts(settings.ib_account, emit)
        self._accounts_asked_at = -math.inf
        self._read_at = -math.inf
        self._requests = 0
        """Made by the last download."""
        self._round_s = 0.0
        """From the last download to the next one."""
        self._settle_at = math.inf
        self._settled = False
        self._definitions_due = trio.Event()
        self._definitions_failed = False
        self._retry_lookup_at: dict[int, float] = {}
        self._defined_at: dict[int, float] = {}
        self._loaded = trio.Event()

    # What is known ---------------------------------------------------------------------------

    def not_ready_reason(self) -> Blocked | None:
        """Why what is in memory is no row yet, or no longer; None when it is one."""
        if not self.portfolio.is_loaded:
            return Blocked(Reason.DOWNLOADING)
        age_s = trio.current_time() - self._read_at
        # A book of many accounts takes its time: one round may fail, as ever.
        if age_s > max(self._timing.positions_stale_s, 2 * self._round_s):
            return Blocked(Reason.POSITIONS_STALE, f"{age_s:.0f} s")
        if not self._is_settled():
            return Blocked(Reason.SETTLING)
        return None

    def greeks(self, *, well_at: float) -> dict[int, Greeks]:
        """The last model Greeks by contract id, no younger than the last word that the session is
        well: a gateway that is cut off may go on to tell what it knew."""
        since = trio.current_time() - self._settings.greeks_max_age_s
        found = {}
        for con_id in self.portfolio.options():
            underlying = self.portfolio.underlying_of(con_id)
            greeks = self.quotes.greeks(con_id, underlying, since=since, until=well_at)
            if greeks is not None:
                found[con_id] = greeks
        return found

    def wanted_con_ids(self) -> list[int]:
        """Contracts whose market data a row needs: the options and their underlyings."""
        options = self.portfolio.options()
        if not self._definitions_failed:
            # The gateway computes some derivatives only after their definition was asked for.
            undefined = set(self.portfolio.undefined())
            options = [con_id for con_id in options if con_id not in undefined]
        underlyings = (
            self.portfolio.underlying_of(con_id) or self.quotes.underlying_of(con_id)
            for con_id in options
        )
        return list(dict.fromkeys([*options, *(con_id for con_id in underlyings if con_id)]))

    async def wait_loaded(self) -> None:
        """Wait for the first complete download."""
        await self._loaded.wait()

    def _is_settled(self) -> bool:
        if not self._settled and self.portfolio.is_loaded:
            self._settled = trio.current_time() >= self._settle_at or (
                not self.portfolio.undefined()
                and all(map(self.quotes.has_greeks, self.portfolio.options()))
            )
        return self._settled

    # What keeps it so ------------------------------------------------------------------------

    async def load_accounts(self) -> None:
        """Ask for the accounts and select those that the settings name.

        Raises:
            ConfigError: IB_ACCOUNT names one that the gateway does not know.
            GatewayError: no usable answer.
        """
        answer = await self._client.ask(ACCOUNTS, read=read_accounts)
        self._accounts.managed(answer.value)
        self._accounts_asked_at = answer.asked_at

    async def run(self) -> NoReturn:
        """Follow the portfolio until cancelled, from an empty memory on.

        Raises:
            ConfigError: as `load_accounts`.
        """
        try:
            # It may be another person who has logged in.
            while self._accounts_asked_at == -math.inf or self._accounts.are_in_doubt:
                try:
                    await self.load_accounts()
                except GatewayError:
                    await trio.sleep(self._timing.positions_s)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow_positions)
                nursery.start_soon(self._follow_definitions)
                nursery.start_soon(self._follow_quotes)
        finally:
            # Now, while there is no session: with the next one, nothing old may show for a moment.
            self._forget()
        raise AssertionError("the loops above never end")

    def _forget(self) -> None:
        self.portfolio.forget()
        self.quotes.clear()
        # A new login wants the accounts asked for before it gives positions.
        self._accounts_asked_at = -math.inf
        self._settled = False
        self._settle_at = math.inf
        self._definitions_failed = False
        self._retry_lookup_at.clear()
        self._defined_at.clear()

    async def _follow_positions(self) -> NoReturn:
        failures = 0
        while True:
            began = trio.current_time()
            try:
                if failures >= ASK_AGAIN_AFTER:
                    await self.load_accounts()
                await self._look_for_accounts()
                accounts = self._accounts.chosen
                download = await self._download(accounts)
                if self.portfolio.is_doubtful(download) and not await self._is_well():
                    # A gateway that is cut off may know of no positions: that is no book.
                    raise AnswerError("the session is not well")
            except GatewayError:
                failures += 1
                await trio.sleep(self._backoff_s(failures))
                continue
            failures = 0
            accepted = self.portfolio.offer(download)
            self.accounts = accounts if accepted else self.accounts
            if not accepted:
                await trio.sleep(CONFIRM_S)
                continue
            self._read_at = began
            now = trio.current_time()
            self._settle_at = min(self._settle_at, now + self._timing.settle_s)
            self._learn_underlyings()
            self.quotes.keep({*self.wanted_con_ids(), *self.portfolio.options()})
            self._definitions_due.set()
            self._loaded.set()
            # A large book must not crowd out its quotes.
            pause_s = max(self._timing.positions_s, self._requests * POSITIONS_SHARE_S)
            self._round_s = max(pause_s, now + CONFIRM_S - began)
            await trio.sleep_until(began + self._round_s)

    def _learn_underlyings(self) -> None:
        """Where neither positions nor definitions name an option's underlying, its data may."""
        told = {
            con_id: Definition(underlying_con_id=underlying)
            for con_id in self.portfolio.options()
            if self.portfolio.underlying_of(con_id) is None
            and (underlying := self.quotes.underlying_of(con_id)) is not None
        }
        if told:
            self.portfolio.learn(told)

    async def _look_for_accounts(self) -> None:
        """See now and then whether the login has come to manage another account."""
        due = self._accounts_asked_at + self._timing.accounts_s
        if not self._accounts.are_named and trio.current_time() >= due:
            # The positions of those that are known count meanwhile.
            with suppress(GatewayError):
                await self.load_accounts()

    async def _download(self, accounts: Sequence[str]) -> list[Held]:
        """All positions of these accounts, page by page."""
        held: list[Held] = []
        self._requests = 0
        for account in accounts:
            await self._invalidate(account)
            others = frozenset(accounts) - {account}
            held += await self._download_account(account, others)
        return held

    async def _invalidate(self, account: str) -> None:
        """Have the gateway read the account's positions anew, where it can be told to."""
        self._requests += 1
        try:
            await self._client.ask(INVALIDATE, slow=True, account=account)
        except AnswerError as error:
            # Pages out of a cache that stays are as old as the cache, whatever they look like.
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

    async def _follow_definitions(self) -> NoReturn:
        failures = 0
        while True:
            with trio.move_on_after(self._timing.definitions_retry_s):
                await self._definitions_due.wait()
            self._definitions_due = trio.Event()
            if silent := self._silent():
                self.portfolio.define_again(silent)
                await trio.sleep(RESTART_S)
            try:
                await self._define(self.portfolio.undefined())
                failures = 0
            except GatewayError:
                failures += 1
            self._definitions_failed = failures > 0
            if failures != 1:
                # Definitions that do not come must not keep multipliers from being asked for.
                with suppress(GatewayError):
                    await self._look_up(self.portfolio.lacking())
            self._tell_unknown_multipliers()
            if failures:
                await trio.sleep(self._backoff_s(failures))
                self._definitions_due.set()

    async def _define(self, con_ids: Sequence[int]) -> None:
        for batch in _batches(con_ids, DEFINITION_CON_IDS):
            query = {"conids": ",".join(map(str, batch))}
            answer = await self._client.ask(DEFINITIONS, read=read_definitions, query=query)
            self.portfolio.define(batch, answer.value)
            self._defined_at.update(dict.fromkeys(batch, trio.current_time()))

    def _silent(self) -> list[int]:
        """Options that have told no Greeks for long, although they were defined.

        The gateway computes some only if their definition was asked for before their market data,
        and its session may have been renewed unnoticed since: both are asked for once more.
        """
        since = trio.current_time() - self._timing.silent_s
        return [
            con_id
            for con_id in self.portfolio.options()
            if self._defined_at.get(con_id, math.inf) < since
            and self.quotes.greeks_at(con_id) < since
        ]

    async def _look_up(self, con_ids: Sequence[int]) -> None:
        """Ask for contracts one by one whose definition did not tell the multiplier."""
        now = trio.current_time()
        for con_id in con_ids:
            if self._retry_lookup_at.get(con_id, -math.inf) > now:
                continue
            self._retry_lookup_at[con_id] = now + self._timing.definitions_retry_s
            try:
                answer = await self._client.ask(
                    CONTRACT_INFO, read=read_contract_info, con_id=con_id
                )
            except (PausedError, LoggedOutError):
                del self._retry_lookup_at[con_id]  # it had no say
                return
            except AnswerError:
                continue  # some contracts have no info: that must not keep the others waiting
            self.portfolio.learn({con_id: answer.value})

    def _tell_unknown_multipliers(self) -> None:
        lacking = [con_id for con_id in self.portfolio.lacking() if con_id in self._retry_lookup_at]
        if lacking:
            self._troubles.begin("multiplier", MultipliersUnknown(tuple(lacking)))
        elif not self.portfolio.lacking():
            self._troubles.end("multiplier", MultipliersKnown)

    async def _follow_quotes(self) -> NoReturn:
        failures = 0
        introduced = False
        while True:
            began = trio.current_time()
            if not introduced:
                with suppress(GatewayError):
                    await self._client.ask(BROKERAGE_ACCOUNTS)
                    introduced = True
            failures = 0 if await self._ask_quotes(self.wanted_con_ids()) else failures + 1
            introduced = introduced and failures < ASK_AGAIN_AFTER
            pause_s = self._backoff_s(failures) if failures else self._quotes_pause_s()
            await trio.sleep_until(began + pause_s)

    async def _ask_quotes(self, con_ids: Sequence[int]) -> bool:
        """Ask for all quotes once; whether every answer came."""
        outcomes: list[bool] = []

        async def ask(batch: Sequence[int]) -> None:
            outcomes.append(await self._ask_batch(batch))

        async with trio.open_nursery() as nursery:
            for batch in _batches(con_ids, SNAPSHOT_CON_IDS):
                nursery.start_soon(ask, batch)
        return all(outcomes)

    async def _ask_batch(self, con_ids: Sequence[int]) -> bool:
        query = {"conids": ",".join(map(str, con_ids)), "fields": ",".join(REQUESTED_FIELDS)}
        try:
            answer = await self._client.ask(SNAPSHOT, read=_read_snapshot, query=query)
        except GatewayError:
            return False
        for con_id, fields in answer.value:
            self.quotes.merge(con_id, fields, answer.asked_at)
        return True

    def _quotes_pause_s(self) -> float:
        if not self._is_settled():
            return self._timing.first_quotes_s
        if self.streaming:
            return self._timing.streamed_quotes_s
        return self._timing.quotes_s

    def _backoff_s(self, failures: int) -> float:
        return min(2.0 ** min(failures, 10), self._timing.longest_backoff_s)


def _read_snapshot(payload: Any) -> list[tuple[int, dict[str, Any]]]:
    """The answer of `/iserver/marketdata/snapshot`: each contract's fields."""
    if not isinstance(payload, list) or not all(isinstance(entry, dict) for entry in payload):
        raise ShapeError("the snapshot is not a list of objects")
    return [
        (con_id, entry)
        for entry in payload
        if (con_id := read_con_id(entry.get("conid", entry.get("conidEx")))) is not None
    ]


def _batches(items: Sequence[int], size: int) -> list[Sequence[int]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
