"""What the gateway says about single contracts' data, and what is made of it.

A code is advice until the data say otherwise: data have followed most of them. A contract is given
up only when none come, and its line is then cancelled: a code does not prove that the gateway holds
no line for it, and what it holds is one of the 100 that the owner shares.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, assert_never

from ib_async import Contract

from trio_bridge.events.data import ContractUnknown, DataRefused, ExchangeGivenUp, NotSubscribed
from trio_bridge.events.gateway import GatewayRemark
from trio_bridge.gateways.socket.codes import NO_SUCH_CONTRACT, Reaction
from trio_bridge.gateways.socket.market_data.feed import ANSWER_S
from trio_bridge.gateways.socket.market_data.venues import BARE, Venues
from trio_bridge.model import DataType, PositionState, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from ib_async import OptionComputation

    from trio_bridge.gateways.bursts import Bursts, MakeEvent
    from trio_bridge.gateways.socket.codes import ContractRefusal
    from trio_bridge.gateways.socket.holdings import HoldingsView
    from trio_bridge.gateways.socket.market_data.feed import MarketDataFeed, MarketLine
    from trio_bridge.gateways.socket.market_data.lines import MarketLines

ASK_AGAIN_SOON_S = 2.0
ASK_REFUSED_S = 300.0
ASK_INVALID_S = 60.0

ASK_UNKNOWN_S = 3600.0
"""Usually it has expired; but gateways without an upstream have said 200 about live contracts.
https://github.com/erdewit/ib_insync/issues/330"""


class _Advice(NamedTuple):
    """A code that says why there may be no data. It counts only if none come."""

    code: int
    words: str
    at: float
    had_spoken: bool
    """Whether this subscription had brought data before."""
    seen: OptionComputation | None
    """The newest computation at that time."""


class Refusals:
    """Of one connection.

    Args:
        sent: counts messages to the gateway.
        open_again: says once more which kind of data we want.
        settled: takes a contract from which nothing is to be expected for now.
        look_up: has the details of a contract requested, because its exchange is in doubt.
    """

    def __init__(
        self,
        feed: MarketDataFeed,
        lines: MarketLines,
        *,
        data_type: DataType,
        bursts: Bursts,
        sent: Callable[[int], None],
        open_again: Callable[[], None],
        settled: Callable[[int], None],
        look_up: Callable[[int], None],
        clock: Callable[[], float],
    ) -> None:
        self._feed = feed
        self._lines = lines
        self._delayed_allowed = data_type >= DataType.DELAYED
        self._bursts = bursts
        self._sent = sent
        self._open_again = open_again
        self._settled = settled
        self._look_up = look_up
        self._clock = clock
        self._venues = Venues()
        self._held: HoldingsView | None = None
        self._advised: dict[int, _Advice] = {}
        self._tried_delayed: set[int] = set()
        self._unknown: set[int] = set()

    def follow(self, held: HoldingsView, now: float) -> None:
        """What is held, or known about it, has changed."""
        self._held = held
        self._unknown &= held.options.keys()
        for con_id in self._unknown:
            # Its details may have come meanwhile, and name another exchange.
            untried = self._venues.next_of(con_id, held.exchanges(con_id)) is not None
            if untried and self._lines.postponed(con_id, now):
                self._lines.given_up(con_id, until=now)

    def contract(self, held: HoldingsView, con_id: int) -> Contract:
        """The contract as its data are to be requested now."""
        contract, exchanges = held.options[con_id], held.exchanges(con_id)
        venue = self._venues.next_of(con_id, exchanges)
        if venue is None:  # all have refused, a while ago
            self._venues.forget(con_id)
            venue = exchanges[0]
        if venue == BARE:
            return Contract(conId=con_id)
        if venue == contract.exchange:
            return contract
        elsewhere = Contract(**vars(contract))
        elsewhere.exchange = venue
        return elsewhere

    def heard(self, con_id: int, line: MarketLine) -> None:
        """The contract's line has brought a computation."""
        self._unknown.discard(con_id)
        self._bursts.withdraw(NO_SUCH_CONTRACT, con_id)
        if tried := self._venues.refused(con_id):
            code, instead = NO_SUCH_CONTRACT, line.contract.exchange
            self._venues.serves(con_id, instead)
            made = partial(ExchangeGivenUp, code=code, tried=tried, instead=instead)
            self._say((ExchangeGivenUp, tried, instead), con_id, made)

    def refused(self, reaction: ContractRefusal, con_id: int, code: int, text: str) -> None:
        """The gateway says why it has no data for the contract's present subscription."""
        line, now = self._feed.lines[con_id], self._clock()
        match reaction:
            case Reaction.UNKNOWN_CONTRACT:
                self._refused_here(con_id, line, now)
            case Reaction.ADVICE:
                line.refresh(now)
                advice = _Advice(code, text, now, line.answered, line.seen)
                self._advised.setdefault(con_id, advice)
            case Reaction.INVALID_REQUEST:
                if line.contract.exchange == BARE:  # "Please enter exchange": no way is left
                    self._refused_here(con_id, line, now)
                    return
                why = Trouble(PositionState.REFUSED, f"{text} ({code})")
                self._give_up(con_id, until=now + ASK_INVALID_S, why=why)
                self._say(code, con_id, partial(DataRefused, code=code, words=text))
            case _:
                assert_never(reaction)

    def _refused_here(self, con_id: int, line: MarketLine, now: float) -> None:
        """200: this exchange knows no such contract, but another may."""
        self._venues.refuse(con_id, line.contract.exchange)
        self._look_up(con_id)
        held = self._held
        exchanges = held.exchanges(con_id) if held and con_id in held.options else ()
        if self._venues.next_of(con_id, exchanges) is not None:
            self._lines.renew(con_id)
            return
        code, tried = NO_SUCH_CONTRACT, self._venues.refused(con_id)
        why = Trouble(PositionState.REFUSED, f"the gateway knows no such contract ({code})")
        self._give_up(con_id, until=now + ASK_UNKNOWN_S, why=why)
        self._unknown.add(con_id)
        self._say(code, con_id, partial(ContractUnknown, code=code, tried=tried))

    def ask_unknown_again(self) -> None:
        """What was unknown may have been so for lack of a link or a farm."""
        now = self._clock()
        for con_id in self._unknown:
            self._venues.forget(con_id)
            if self._lines.postponed(con_id, now):
                self._lines.given_up(con_id, until=now + ASK_AGAIN_SOON_S)
        self._unknown.clear()

    def forget_advice(self) -> None:
        """All data have stopped: silence no longer means anything about a single contract."""
        self._advised.clear()

    def judge_advice(self, now: float) -> None:
        """What the gateway advised is true of lines that stay silent."""
        for con_id, advice in list(self._advised.items()):
            line = self._feed.lines.get(con_id)
            if line is None:
                del self._advised[con_id]
            elif line.heard_at >= advice.at and line.seen is not advice.seen:
                del self._advised[con_id]
                remark = partial(GatewayRemark, code=advice.code, words=advice.words)
                self._say(advice.code, con_id, remark)
            elif now >= advice.at + ANSWER_S:
                del self._advised[con_id]
                self._believe(con_id, advice, now)

    def _believe(self, con_id: int, advice: _Advice, now: float) -> None:
        """No data: ask once more if they came before, or if delayed data may come."""
        for_delayed = self._delayed_allowed and con_id not in self._tried_delayed
        if for_delayed:
            if not self._tried_delayed:
                self._open_again()
            self._tried_delayed.add(con_id)
        if for_delayed or advice.had_spoken:
            self._lines.renew(con_id)
            return
        code, words = advice.code, advice.words
        refusal = partial(
            NotSubscribed, code=code, words=words, delayed_tried=self._delayed_allowed
        )
        reason = f"{words} ({code}): {refusal(contract='').remedy}"
        why = Trouble(PositionState.REFUSED, reason)
        self._give_up(con_id, until=now + ASK_REFUSED_S, why=why)
        self._say(code, con_id, refusal)

    def _give_up(self, con_id: int, *, until: float, why: Trouble) -> None:
        self.give_line_back(con_id)
        self._lines.given_up(con_id, until=until, why=why)

    def give_line_back(self, con_id: int) -> None:
        """Cancel it, whatever the gateway says."""
        self._settled(con_id)
        if self._feed.lines[con_id].request_id is not None:
            self._feed.unsubscribe(con_id)
            self._sent(1)

    def remark(self, con_id: int, code: int, text: str) -> None:
        """Pass on what the gateway says about the contract's data."""
        self._say(code, con_id, partial(GatewayRemark, code=code, words=text))

    def unsaid(self, code: int) -> None:
        """What was to be said about contracts with this code is true of all data."""
        self._bursts.drop(code)

    def _say(self, key: Hashable, con_id: int, make: MakeEvent) -> None:
        options = self._held.options if self._held is not None else {}
        name = options[con_id].localSymbol if con_id in options else ""
        self._bursts.add(key, con_id, name or f"contract {con_id}", make)
