"""Which option contracts hold the limited market-data lines now.

An account has 100 market-data lines, the owner's TWS included, and a gateway takes 50 messages a
second. With more options than lines the lines rotate: a contract is subscribed, held until it has
answered (or `DWELL_S` has passed), and gives its line to the one that has waited longest.

- If everything fits, each contract keeps its line.
- If not, the smallest exposure that has answered gives up its line. So the largest exposures keep
  theirs, and only as many lines rotate as the gateway's answers need. The message rate then limits
  the refresh (a swap costs two), hence the oldest Greek is about `(contracts - lines) / 20` seconds
  old: 0.5 s of 100, 7.5 s of 240, 46 s of 1,000 on 90 lines.
- No contract starves: they are served in the order in which they last had a line; those that never
  had one come first, the largest exposure before the others.

Silence is not health: lines have stood still for hours without a word. So a line that has said
nothing for `RENEWAL_S` is renewed (cancelled and subscribed again), whether or not others rotate: a
living one answers at once, even if its option never trades. Renewals never come faster than
`RENEWAL_GAP_S` apart: 90 silent lines cost 3 messages a second. When many have fallen silent at
once, the first are renewed so much earlier that the last is not late.

Error 101 (too many lines) means that the owner's TWS holds some: the budget shrinks at once to what
is held, and grows back by one a minute. A refused growth doubles the wait for the next.

10197 (competing live session) may come for one contract while the others stream: that one has no
data. When all lines have got it, the owner is logged in elsewhere and all data of the username have
stopped: nothing is subscribed or rotated but one contract from time to time, and when it answers,
the others are subscribed again.

Pure: the caller passes the time (monotonic seconds), reports what happened, sends what `decide`
returns, and keeps the Greeks and their ages itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from trio_bridge.gateways.socket.market_data.pacer import Pacer
from trio_bridge.risk.verdict import RENEWAL_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Set

    from trio_bridge.model import Trouble

MESSAGES_PER_S = 44
"""The most in any second; the gateway takes 50, and ib_async queues what exceeds 45."""

DWELL_S = 5.0
"""How long a contract that does not answer may keep a line that others wait for."""

REST_S = 1.0
"""The least wait of a contract that gave up its line: rows are seconds apart, so a smaller age
gains nothing."""

RENEWAL_GAP_S = 0.55
"""The least time between two renewals, of two messages each: under 4 messages a second."""

ALL_RENEWED_S = 50.0
"""With so many lines that this would not do, they are renewed within this time."""

REFUSED_WAIT_S = 10.0
"""How long a contract that was refused with 101 waits."""

GROWTH_WAIT_S = 60.0
LONGEST_GROWTH_WAIT_S = 3600.0

COMPETING_PROBE_S = 15.0
"""How often one contract is tried again during a competing session."""

COMPETING_IN_FLIGHT_S = 1.0
"""How long after its 10197 an answer for a contract may still be an older one."""

_SWAP = 2
"""Messages of the largest step: a cancel and a subscription."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Request market data for the contract."""

    con_id: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel the contract's market data; its Greeks age from now on."""

    con_id: int


@dataclass(frozen=True, slots=True)
class Renew:
    """Cancel and subscribe at once: two messages. The Greeks count on unless no answer comes."""

    con_id: int


Action = Subscribe | Cancel | Renew


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
    spoke_at: float = -math.inf
    """When it last said something, as far as the caller has noticed."""
    answered: bool = False
    stalled: bool = False
    """Its subscription should have answered by now (a competing session began, or the caller says
    so): it is to be renewed unless it answers."""
    stopped_at: float = math.inf
    """When it got its 10197; -inf if it was tried since: any answer is then good news."""
    why: Trouble | None = None
    """Why it was given up, until it speaks."""

    @property
    def silent_since(self) -> float:
        return max(self.held_since, self.spoke_at)

    def done(self, now: float) -> bool:
        """Whether its line may go to another."""
        return self.answered or now >= self.held_since + DWELL_S


class MarketLines:
    """Decides which contract holds a line. Keep one object for the life of the service: what it has
    learned about the budget outlives a connection (`connection_lost`).

    Events about a contract that holds no line are ignored, so late answers do no harm; the caller
    has to drop errors about an earlier subscription of the same contract.
    """

    def __init__(self, lines: int, *, messages_per_s: int = MESSAGES_PER_S) -> None:
        if lines < 1:
            raise ValueError(f"no market data lines: {lines}")
        self.ceiling = lines
        """How many lines may ever be used."""
        self.budget = lines
        """How many may be used now."""
        self.competing = False
        """Whether a competing session has stopped the data."""
        self._pacer = Pacer(messages_per_s, largest_step=_SWAP)
        self._held: dict[int, _Contract] = {}
        self._waiting: dict[int, _Contract] = {}
        self._leaving: dict[int, _Contract] = {}
        self._grow_at = -math.inf
        self._growth_wait_s = GROWTH_WAIT_S
        self._growth_untested = False
        self._probe_at = math.inf
        self._renew_at = -math.inf
        """No renewal is due before, unless lines are added."""

    @property
    def held(self) -> Set[int]:
        """The contracts that hold a line and are still wanted."""
        return self._held.keys()

    @property
    def lines_used(self) -> int:
        """Lines that count: from their subscription until their cancel is returned."""
        return len(self._held) + len(self._leaving)

    def postponed(self, con_id: int, now: float) -> bool:
        """Whether the contract was given up, for good or for a while."""
        contract = self._waiting.get(con_id)
        return contract is not None and contract.ready_at > now + REST_S

    def why(self, con_id: int) -> Trouble | None:
        """Why the contract was given up, if it was and has not spoken since."""
        contract = self._held.get(con_id) or self._waiting.get(con_id)
        return contract.why if contract is not None else None

    def stopped(self, con_id: int) -> bool:
        """Whether the contract's line got 10197 and has not spoken since."""
        contract = self._held.get(con_id)
        return contract is not None and contract.stopped_at < math.inf

    def wanted(self, now: float) -> int:
        """How many contracts there are that were not given up."""
        waiting = sum(one.ready_at <= now + REFUSED_WAIT_S for one in self._waiting.values())
        return len(self._held) + waiting

    def oldest_s(self, now: float) -> float:
        """About how old the oldest Greeks become, until all that wait have had their turn."""
        return _SWAP * max(0, self.wanted(now) - self.budget) / self._pacer.rate

    # What happened

    def want(self, exposures: Mapping[int, float]) -> None:
        """The contracts that need data from now on, with the weight of each (larger first).

        The weight is the size of the exposure, abs(quantity × multiplier): finite, 0 if unknown.
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
        """The contract's model Greeks arrived; to be reported whenever they do."""
        contract = self._held.get(con_id)
        if contract is None:
            return
        if now < contract.stopped_at + COMPETING_IN_FLIGHT_S and contract.stopped_at < math.inf:
            return
        contract.answered = True
        contract.stalled = False
        contract.spoke_at = now
        contract.why = None
        contract.stopped_at = math.inf
        if self.competing:
            self._end_competition()

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
        self.budget = min(self.budget, self.lines_used)
        if self._growth_untested:
            self._growth_wait_s = min(2 * self._growth_wait_s, LONGEST_GROWTH_WAIT_S)
        self._growth_untested = False
        self._grow_at = now + self._growth_wait_s

    def given_up(self, con_id: int, *, until: float = math.inf, why: Trouble | None = None) -> None:
        """The gateway will give no data for this contract before `until` (error 200 and its kind).

        The caller has cancelled it.
        """
        contract = self._held.pop(con_id, None) or self._waiting.get(con_id)
        if contract is None:
            self._leaving.pop(con_id, None)
            return
        contract.ready_at = until
        contract.why = why
        self._waiting[con_id] = contract

    def renew(self, con_id: int) -> None:
        """The contract's subscription should have answered: renew it unless it answers now."""
        contract = self._held.get(con_id)
        if contract is not None:
            contract.answered = False
            contract.stalled = True

    def count_silence_from(self, now: float) -> None:
        """All data had stopped until now: no line is to blame for its silence."""
        for contract in self._held.values():
            contract.spoke_at = now

    def sent(self, messages: int, now: float) -> None:
        """The caller has sent something else to the gateway, which counts against the pace too."""
        self._pacer.spend(messages, now)

    def data_stopped(self, con_id: int, now: float) -> bool:
        """Error 10197 for this contract. When every line has got it and is silent since, it is a
        competing session; returns whether it has just become one."""
        contract = self._held.get(con_id)
        if contract is None:
            return False
        contract.stopped_at = now
        still_growing = self.lines_used < self.budget and self._longest_waiting(now) is not None
        if still_growing or any(one.stopped_at == math.inf for one in self._held.values()):
            return False
        return self.competing_session(now)

    def competing_session(self, now: float) -> bool:
        """The owner is logged in elsewhere, all data have stopped.

        It ends when a contract answers, or one that was tried since does not get 10197 again.
        Contracts that are silent then are subscribed again: whether data comes back by itself is
        not known.

        Returns whether this is news.
        """
        if self.competing:
            return False
        self.competing = True
        self._probe_at = now + COMPETING_PROBE_S
        for contract in self._held.values():
            contract.answered = False
            contract.stalled = True
            contract.stopped_at = min(contract.stopped_at, now)
        return True

    def _end_competition(self) -> None:
        self.competing = False
        for contract in self._held.values():
            contract.stopped_at = math.inf

    def connection_lost(self, now: float) -> None:
        """All subscriptions are gone (also 1101): begin again with the largest exposures.

        What was learned about the budget is kept, and so is which contracts were given up.
        """
        for contract in list(self._held.values()):
            self._release(contract, now)
            contract.ready_at = now
        for contract in self._waiting.values():
            contract.served_at = -math.inf
        self._leaving.clear()
        self.competing = False

    # What to do

    def decide(self, now: float) -> Turn:
        """The messages to send now. They count as sent when this returns."""
        self._grow(now)
        actions: list[Action] = []
        while now >= self._pacer.free_at:
            step = self._step(now)
            if not step:
                return Turn(tuple(actions), min(self._deadlines(now), default=None))
            self._pacer.spend(_SWAP if isinstance(step[0], Renew) else len(step), now)
            actions.extend(step)
        return Turn(tuple(actions), self._pacer.free_at)

    def _step(self, now: float) -> tuple[Action, ...]:
        if self._leaving:
            con_id, _ = self._leaving.popitem()
            return (Cancel(con_id),)
        if self.competing:
            if now < self._probe_at:
                return ()
            self._probe_at = now + COMPETING_PROBE_S
            if any(contract.stopped_at == -math.inf for contract in self._held.values()):
                # The one tried last may have no data, but it did not get 10197 again.
                self._end_competition()
        stalled = min(
            (contract for contract in self._held.values() if contract.stalled),
            key=lambda contract: (contract.held_since, -contract.weight, contract.con_id),
            default=None,
        )
        if stalled is None and not self.competing:
            stalled = self._silent_for_long(now)
        if stalled is not None:
            self._begin(stalled, now)
            return (Renew(stalled.con_id),)
        candidate = self._longest_waiting(now)
        if candidate is None:
            return ()
        if self.lines_used < self.budget:
            self._hold(candidate, now)
            return (Subscribe(candidate.con_id),)
        victim = self._least_needed(now)
        if victim is None:
            return ()
        self._release(victim, now)
        self._hold(candidate, now)
        return Cancel(victim.con_id), Subscribe(candidate.con_id)

    def _silent_for_long(self, now: float) -> _Contract | None:
        """The line whose renewal is due: each must be renewed in time, one after the other."""
        if now < self._renew_at or not self._held:
            return None
        gap_s = min(RENEWAL_GAP_S, ALL_RENEWED_S / len(self._held))
        by_silence = sorted(self._held.values(), key=lambda contract: contract.silent_since)
        due = min(
            contract.silent_since + RENEWAL_S - place * gap_s
            for place, contract in enumerate(by_silence)
        )
        if now < due:
            self._renew_at = due
            return None
        self._renew_at = now + gap_s
        return by_silence[0]

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
        contract.stopped_at = math.inf
        self._begin(contract, now)

    def _begin(self, contract: _Contract, now: float) -> None:
        """A new subscription: whatever it says is about now."""
        contract.held_since = now
        self._renew_at = min(self._renew_at, now + RENEWAL_S - ALL_RENEWED_S)
        contract.answered = False
        contract.stalled = self.competing
        if self.competing:
            contract.stopped_at = -math.inf

    def _release(self, contract: _Contract, now: float) -> None:
        del self._held[contract.con_id]
        self._waiting[contract.con_id] = contract
        contract.served_at = now
        contract.ready_at = now + REST_S

    def _grow(self, now: float) -> None:
        """Allow one more line, but only if it would be used, so that it is tested at once."""
        if self.budget == self.ceiling or now < self._grow_at or self.competing:
            return
        if self.lines_used < self.budget or self._longest_waiting(now) is None:
            return
        if self._growth_untested:  # the last one stood
            self._growth_wait_s = GROWTH_WAIT_S
        self._growth_untested = True
        self.budget += 1
        self._grow_at = now + GROWTH_WAIT_S

    def _deadlines(self, now: float) -> Iterable[float]:
        """When `decide` could have something to do even if nothing happens."""
        if self.competing:
            yield self._probe_at
            return
        if self._held:
            yield self._renew_at
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
            if self.budget < self.ceiling and self._grow_at > now:
                yield self._grow_at
