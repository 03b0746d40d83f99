"""Which option contracts hold the limited market-data lines now.

An account has 100 market-data lines, the owner's TWS included, and a gateway takes 50 messages a
second. With more options than lines the lines go round: a contract is subscribed, held until it
has answered (or `DWELL_S` has passed), and gives its line to the one that has waited longest.

- Everything fits: every contract is subscribed once and kept; no further message is sent.
- It doesn't: whoever gives up its line is the smallest exposure that has answered. So the largest
  exposures keep theirs, and exactly as many lines go round as the gateway's answers need. What
  limits the refresh is then the message rate (a swap costs two), hence the oldest Greek is about
  `(contracts - lines) / 20` seconds old: 0.5 s of 100, 7.5 s of 240, 46 s of 1,000 on 90 lines.
- Nobody starves: the waiting are served in the order in which they last had a line; contracts that
  never had one come first, the largest exposure before the others.

Error 101 (too many lines) means that the owner's TWS holds some: the budget shrinks at once to what
is held, and grows back by one a minute. A growth that is refused doubles the wait for the next.

10197 (competing live session) stops all data of the username: nothing is subscribed or rotated, one
contract is subscribed anew from time to time, and when it answers, so are the others.

Pure: the caller passes the time (monotonic seconds), reports what happened, sends what `decide`
returns, and keeps the Greeks and their ages itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from trio_bridge.gateways.socket.pacing import Pacer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Set

MESSAGES_PER_S = 44
"""Never more in any second; the gateway takes 50 and ib_async queues beyond 45 of any kind."""

DWELL_S = 5.0
"""How long a contract that does not answer may keep a line that others wait for."""

REST_S = 1.0
"""A contract that gave up its line waits at least this long: an age below it buys nothing, since
rows are seconds apart."""

REFUSED_WAIT_S = 10.0
"""How long a contract that was refused with 101 waits."""

GROWTH_WAIT_S = 60.0
LONGEST_GROWTH_WAIT_S = 3600.0

COMPETING_PROBE_S = 15.0
"""How often one contract is tried again during a competing session."""

COMPETING_IN_FLIGHT_S = 1.0
"""How long after its 10197 an answer for a contract may be one that was under way already."""

_SWAP = 2
"""Messages of the largest step: a cancel and a subscription."""


class Subscribe(NamedTuple):
    """Request market data for the contract."""

    con_id: int


class Cancel(NamedTuple):
    """Cancel the contract's market data; its Greeks age from now on."""

    con_id: int


Action = Subscribe | Cancel


class Turn(NamedTuple):
    """What to send now, in this order, and when to decide again unless something happens."""

    actions: tuple[Action, ...]
    again_at: float | None


@dataclass(slots=True)
class _Contract:
    con_id: int
    weight: float
    ready_at: float = -math.inf
    served_at: float = -math.inf
    """When it last gave up a line that had served it."""
    held_since: float = -math.inf
    answered: bool = False
    stalled: bool = False
    """Its subscription should have spoken by now (a competing session began, or the caller says
    so): it is to be made anew unless it speaks."""
    told_at: float = math.inf
    """When it got its 10197; -inf if it was tried since, for any answer is then good news."""

    def done(self, now: float) -> bool:
        """Whether its line may go to another."""
        return self.answered or now >= self.held_since + DWELL_S


class MarketLines:
    """Decides who holds a line. Keep one for the life of the service: what it has learned about
    the budget outlives a connection (`connection_lost`).

    Events about a contract that holds no line are ignored, so late answers do no harm; the caller
    has to drop errors that belong to an earlier subscription of the same contract.
    """

    def __init__(self, lines: int, *, messages_per_s: int = MESSAGES_PER_S) -> None:
        if lines < 1:
            raise ValueError(f"no market data lines: {lines}")
        self._ceiling = lines
        self._budget = lines
        self._pacer = Pacer(messages_per_s, largest_step=_SWAP)
        self._held: dict[int, _Contract] = {}
        self._waiting: dict[int, _Contract] = {}
        self._leaving: dict[int, _Contract] = {}
        self._grow_at = -math.inf
        self._growth_wait_s = GROWTH_WAIT_S
        self._growth_untested = False
        self._competing = False
        self._probe_at = math.inf

    @property
    def budget(self) -> int:
        """How many lines may be used now."""
        return self._budget

    @property
    def ceiling(self) -> int:
        """How many may ever be used."""
        return self._ceiling

    @property
    def held(self) -> Set[int]:
        """The contracts that hold a line and are still wanted."""
        return self._held.keys()

    @property
    def lines_used(self) -> int:
        """Lines that count: from their subscription until their cancel is returned."""
        return len(self._held) + len(self._leaving)

    @property
    def competing(self) -> bool:
        """Whether a competing session has stopped the data."""
        return self._competing

    def postponed(self, con_id: int, now: float) -> bool:
        """Whether the contract was given up, for ever or for a while."""
        contract = self._waiting.get(con_id)
        return contract is not None and contract.ready_at > now + REST_S

    def wanted(self, now: float) -> int:
        """How many contracts there are, without those that were given up."""
        waiting = sum(one.ready_at <= now + REFUSED_WAIT_S for one in self._waiting.values())
        return len(self._held) + waiting

    def oldest_s(self, now: float) -> float:
        """How old the oldest Greeks become, about: until all that wait have had their turn."""
        return _SWAP * max(0, self.wanted(now) - self._budget) / self._pacer.rate

    # What happened

    def want(self, exposures: Mapping[int, float]) -> None:
        """The contracts that need data from now on, with the weight of each (larger first).

        The weight is the size of the exposure: abs(quantity × multiplier), or better that times the
        underlying's price. It must be a finite number, 0 if unknown.
        """
        for gone in self._held.keys() - exposures.keys():
            self._leaving[gone] = self._held.pop(gone)
        for gone in self._waiting.keys() - exposures.keys():
            del self._waiting[gone]
        for con_id, weight in exposures.items():
            back = self._leaving.pop(con_id, None)
            if back is not None:
                self._held[con_id] = back
            contract = self._held.get(con_id) or self._waiting.get(con_id)
            if contract is None:
                contract = self._waiting[con_id] = _Contract(con_id, weight)
            contract.weight = weight

    def answered(self, con_id: int, now: float) -> None:
        """The contract's model Greeks arrived, or an answer that they won't."""
        contract = self._held.get(con_id)
        if contract is None:
            return
        if now < contract.told_at + COMPETING_IN_FLIGHT_S and contract.told_at < math.inf:
            return
        contract.answered = True
        contract.stalled = False
        if contract.told_at < math.inf:
            self._competing = False
        contract.told_at = math.inf

    def refused(self, con_id: int, now: float) -> None:
        """Error 101: the gateway has no line for this contract. There is nothing to cancel."""
        contract = self._held.pop(con_id, None)
        if contract is not None:
            contract.ready_at = now + REFUSED_WAIT_S
            self._waiting[con_id] = contract
        else:
            contract = self._leaving.pop(con_id, None)
        if contract is None:
            return
        self._budget = min(self._budget, self.lines_used)
        if self._growth_untested:
            self._growth_wait_s = min(2 * self._growth_wait_s, LONGEST_GROWTH_WAIT_S)
        self._growth_untested = False
        self._grow_at = now + self._growth_wait_s

    def given_up(self, con_id: int, *, until: float = math.inf) -> None:
        """The gateway will give no data for this contract before `until` (error 200 and its kind).

        There is nothing to cancel.
        """
        contract = self._held.pop(con_id, None) or self._waiting.get(con_id)
        if contract is None:
            self._leaving.pop(con_id, None)
            return
        contract.ready_at = until
        self._waiting[con_id] = contract

    def renew(self, con_id: int) -> None:
        """The contract's subscription should have spoken: make it anew, unless it does so now."""
        contract = self._held.get(con_id)
        if contract is not None:
            contract.answered = False
            contract.stalled = True

    def sent(self, messages: int, now: float) -> None:
        """The caller has sent something else to the gateway: that counts against the pace too."""
        self._pacer.spend(messages, now)

    def competing_session(self, con_id: int, now: float) -> bool:
        """Error 10197 for this contract: the owner is logged in elsewhere, all data has stopped.

        It ends when a contract that was told so answers, or one that was tried since answers or is
        not told so again. Those that are still silent then are subscribed anew: whether data comes
        back by itself is not known.

        Returns whether this is news.
        """
        told = self._held.get(con_id)
        if told is not None:
            told.told_at = now
        if self._competing:
            return False
        self._competing = True
        self._probe_at = now + COMPETING_PROBE_S
        for contract in self._held.values():
            contract.answered = False
            contract.stalled = True
        return True

    def connection_lost(self, now: float) -> None:
        """All subscriptions are gone (also 1101): begin again with the largest exposures.

        What was learned about the budget is kept, and so is who was given up.
        """
        for contract in list(self._held.values()):
            self._release(contract, now)
            contract.ready_at = now
        for contract in self._waiting.values():
            contract.served_at = -math.inf
        self._leaving.clear()
        self._competing = False

    # What to do

    def decide(self, now: float) -> Turn:
        """The messages to send now. They count as sent when this returns."""
        self._grow(now)
        actions: list[Action] = []
        while now >= self._pacer.free_at:
            step = self._step(now)
            if not step:
                return Turn(tuple(actions), min(self._deadlines(now), default=None))
            self._pacer.spend(len(step), now)
            actions.extend(step)
        return Turn(tuple(actions), self._pacer.free_at)

    def _step(self, now: float) -> tuple[Action, ...]:
        if self._leaving:
            con_id, _ = self._leaving.popitem()
            return (Cancel(con_id),)
        if self._competing:
            if now < self._probe_at:
                return ()
            self._probe_at = now + COMPETING_PROBE_S
            # Whoever was tried last may have nothing to say, but it was not told 10197 again.
            self._competing = not any(c.told_at == -math.inf for c in self._held.values())
        stalled = min(
            (contract for contract in self._held.values() if contract.stalled),
            key=lambda contract: (contract.held_since, -contract.weight, contract.con_id),
            default=None,
        )
        if stalled is not None:
            self._begin(stalled, now)
            return Cancel(stalled.con_id), Subscribe(stalled.con_id)
        candidate = self._longest_waiting(now)
        if candidate is None:
            return ()
        if self.lines_used < self._budget:
            self._hold(candidate, now)
            return (Subscribe(candidate.con_id),)
        victim = self._least_needed(now)
        if victim is None:
            return ()
        self._release(victim, now)
        self._hold(candidate, now)
        return Cancel(victim.con_id), Subscribe(candidate.con_id)

    def _longest_waiting(self, now: float) -> _Contract | None:
        return min(
            (contract for contract in self._waiting.values() if contract.ready_at <= now),
            key=lambda contract: (contract.served_at, -contract.weight, contract.con_id),
            default=None,
        )

    def _least_needed(self, now: float) -> _Contract | None:
        return min(
            (contract for contract in self._held.values() if contract.done(now)),
            key=lambda contract: (contract.answered, contract.weight, contract.held_since),
            default=None,
        )

    def _hold(self, contract: _Contract, now: float) -> None:
        del self._waiting[contract.con_id]
        self._held[contract.con_id] = contract
        self._begin(contract, now)

    def _begin(self, contract: _Contract, now: float) -> None:
        """A new subscription: whatever it says is about now."""
        contract.held_since = now
        contract.answered = False
        contract.stalled = self._competing
        contract.told_at = -math.inf if self._competing else math.inf

    def _release(self, contract: _Contract, now: float) -> None:
        del self._held[contract.con_id]
        self._waiting[contract.con_id] = contract
        contract.served_at = now
        contract.ready_at = now + REST_S

    def _grow(self, now: float) -> None:
        """Ask for one line more, but only when it would be used, so that it is tested at once."""
        if self._budget == self._ceiling or now < self._grow_at or self._competing:
            return
        if self.lines_used < self._budget or self._longest_waiting(now) is None:
            return
        if self._growth_untested:  # the last one stood
            self._growth_wait_s = GROWTH_WAIT_S
        self._growth_untested = True
        self._budget += 1
        self._grow_at = now + GROWTH_WAIT_S

    def _deadlines(self, now: float) -> Iterable[float]:
        """When `decide` could have something to do although nothing happens."""
        if self._competing:
            yield self._probe_at
            return
        ready = False
        for contract in self._waiting.values():
            if contract.ready_at <= now:
                ready = True
            elif contract.ready_at < math.inf:
                yield contract.ready_at
        if ready:
            yield from (
                contract.held_since + DWELL_S
                for contract in self._held.values()
                if not contract.done(now)
            )
            if self._budget < self._ceiling and self._grow_at > now:
                yield self._grow_at
