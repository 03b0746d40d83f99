"""Keeps the options we hold subscribed: `MarketLines` decides, `MarketDataFeed` sends, and the
reason of a refusal decides whether and when to try again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, assert_never

from trio_bridge.events.data import (
    CompetingSession,
    CompetingSessionEnded,
    ContractUnknown,
    DataRefused,
    LinesEnough,
    LinesReturned,
    LinesTaken,
    LinesTooFew,
    NotSubscribed,
)
from trio_bridge.gateways.socket.codes import NOTHING_TO_CANCEL, Reaction
from trio_bridge.gateways.socket.market_data.feed import MarketDataFeed
from trio_bridge.gateways.socket.market_data.lines import Subscribe
from trio_bridge.model import DataType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ib_async import IB, Contract

    from trio_bridge.gateways.base import EventSink
    from trio_bridge.gateways.ongoing import Ongoing
    from trio_bridge.gateways.socket.codes import Refusal
    from trio_bridge.gateways.socket.holdings import HoldingsView
    from trio_bridge.gateways.socket.market_data.lines import MarketLines

POLL_S = 0.05
"""How often to check for answers while some are awaited."""

ASK_SILENT_AGAIN_S = 60.0
"""After this long without Greeks a subscription is renewed."""

ASK_AFTER_INCIDENT_S = 2.0
"""Once the upstream or a farm is back, silent lines are renewed after this long: a quiet option may
have nothing to send, and old Greeks must not be mistaken for current ones."""

REPORT_BUDGET_S = 2.0
"""Refusals for lack of lines come in bursts: the budget is reported this long after the last."""

COUNT_EVERY_S = 10.0
"""How often to check that the lines are enough."""

ASK_BROKEN_FARM_S = 30.0
ASK_REFUSED_S = 300.0
ASK_INVALID_S = 60.0

ASK_UNKNOWN_S = 3600.0
"""Usually it has expired; but gateways without an upstream have said 200 about live contracts.
https://github.com/erdewit/ib_insync/issues/330"""


class Subscriptions:
    """The market data of one connection. Must be used where asyncio's loop is current."""

    def __init__(
        self,
        ib: IB,
        lines: MarketLines,
        *,
        data_type: DataType,
        max_age_s: float,
        emit: EventSink,
        said: Ongoing,
        clock: Callable[[], float],
    ) -> None:
        """`max_age_s`: options whose Greeks are older count as unpriced."""
        self._ib = ib
        self._lines = lines
        self._data_type = data_type
        self._max_age_s = max_age_s
        self._emit = emit
        self._said = said
        self._clock = clock
        self._ask_again: dict[int, float] = {}
        self._tried_delayed: set[int] = set()
        self._unanswered: set[int] = set()
        self._unknown: set[int] = set()
        self._followed: HoldingsView | None = None
        self._reported_budget = lines.budget
        self._report_budget_at = math.inf
        self._too_few = False
        self._count_at = -math.inf
        self.feed = MarketDataFeed(ib, clock)
        self._lines.connection_lost(clock())

    def open(self) -> None:
        """Say which kind of data we want; it holds until the gateway forgets everything."""
        self._ib.client.reqMarketDataType(int(self._data_type))
        self.sent(1)

    def expect(self, con_ids: Iterable[int]) -> None:
        """After a download: the rows wait for the first answers of these options."""
        now = self._clock()
        self._unanswered = {one for one in con_ids if not self._lines.postponed(one, now)}

    @property
    def all_answered(self) -> bool:
        """Whether each expected option has brought Greeks or an error since `expect`."""
        return not self._unanswered

    def sent(self, messages: int) -> None:
        """Something else was sent to the gateway, whose limit covers all messages."""
        self._lines.sent(messages, self._clock())

    def step(self, held: HoldingsView) -> float:
        """Follow what is held now, and send what is due; return when to call again."""
        now = self._clock()
        self.feed.follow(held.options)
        if held is not self._followed:
            self._followed = held
            exposures = held.exposures
            self._lines.want({con_id: exposures.get(con_id, 0.0) for con_id in held.options})
            self._unanswered &= exposures.keys()
        self._notice_answers(now)
        if not self._lines.competing:
            self._renew_silent(now)
        self._report_budget(now)
        if now >= self._count_at and not self._lines.competing:
            self._count_at = now + COUNT_EVERY_S
            self._report_too_few(now)
        turn = self._lines.decide(now)
        for action in turn.actions:
            if isinstance(action, Subscribe):
                self.feed.subscribe(held.options[action.con_id])
                self._ask_again[action.con_id] = now + ASK_SILENT_AGAIN_S
            else:
                self.feed.unsubscribe(action.con_id)
                self._ask_again.pop(action.con_id, None)
        rotating = len(held.options) > self._lines.budget
        return min(
            now + POLL_S if rotating else math.inf,
            turn.again_at if turn.again_at is not None else math.inf,
            min(self._ask_again.values(), default=math.inf),
        )

    def _notice_answers(self, now: float) -> None:
        was_competing = self._lines.competing
        for con_id in list(self._lines.held):
            if self.feed.lines[con_id].refresh():
                self._lines.answered(con_id, now)
                self._ask_again.pop(con_id, None)
                self._unanswered.discard(con_id)
        if was_competing and not self._lines.competing:
            self._emit(CompetingSessionEnded())

    def _report_budget(self, now: float) -> None:
        budget = self._lines.budget
        if budget == self._lines.ceiling > self._reported_budget:
            self._reported_budget = budget
            self._emit(LinesReturned(budget))
        elif now >= self._report_budget_at and budget < self._reported_budget:
            self._reported_budget = budget
            self._emit(LinesTaken(budget))

    def _report_too_few(self, now: float) -> None:
        """More options than the lines can refresh before their Greeks are too old."""
        options, budget = self._lines.wanted(now), self._lines.budget
        oldest_s = self._lines.oldest_s(now)
        too_few = oldest_s > self._max_age_s
        if too_few == self._too_few:
            return
        self._too_few = too_few
        if too_few:
            self._emit(LinesTooFew(options, budget, oldest_s, self._max_age_s))
        else:
            self._emit(LinesEnough(options, budget))

    def _renew_silent(self, now: float) -> None:
        for con_id, due in list(self._ask_again.items()):
            if due <= now:
                del self._ask_again[con_id]
                self._lines.renew(con_id)

    # What the gateway says

    def data_stopped(self, since: float | None = None) -> float:
        """Nothing vouches for the data from now on, or since an earlier instant: the Greeks age
        until new ones come. Return that instant."""
        since = self._clock() if since is None else since
        self.feed.mark_stale(since)
        return since

    def ask_silent_again(self, after_s: float = ASK_AFTER_INCIDENT_S) -> None:
        """Lines that are still silent after this long are renewed."""
        due = self._clock() + after_s
        for con_id in self._lines.held:
            line = self.feed.lines.get(con_id)
            if line is not None and not line.refresh():
                self._ask_again[con_id] = due

    def ask_unknown_again(self) -> None:
        """What was unknown may have been so for lack of a link or a farm."""
        now = self._clock()
        for con_id in self._unknown:
            if self._lines.postponed(con_id, now):
                self._lines.given_up(con_id, until=now + ASK_AFTER_INCIDENT_S)
        self._unknown.clear()

    def all_gone(self) -> None:
        """The gateway has forgotten all subscriptions (1101)."""
        for con_id in self.feed.lines:
            self.feed.unsubscribe(con_id, tell_gateway=False)
        self._ask_again.clear()
        self._lines.connection_lost(self._clock())

    def is_ours(self, con_id: int, request_id: int) -> bool:
        """Whether the message is about the subscription that the contract has now."""
        line = self.feed.lines.get(con_id)
        return line is not None and line.request_id == request_id

    def refused(self, reaction: Refusal, contract: Contract, code: int, text: str) -> None:
        """The gateway has ended or refused the contract's subscription."""
        con_id, now = contract.conId, self._clock()
        name = contract.localSymbol or f"contract {con_id}"
        self._unanswered.discard(con_id)
        match reaction:
            case Reaction.UNKNOWN_CONTRACT:
                self._forget(con_id, code, until=now + ASK_UNKNOWN_S)
                self._unknown.add(con_id)
                self._said.once((code, con_id), ContractUnknown(name, code))
            case Reaction.TOO_MANY_LINES:
                self._give_line_back(con_id, code)
                self._lines.refused(con_id, now)
                self._report_budget_at = now + REPORT_BUDGET_S
            case Reaction.COMPETING_SESSION:
                self.owner_is_elsewhere(con_id, code)
            case Reaction.NOT_SUBSCRIBED:
                self._fall_back(con_id, name, code, text)
            case Reaction.INVALID_REQUEST:
                self._forget(con_id, code, until=now + ASK_INVALID_S)
                self._said.once((code, con_id), DataRefused(name, code, text))
            case _:
                assert_never(reaction)

    def _forget(self, con_id: int, code: int, *, until: float) -> None:
        self._give_line_back(con_id, code)
        self._lines.given_up(con_id, until=until)

    def _give_line_back(self, con_id: int, code: int) -> None:
        may_live = code not in NOTHING_TO_CANCEL
        self.feed.unsubscribe(con_id, tell_gateway=may_live)
        if may_live:
            self.sent(1)
        self._ask_again.pop(con_id, None)

    def owner_is_elsewhere(self, con_id: int, code: int) -> None:
        """The owner's other session has the market data now: of one contract, or of all."""
        self.data_stopped()
        if self._lines.competing_session(con_id, self._clock()):
            self._emit(CompetingSession(code))

    def _fall_back(self, con_id: int, name: str, code: int, text: str) -> None:
        """No live data: ask once more, for delayed data, if the settings allow it."""
        delayed_allowed = self._data_type >= DataType.DELAYED
        if delayed_allowed and con_id not in self._tried_delayed:
            if not self._tried_delayed:
                self.open()
            self._tried_delayed.add(con_id)
            self._forget(con_id, code, until=self._clock())
            return
        self._forget(con_id, code, until=self._clock() + ASK_REFUSED_S)
        self._said.once(code, NotSubscribed(name, code, text, delayed_allowed))
