"""A gateway that counts market-data lines and messages, in plain Python and virtual time.

It plays the caller of `MarketLines` too: sends what is decided, reports what comes back, and judges
on the way that nothing forbidden is sent.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from itertools import count
from typing import TYPE_CHECKING

from trio_bridge.gateways.socket.market_data.lines import (
    DWELL_S,
    Cancel,
    MarketLines,
    Renew,
    Subscribe,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_bridge.gateways.socket.market_data.lines import Action

RTT_S = 0.001
"""A gateway on the same machine."""


class LinesGateway:
    """`latency_s(con_id)` is how long its Greeks take to arrive; infinite: they never do. `chatty`:
    lines that have answered go on ticking; else they fall silent until they are renewed."""

    def __init__(
        self,
        lines: MarketLines,
        *,
        latency_s: Callable[[int], float] = lambda con_id: 0.1 + con_id % 7 / 20,
        limit: int = 100,
        budget: int = 90,
        call_late_s: Callable[[], float] = lambda: 0.0,
        chatty: bool = True,
    ) -> None:
        self.lines = lines
        self.latency_s = latency_s
        self.limit = limit
        self.owner_uses = 0
        self.competing = False
        self.unknown: set[int] = set()
        self.wanted: set[int] = set()
        self._budget = budget
        self._call_late_s = call_late_s
        self._chatty = chatty

        self.now = 0.0
        self.subscribed: dict[int, int] = {}
        """Contract → number of its subscription, as the caller believes."""
        self.subscribed_at: dict[int, float] = {}
        self.accepted: set[int] = set()
        self.current: set[int] = set()
        self.current_until: dict[int, float] = {}
        self.first_answer: dict[int, float] = {}
        self.heard_at: dict[int, float] = {}
        self.messages: list[float] = []
        self.sent: list[tuple[float, Action]] = []
        self.refusals: list[tuple[float, int]] = []
        self.competing_news: list[float] = []
        self.told_10197: set[int] = set()
        self.subscriptions: defaultdict[int, int] = defaultdict(int)
        self._numbers = count()
        self._events: list[tuple[float, int, int, int, str]] = []
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []

    def want(self, exposures: Mapping[int, float]) -> None:
        self.wanted = set(exposures)
        self.lines.want(exposures)

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Something the world does at that time."""
        heapq.heappush(self._agenda, (time, next(self._numbers), action))

    def run(self, until: float, *, each: Callable[[], None] = lambda: None) -> None:
        """Let time pass; `each` is called after every decision."""
        while True:
            again_at = self._decide()
            each()
            wake = min(
                again_at if again_at is not None else math.inf,
                self._events[0][0] if self._events else math.inf,
                self._agenda[0][0] if self._agenda else math.inf,
            )
            assert wake > self.now or self._due(), "asked to decide again without time passing"
            if wake > until:
                self.now = until
                return
            self.now = max(self.now, wake + (self._call_late_s() if wake == again_at else 0.0))
            self._happen()

    def age(self, con_id: int) -> float:
        """How old the contract's Greeks are; infinite before the first."""
        if con_id in self.current:
            return 0.0
        return self.now - self.current_until.get(con_id, -math.inf)

    def lose_connection(self) -> None:
        for con_id in self.current:
            self.current_until[con_id] = self.now
        self.subscribed.clear()
        self.accepted.clear()
        self.current.clear()
        self.lines.connection_lost(self.now)

    def start_competing(self) -> None:
        """Every subscription is told so and falls silent."""
        self.competing = True
        for con_id in list(self.subscribed):
            self._report(RTT_S, con_id, "competing")

    def _due(self) -> bool:
        return bool(
            (self._events and self._events[0][0] <= self.now)
            or (self._agenda and self._agenda[0][0] <= self.now)
        )

    def _decide(self) -> float | None:
        if self._chatty and not self.competing:
            for con_id in self.current:
                self.lines.answered(con_id, self.now)
        turn = self.lines.decide(self.now)
        for action in turn.actions:
            self.messages.append(self.now)
            self.sent.append((self.now, action))
            match action:
                case Subscribe():
                    self._subscribe(action.con_id)
                case Cancel():
                    self._cancel(action.con_id)
                case Renew():
                    self.messages.append(self.now)
                    self._cancel(action.con_id)
                    self._subscribe(action.con_id)
        assert set(self.lines.held) <= self.subscribed.keys()
        assert len(self.subscribed) == self.lines.lines_used
        return turn.again_at

    def _subscribe(self, con_id: int) -> None:
        assert con_id not in self.subscribed, "subscribed twice"
        self.subscribed[con_id] = next(self._numbers)
        assert len(self.subscribed) <= self._budget, "more lines than the budget"
        self.subscribed_at[con_id] = self.now
        self.told_10197.discard(con_id)
        self.subscriptions[con_id] += 1
        if con_id in self.unknown:
            self._report(RTT_S, con_id, "unknown")
        elif len(self.accepted) + self.owner_uses >= self.limit:
            self._report(RTT_S, con_id, "too many lines")
        else:
            self.accepted.add(con_id)
            if self.competing:
                self._report(RTT_S, con_id, "competing")
            elif self.latency_s(con_id) < math.inf:
                self._report(self.latency_s(con_id), con_id, "greeks")

    def _cancel(self, con_id: int) -> None:
        del self.subscribed[con_id]  # KeyError: what holds no line was cancelled
        dwelt = self.now >= self.subscribed_at[con_id] + DWELL_S
        excused = con_id in self.current or con_id in self.told_10197 or con_id not in self.wanted
        assert dwelt or excused, "cancelled before it answered"
        self.accepted.discard(con_id)
        if con_id in self.current:
            self.current.remove(con_id)
            self.current_until[con_id] = self.now

    def _report(self, delay_s: float, con_id: int, what: str) -> None:
        number = self.subscribed[con_id]
        heapq.heappush(
            self._events, (self.now + delay_s, next(self._numbers), number, con_id, what)
        )

    def _happen(self) -> None:
        while self._agenda and self._agenda[0][0] <= self.now:
            heapq.heappop(self._agenda)[2]()
        while self._events and self._events[0][0] <= self.now:
            _, _, number, con_id, what = heapq.heappop(self._events)
            if self.subscribed.get(con_id) == number:
                self._tell(con_id, what)

    def _tell(self, con_id: int, what: str) -> None:
        if what == "greeks":
            if not self.competing:
                self.current.add(con_id)
                self.first_answer.setdefault(con_id, self.now)
                self.heard_at[con_id] = self.now
                self.lines.answered(con_id, self.now)
        elif what == "competing":
            self.told_10197.add(con_id)
            if con_id in self.current:
                self.current.remove(con_id)
                self.current_until[con_id] = self.now
            if self.lines.data_stopped(con_id, self.now):
                self.competing_news.append(self.now)
        elif what == "unknown":
            del self.subscribed[con_id]
            self.lines.given_up(con_id)
        else:
            del self.subscribed[con_id]
            self.refusals.append((self.now, con_id))
            self.lines.refused(con_id, self.now)


def most_in_any_second(times: list[float]) -> int:
    """The largest number of messages in a closed window of one second (`times` is sorted)."""
    most = first = 0
    for last, time in enumerate(times):
        while times[first] < time - 1:
            first += 1
        most = max(most, last - first + 1)
    return most
