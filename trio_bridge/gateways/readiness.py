"""Why no row may be given now: everything that can stand in the way of one, in one place. Pure.

A row that is not true is worse than none, so each part that finds something missing blocks here,
and clears it here; the ticker, the supervisor, `check` and `/readyz` ask here.

==================  ============================================  ================================
reason              it blocks                                     until
==================  ============================================  ================================
NOT_CONNECTED       from the start; when the connection has       a connection is made
                    ended, for whatever reason
ASLEEP              when only the wall clock has moved on         the next connection: never before
CLOCK_SET           when the wall clock was set forward, as it    the next connection: never before
                    is after a pause of the machine, too
NO_ANSWER           PORTAL: two requests in a row unanswered      any answer, even a refusal
USELESS_ANSWERS     PORTAL: no answer of use to any request,      an answer of use, to any request
                    three in a row and for 5 s
LOGGED_OUT          PORTAL: the gateway has no login              the session is in another state
NO_BROKERAGE        PORTAL: no brokerage session                  the session is in another state
COMPETING           PORTAL: the owner's other session has the     the session is in another state
                    market data (SOCKET: its Greeks age instead)
UPSTREAM_LOST       the gateway says that it is cut off           SOCKET: it says that it is not;
                                                                  PORTAL: as above
SESSION_UNKNOWN     PORTAL: from the start                        a status, or a tickle in its
                                                                  place, names a state
SESSION_STALE       PORTAL: by itself, 60 s after the last        a status or tickle that says so
                    status or tickle that called it well
DOWNLOADING         from the start; SOCKET: when the gateway      SOCKET: a complete download with
                    has forgotten us, or we held none when its    no outage in it (an empty one
                    link came back; PORTAL: when the session is   twice); PORTAL: two in a row that
                    no longer well                                name the same positions
POSITIONS_LACKING   account values say that an account holds      its positions have come, or its
                    something, but no positions are here          values are zero, too
VALUES_AWAITED      from a download's start, until account        they have; by itself after 20 s
                    values have confirmed what is empty
POSITIONS_STALE     PORTAL: by itself, 60 s (of many accounts:    an accepted download (see
                    two rounds) after the last accepted download  `Holdings.offer`)
SETTLING            from the start; with each download that       every option has answered; by
                    DOWNLOADING waits for (`Settling`)            itself after 10 s
PROBE_MISSED        a probe is overdue or went unanswered         the next one that is answered
STANDBY             another records, and this bridge stands by    it takes over (`IBridgeBase.rest`)
==================  ============================================  ================================

The order is by dependency; of several reasons the first is given, because the others follow from it
or cannot be judged while it lasts. Without a connection nothing else is known. After a sleep,
everything in memory is as old as the sleep was long, but looks fresh. If a gateway answers nothing,
its login is in doubt; without a login, or cut off, it may call an empty book complete, which only
account values can tell from one that has not arrived; positions come before the Greeks of their
options. A missed probe is only a suspicion. STANDBY comes last: while it is the reason given, the
bridge could record if it had to.

A reason that nothing clears goes on: forgetting to clear one costs rows, never their truth. Each
connection begins with a `Readiness` of its own, which an earlier connection, ending late, cannot
change.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import NamedTuple

from trio_bridge.errors import BridgeError

SETTLE_S = 10.0
"""How long the first rows wait for the Greeks of every option."""


class Reason(Enum):
    """Why no row may be given, the most fundamental first; the value is the user's text."""

    NOT_CONNECTED = "not connected to the gateway"
    ASLEEP = "the machine was asleep for {detail}"
    CLOCK_SET = "the machine's clock was set forward by {detail}, or the machine was paused"
    NO_ANSWER = "the gateway does not answer ({detail})"
    USELESS_ANSWERS = "the gateway's answers are of no use ({detail})"
    LOGGED_OUT = "nobody is logged in at the gateway"
    NO_BROKERAGE = "the gateway has no brokerage session"
    COMPETING = "another session of yours has the market data"
    UPSTREAM_LOST = "the gateway has lost its link to Interactive Brokers"
    SESSION_UNKNOWN = "the session's state is not known yet"
    SESSION_STALE = "the session's state could not be asked for {detail}"
    DOWNLOADING = "the positions are still being downloaded"
    POSITIONS_LACKING = (
        "the positions of {detail} have not arrived: its position value or margin is not zero"
    )
    VALUES_AWAITED = "waiting for account values to confirm the positions"
    POSITIONS_STALE = "the positions could not be read again for {detail}"
    SETTLING = "waiting for the first Greeks"
    PROBE_MISSED = "the gateway did not answer the last probe"
    STANDBY = "standby: {detail}"


class Blocked(NamedTuple):
    """One reason with its current detail; `str()` is the user's text."""

    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return self.reason.value.format(detail=self.detail)


class NotReadyError(BridgeError):
    """No true row can be given now; the text says what is missing."""

    def __init__(self, blocked: Blocked) -> None:
        super().__init__(str(blocked))
        self.blocked = blocked


class _Span(NamedTuple):
    """When a reason blocks: from `since` on, before `until` (monotonic clock, seconds)."""

    since: float
    until: float
    detail: str = ""
    vouched_at: float = math.nan


class Readiness:
    """What stands in the way of a row. All instants are of one clock; nothing here reads it."""

    def __init__(self) -> None:
        self._spans: dict[Reason, _Span] = {}
        self.block(Reason.NOT_CONNECTED)

    def block(self, reason: Reason, detail: str = "", *, until: float = math.inf) -> None:
        """No row for this reason from now on, until it is cleared or `until` has come."""
        self._spans[reason] = _Span(-math.inf, until, detail)

    def clear(self, reason: Reason) -> None:
        """This reason is gone; harmless if it was not there."""
        self._spans.pop(reason, None)

    def vouch(self, reason: Reason, *, at: float, until: float) -> None:
        """This reason was seen to be gone at the instant `at`. It is back by itself at `until`, and
        then says how long ago `at` was."""
        self._spans[reason] = _Span(until, math.inf, vouched_at=at)

    def blocks(self, reason: Reason, now: float) -> bool:
        """Whether this reason blocks, be it the first or not."""
        span = self._spans.get(reason)
        return span is not None and span.since <= now < span.until

    def why(self, now: float) -> Blocked | None:
        """The most fundamental reason why no row may be given at this instant, or None."""
        for reason in Reason:
            if self.blocks(reason, now):
                span = self._spans[reason]
                age = "" if math.isnan(span.vouched_at) else f"{now - span.vouched_at:.0f} s"
                return Blocked(reason, span.detail or age)
        return None


class Settling:
    """The wait for the first Greeks: over when every option has answered, or `wait_s` after the
    download. An outage of the gateway's upstream stops that clock; it then starts from zero. Once
    over, the wait stays over until the positions are downloaded from scratch.
    """

    def __init__(self, readiness: Readiness, wait_s: float) -> None:
        self._readiness = readiness
        self._wait_s = wait_s
        self.forget()

    def forget(self) -> None:
        """The download no longer counts: the next one begins the wait."""
        self._wait_until(math.inf)

    def start(self, now: float) -> None:
        """A download is complete, or the outage over: the clock starts unless it runs already."""
        if self._until == math.inf:
            self._wait_until(now + self._wait_s)

    def hold(self, now: float) -> None:
        """An outage begins."""
        if not self.is_over(now):
            self._wait_until(math.inf)

    def answered(self) -> None:
        """Every option has answered; counts only after a download, and not during an outage."""
        if self._until < math.inf:
            self._wait_until(-math.inf)

    def is_over(self, now: float) -> bool:
        return now >= self._until

    def _wait_until(self, instant: float) -> None:
        self._until = instant
        self._readiness.block(Reason.SETTLING, until=instant)
