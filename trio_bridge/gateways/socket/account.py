"""The account values of one connection, and its positions where they have to be asked for account
by account: with more than 50 sub-accounts the requests for all of them are refused.

reqAccountSummary (62), reqAccountUpdatesMulti (76) and reqPositionsMulti (74) take nothing away
from the owner's other programs; reqAccountUpdates (6) would, and is never sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from trio_bridge.gateways.worth import AccountValues, fresh, rates_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from trio_bridge.gateways.accounts import Accounts
    from trio_bridge.model import ExchangeRates

MOST_TOGETHER: Final = 50
"""Accounts that one request can be about."""

TAGS: Final = (
    "AccountReady,NetLiquidation,GrossPositionValue,InitMarginReq,MaintMarginReq,$LEDGER:ALL"
)
ASK_EVERY_S: Final = 60.0
ASK_SOON_S: Final = 5.0
"""The same while the values do not agree with the positions."""

SHARE_S: Final = 1.0
"""A round over many accounts takes at least this long for each."""

LINGER_S: Final = 2.0
"""A summary that has been answered stays open for this long: more values may follow its end."""

GAP_S: Final = 0.2
"""Between two requests about single accounts: most of the message rate is for market data."""

REMEMBERED: Final = 1_000
"""Requests; a connection may live for months, at one a minute or more."""

AT_ONCE: Final = 5
PATIENCE_S: Final = 10.0
"""How long one account's values may take."""


class AccountSender(Protocol):
    """The part of ib_async's client that sends these requests."""

    def getReqId(self) -> int: ...
    def reqAccountSummary(self, reqId: int, groupName: str, tags: str) -> object: ...
    def cancelAccountSummary(self, reqId: int) -> object: ...
    def reqAccountUpdatesMulti(
        self,
        reqId: int,
        account: str,
        modelCode: str,
        ledgerAndNLV: bool,
    ) -> object: ...
    def cancelAccountUpdatesMulti(self, reqId: int) -> object: ...
    def reqPositionsMulti(self, reqId: int, account: str, modelCode: str) -> object: ...
    def cancelPositionsMulti(self, reqId: int) -> object: ...


class _Single(NamedTuple):
    """A request for one account's values."""

    values: AccountValues
    account: str
    only_ledger: bool
    until: float


class AccountWatch:
    """Keeps the values up to date. Its calls send at once and never wait; make them where
    asyncio's loop is current.

    Args:
        client: sends.
        accounts: those that count; an account that only its values name is added.
        sent: takes note of each message.
        clock: monotonic, seconds.
    """

    def __init__(
        self,
        client: AccountSender,
        accounts: Accounts,
        *,
        sent: Callable[[int], None],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._accounts = accounts
        self._sent = sent
        self._clock = clock
        self._values: dict[str, AccountValues] = {}
        self._ledgers: dict[str, AccountValues] = {}
        """Of accounts whose summary gives no usable rates."""
        self._one_by_one = False
        self.awaited = True
        """Whether the values that `start` asked for have not all come."""
        self.refusal = ""
        """What the gateway said against a request for them."""
        self._ours: deque[int] = deque(maxlen=REMEMBERED)
        """The last requests: the gateway may object to one that has ended, too."""
        self._summary_id: int | None = None
        self._summary: dict[str, AccountValues] = {}
        self._queue: dict[str, bool] = {}
        """Accounts to ask about; True: only their ledger."""
        self._singles: dict[int, _Single] = {}
        self._asked_at = self._single_at = -float("inf")
        self._end_summary_at = float("inf")

    def values(self) -> Mapping[str, AccountValues]:
        """By account; what was told too long ago is left out."""
        return fresh(self._values, self._clock())

    def rates(self) -> ExchangeRates:
        """The exchange rates to the accounts' base currency."""
        now = self._clock()
        return rates_of([*fresh(self._values, now).values(), *fresh(self._ledgers, now).values()])

    def start(self) -> None:
        """A download begins: what was known no longer counts, and the gateway may have forgotten
        our requests."""
        for request_id in self._singles:
            self._client.cancelAccountUpdatesMulti(request_id)
        self._sent(len(self._singles))
        self._singles.clear()
        self._values = {}
        self.awaited, self.refusal = True, ""
        self._one_by_one = self._one_by_one or len(self._accounts.chosen) > MOST_TOGETHER
        self._ask()

    def step(self, *, soon: Collection[str] | None) -> float:
        """Send what is due; return when to call again.

        Args:
            soon: accounts whose values do not agree with the positions, or None.
        """
        now = self._clock()
        every_s = ASK_EVERY_S if soon is None else ASK_SOON_S
        if self._one_by_one:
            every_s = max(every_s, SHARE_S * len(self._accounts.chosen))
            for account in soon or ():
                if now - self._asked_at >= ASK_SOON_S and account not in self._queue:
                    self._queue = {account: False, **self._queue}
        if now >= self._end_summary_at:
            self._end_summary()
        if now >= self._asked_at + every_s:
            self._ask()
        for request_id, one in list(self._singles.items()):
            if now >= one.until:
                self.refusal = self.refusal or "no answer"
                self._end_single(request_id)
        if self._queue and now >= self._single_at + GAP_S and len(self._singles) < AT_ONCE:
            self._ask_single(now)
        busy = now + GAP_S if self._queue or self._singles else float("inf")
        return min(busy, self._asked_at + every_s, self._end_summary_at)

    def _ask(self) -> None:
        self._asked_at = self._clock()
        if self._one_by_one:
            self._queue = dict.fromkeys(self._accounts.chosen, False)
            return
        self._end_summary()
        self._summary = {}
        self._summary_id = self._new_request()
        self._client.reqAccountSummary(self._summary_id, "All", TAGS)

    def _end_summary(self) -> None:
        """At most two may be open at a time, over all programs of the login: the owner's need them,
        and what changes is asked for again."""
        self._end_summary_at = float("inf")
        if self._summary_id is not None:
            self._client.cancelAccountSummary(self._summary_id)
            self._sent(1)
            self._summary_id = None

    def _ask_single(self, now: float) -> None:
        account = next(iter(self._queue))
        only_ledger = self._queue.pop(account)
        self._single_at = now
        request_id = self._new_request()
        self._singles[request_id] = _Single(
            AccountValues(account, now), account, only_ledger, now + PATIENCE_S
        )
        self._client.reqAccountUpdatesMulti(request_id, account, "", only_ledger)

    def _new_request(self) -> int:
        request_id = self._client.getReqId()
        self._ours.append(request_id)
        self._sent(1)
        return request_id

    def _end_single(self, request_id: int) -> None:
        del self._singles[request_id]
        self._client.cancelAccountUpdatesMulti(request_id)
        self._sent(1)
        self._note_round()

    def _note_round(self) -> None:
        if self._one_by_one and not self._queue and not self._singles:
            self.awaited = False

    # What the gateway says

    def take(self, request_id: int, account: str, key: str, value: str, currency: str) -> None:
        """One value has come."""
        if request_id in self._singles:
            self._singles[request_id].values.take(key, value, currency)
        elif request_id == self._summary_id and self._accounts.knows(account):
            values = self._summary.get(account)
            if values is None:
                values = self._summary[account] = AccountValues(account, self._clock())
            values.at = self._clock()
            values.take(key, value, currency)

    def ended(self, request_id: int) -> None:
        """All values have come that the request asked for."""
        if request_id in self._singles:
            one = self._singles[request_id]
            (self._ledgers if one.only_ledger else self._values)[one.account] = one.values
            self._end_single(request_id)
        elif request_id == self._summary_id:
            self._end_summary_at = self._clock() + LINGER_S
            self._values = self._summary
            self.awaited, self.refusal = False, ""
            for account, values in self._values.items():
                if values.rates_are_all_one:
                    self._queue[account] = True

    def refused(self, request_id: int, code: int, text: str) -> bool:
        """The gateway objects to a request; whether it is one of these."""
        if request_id in self._singles:
            self.refusal = f"{code}: {text}"
            del self._singles[request_id]
            self._note_round()
        elif request_id == self._summary_id:
            self._summary_id = None
            self._one_by_one = True
            self._ask()
        return request_id in self._ours


class PositionRequests:
    """The positions of many accounts: one request for each, which goes on with what changes."""

    def __init__(
        self, client: AccountSender, accounts: Accounts, *, sent: Callable[[int], None]
    ) -> None:
        self._client = client
        self._accounts = accounts
        self._sent = sent
        self._requests: set[int] = set()
        self._awaited: set[int] = set()
        self._complete: asyncio.Future[None] | None = None

    @property
    def are_needed(self) -> bool:
        """Whether there are too many accounts for one request about all."""
        return len(self._accounts.chosen) > MOST_TOGETHER

    async def ask(self) -> None:
        """Request all positions from scratch and wait for them; asyncio code."""
        for request_id in self._requests:
            self._client.cancelPositionsMulti(request_id)
            self._sent(1)
            await asyncio.sleep(GAP_S / 4)
        self._requests.clear()
        self._awaited.clear()
        self._complete = asyncio.get_running_loop().create_future()
        for account in self._accounts.chosen:
            request_id = self._client.getReqId()
            self._requests.add(request_id)
            self._awaited.add(request_id)
            self._sent(1)
            self._client.reqPositionsMulti(request_id, account, "")
            await asyncio.sleep(GAP_S / 4)
        if self._awaited:
            await self._complete

    def ended(self, request_id: int) -> None:
        """All positions of one account have come."""
        self._awaited.discard(request_id)
        if not self._awaited and self._complete is not None and not self._complete.done():
            self._complete.set_result(None)
