"""Which option contracts hold the limited market-data lines now.

An account has 100 market-data lines, the owner's TWS included, and a gateway takes 50 messages a
second. With more options than lines the lines rotate: a contract is subscribed, held until it has
answered (or `DWELL_S` has passed), and gives its line to the one that has waited longest.

- If everything fits, each contract is subscribed once and kept; no further message is sent.
- If not, the smallest exposure that has answered gives up its line. So the largest exposures keep
  theirs, and only as many lines rotate as the gateway's answers need. The message rate then limits
  the refresh (a swap costs two), hence the oldest Greek is about `(contracts - lines) / 20` seconds
  old: 0.5 s of 100, 7.5 s of 240, 46 s of 1,000 on 90 lines.
- No contract starves: they are served in the order in which they last had a line; those that never
  had one come first, the largest exposure before the others.

Error 101 (too many lines) means that the owner's TWS holds some: the budget shrinks at once to what
is held, and grows back by one a minute. A refused growth doubles the wait for the next.

10197 (competing live session) stops all data of the username: nothing is subscribed or rotated but
one contract from time to time, and when it answers, the others are subscribed again.

Pure: the caller passes the time (monotonic seconds), reports what happened, sends what `decide`
returns, and keeps the Greeks and their ages itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Set

MESSAGES_PER_S = 44
"""The most in any second; the gateway takes 50, and ib_async queues what exceeds 45."""

DWELL_S = 5.0
"""How long a contract that does not answer may keep a line that others wait for."""

REST_S = 1.0
"""The least wait of a contract that gave up its line: rows are seconds apart, so a smaller age
gains nothing."""

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


class Pacer:
    """Spreads steps of a few messages evenly, so that no second holds more than `per_s` messages.

    The generic cell rate algorithm: a step may be taken while the messages so far, at the sustained
    rate, run at most `catch_up_s` ahead of the clock. Any second then holds at most
    `rate * (1 + catch_up_s)` messages and one step, from which the rate follows. There is no
    credit for idle time beyond `catch_up_s`, hence no burst after a pause.

    Args:
        per_s: the most messages in any second, its ends included.
        largest_step: the most messages in one step.
        catch_up_s: how late a step may be taken without losing throughput.

    Raises:
        ValueError: `per_s` leaves nothing beyond one step.
    """

    def __init__(self, per_s: int, *, largest_step: int = 1, catch_up_s: float = 0.05) -> None:
        if per_s <= largest_step:
            raise ValueError(f"{per_s} messages a second cannot pace steps of {largest_step}")
        self.rate = (per_s - largest_step) / (1 + catch_up_s)
        """Messages a second, sustained."""
        self._catch_up_s = catch_up_s
        self._paid_until = -math.inf

    @property
    def free_at(self) -> float:
        """When the next step may be taken, on the caller's clock (seconds); may have passed."""
        return self._paid_until - self._catch_up_s

    def spend(self, messages: int, now: float) -> None:
        """A step of this many messages is taken now."""
        self._paid_until = max(self._paid_until, now) + messages / self.rate


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
    """Its subscription should have answered by now (a competing session began, or the caller says
    so): it is to be renewed unless it answers."""
    stopped_at: float = math.inf
    """When it got its 10197; -inf if it was tried since: any answer is then good news."""

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
        """The contract's model Greeks arrived, or an answer that they will not."""
        contract = self._held.get(con_id)
        if contract is None:
            return
        if now < contract.stopped_at + COMPETING_IN_FLIGHT_S and contract.stopped_at < math.inf:
            return
        contract.answered = True
        contract.stalled = False
        if contract.stopped_at < math.inf:
            self.competing = False
        contract.stopped_at = math.inf

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
        """The contract's subscription should have answered: renew it unless it answers now."""
        contract = self._held.get(con_id)
        if contract is not None:
            contract.answered = False
            contract.stalled = True

    def sent(self, messages: int, now: float) -> None:
        """The caller has sent something else to the gateway, which counts against the pace too."""
        self._pacer.spend(messages, now)

    def competing_session(self, con_id: int, now: float) -> bool:
        """Error 10197 for this contract: the owner is logged in elsewhere, all data has stopped.

        It ends when a contract with this error answers, or one that was tried since answers or does
        not get the error again. Contracts that are silent then are subscribed again: whether data
        comes back by itself is not known.

        Returns whether this is news.
        """
        if (contract := self._held.get(con_id)) is not None:
            contract.stopped_at = now
        if self.competing:
            return False
        self.competing = True
        self._probe_at = now + COMPETING_PROBE_S
        for contract in self._held.values():
            contract.answered = False
            contract.stalled = True
        return True

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
            self._pacer.spend(len(step), now)
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
            # The one tried last may have no data, but it did not get 10197 again.
            self.competing = not any(c.stopped_at == -math.inf for c in self._held.values())
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
        if self.lines_used < self.budget:
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
        contract.stalled = self.competing
        contract.stopped_at = -math.inf if self.competing else math.inf

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
