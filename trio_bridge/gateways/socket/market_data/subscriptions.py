"""Keeps the options we hold subscribed: `MarketLines` decides, `MarketDataFeed` sends, and the
reason of a refusal decides whether and when to try again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, assert_never

from trio_bridge.events.data import (
    CompetingSession,
    CompetingSessionEnded,
    LinesEnough,
    LinesReturned,
    LinesTaken,
    LinesTooFew,
)
from trio_bridge.gateways.socket.codes import Reaction
from trio_bridge.gateways.socket.market_data.farms import Farms
from trio_bridge.gateways.socket.market_data.feed import MarketDataFeed
from trio_bridge.gateways.socket.market_data.lines import Cancel, Renew, Subscribe
from trio_bridge.gateways.socket.market_data.refusals import Refusals
from trio_bridge.gateways.socket.market_data.troubles import troubles_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ib_async import IB

    from trio_bridge.gateways.base import EventSink
    from trio_bridge.gateways.bursts import Bursts
    from trio_bridge.gateways.socket.codes import Refusal
    from trio_bridge.gateways.socket.holdings import HoldingsView
    from trio_bridge.gateways.socket.market_data.lines import MarketLines
    from trio_bridge.model import DataType, Trouble

POLL_S = 0.05
"""How often to check for answers while some are awaited."""

ASK_AFTER_INCIDENT_S = 2.0
"""Once the upstream is back, silent lines are renewed after this long: a quiet option may have
nothing to send, and old Greeks must not be mistaken for current ones."""

REPORT_BUDGET_S = 2.0
"""Refusals for lack of lines come in bursts: the budget is reported this long after the last."""

COUNT_EVERY_S = 10.0
"""How often to check that the lines are enough."""


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
        bursts: Bursts,
        look_up: Callable[[int], None],
        clock: Callable[[], float],
    ) -> None:
        """
        Args:
            max_age_s: options whose Greeks are older count as unpriced.
            look_up: has the details of a contract requested, because its exchange is in doubt.
        """
        self._ib = ib
        self._lines = lines
        self._data_type = data_type
        self._max_age_s = max_age_s
        self._emit = emit
        self._clock = clock
        self._unanswered: set[int] = set()
        self._ask_silent_at = math.inf
        self._followed: HoldingsView | None = None
        self._reported_budget = lines.budget
        self._report_budget_at = math.inf
        self._count_at = -math.inf
        self._too_few = False
        self._competing = False
        self.feed = MarketDataFeed(ib, clock)
        self.farms = Farms(self.feed.lines, clock)
        self.refusals = Refusals(
            self.feed,
            lines,
            data_type=data_type,
            bursts=bursts,
            sent=self.sent,
            open_again=self.open,
            settled=self._expect_no_more,
            look_up=look_up,
            clock=clock,
        )
        lines.connection_lost(clock())

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
        """Whether each expected option has brought Greeks or a refusal since `expect`."""
        return not self._unanswered

    def _expect_no_more(self, con_id: int) -> None:
        self._unanswered.discard(con_id)

    def sent(self, messages: int) -> None:
        """Something else was sent to the gateway, whose limit covers all messages."""
        self._lines.sent(messages, self._clock())

    def step(self, held: HoldingsView) -> float:
        """Follow what is held now, and send what is due; return when to call again."""
        now = self._clock()
        self.feed.follow(held.options)
        if held is not self._followed:
            self._follow(held, now)
        self._notice_answers(now)
        self.refusals.judge_advice(now)
        self._renew_after_incident(now)
        self._report_budget(now)
        if now >= self._count_at and not self._lines.competing:
            self._count_at = now + COUNT_EVERY_S
            self._report_too_few(now)
        turn = self._lines.decide(now)
        for action in turn.actions:
            match action:
                case Subscribe():
                    self.feed.subscribe(self.refusals.contract(held, action.con_id))
                case Renew():
                    self.feed.renew(self.refusals.contract(held, action.con_id))
                case Cancel():
                    self.feed.unsubscribe(action.con_id)
                case _:
                    assert_never(action)
        self._notice_end_of_competition()
        rotating = len(held.options) > self._lines.budget
        return min(
            now + POLL_S if rotating else math.inf,
            turn.again_at if turn.again_at is not None else math.inf,
            self._ask_silent_at,
        )

    def _follow(self, held: HoldingsView, now: float) -> None:
        self._followed = held
        exposures = held.exposures
        self._lines.want({con_id: exposures.get(con_id, 0.0) for con_id in held.options})
        self._unanswered &= exposures.keys()
        self.refusals.follow(held, now)

    def _notice_answers(self, now: float) -> None:
        for con_id in self._lines.held:
            line = self.feed.lines[con_id]
            line.refresh(now)
            if not line.news:
                continue
            line.news = False
            self.farms.heard(line)
            self._lines.answered(con_id, now)
            self._unanswered.discard(con_id)
            self.refusals.heard(con_id, line)

    def _renew_after_incident(self, now: float) -> None:
        if now < self._ask_silent_at:
            return
        self._ask_silent_at = math.inf
        if self._lines.competing:  # its end renews all
            return
        for con_id in self._lines.held:
            if self.feed.lines[con_id].current_until(now) is not None:
                self._lines.renew(con_id)

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

    # What the gateway says

    def data_stopped(self, since: float | None = None) -> float:
        """Nothing vouches for the data from now on, or since an earlier instant: the Greeks age
        until new ones come. Return that instant."""
        since = self._clock() if since is None else since
        self.feed.mark_stale(since)
        self.refusals.forget_advice()
        return since

    def ask_silent_again(self) -> None:
        """Data come again; lines that are still silent shortly from now are renewed."""
        now = self._clock()
        self._ask_silent_at = min(self._ask_silent_at, now + ASK_AFTER_INCIDENT_S)
        self._lines.count_silence_from(now)

    def all_gone(self) -> None:
        """The gateway has forgotten all subscriptions (1101)."""
        for con_id in self.feed.lines:
            self.feed.unsubscribe(con_id, tell_gateway=False)
        self.refusals.forget_advice()
        self._competing = False
        self._lines.connection_lost(self._clock())

    def is_ours(self, con_id: int, request_id: int) -> bool:
        """Whether the message is about the subscription that the contract has now."""
        line = self.feed.lines.get(con_id)
        return line is not None and line.request_id == request_id

    def refused(self, reaction: Refusal, con_id: int, code: int, text: str) -> None:
        """The gateway says why it has no data for the contract's subscription."""
        match reaction:
            case Reaction.TOO_MANY_LINES:
                self.refusals.give_line_back(con_id)
                self._lines.refused(con_id, self._clock())
                self._report_budget_at = self._clock() + REPORT_BUDGET_S
            case Reaction.COMPETING_SESSION:
                self._stopped(con_id, code, text)
            case Reaction.UNKNOWN_CONTRACT | Reaction.ADVICE | Reaction.INVALID_REQUEST:
                self.refusals.refused(reaction, con_id, code, text)
            case _:
                assert_never(reaction)

    def _stopped(self, con_id: int, code: int, text: str) -> None:
        """10197: this contract has no data; when all have none, another session has them."""
        now = self._clock()
        self.feed.lines[con_id].mark_stale(now, now)
        self._expect_no_more(con_id)
        if self._lines.data_stopped(con_id, now):
            self._compete(code)
        elif not self._lines.competing:
            self.refusals.remark(con_id, code, text)

    def all_stopped(self, code: int) -> None:
        """10197, of nothing in particular: the owner's other session has the market data."""
        if self._lines.competing_session(self._clock()):
            self._compete(code)

    def _compete(self, code: int) -> None:
        self.data_stopped()
        self.refusals.unsaid(code)
        self._competing = True
        self._emit(CompetingSession(code))

    def _notice_end_of_competition(self) -> None:
        if self._competing and not self._lines.competing:
            self._competing = False
            self._emit(CompetingSessionEnded())

    def troubles(self, held: HoldingsView) -> dict[int, Trouble]:
        """The options without current Greeks, each with the reason."""
        return troubles_of(held.exposures, self._lines, self.feed.lines, self._clock())
