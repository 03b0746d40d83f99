"""Why no row may be given now: everything that can stand in the way of one, in one place. Pure.

A row that is not true is worse than none, so each part that knows of something missing blocks
here, and takes it back here; the ticker, the supervisor, `check` and `/readyz` ask here.

==================  ============================================  ===============================
reason              it blocks                                     until
==================  ============================================  ===============================
NOT_CONNECTED       from the start; when a connection is lost     a connection is made
ASLEEP              when the wall clock has gone on alone         the next connection: never before
NO_ANSWER           PORTAL: two requests in a row unanswered      any answer, even a refusal
LOGGED_OUT          PORTAL: nobody is logged in                   the login is well
NO_BROKERAGE        PORTAL: no brokerage session                  the login is well
COMPETING           PORTAL: the owner's other session has the     the login is well
                    market data (SOCKET: its Greeks age instead)
UPSTREAM_LOST       the gateway says it is cut off                it says that it is connected
SESSION_UNKNOWN     PORTAL: before the first status               a status
SESSION_STALE       PORTAL: by itself, when no status has said    a status that says so
                    "well" for too long
DOWNLOADING         from the start; when the gateway has          a complete download that no
                    forgotten us or may have sent only a part     outage has cut in two
POSITIONS_STALE     PORTAL: by itself, when the last complete     a complete download
                    download is too old
SETTLING            with each first download (`Settling`)         every option has answered; by
                                                                  itself after 10 s
PROBE_MISSED        a probe is overdue or went unanswered         the next one that is answered
==================  ============================================  ===============================

The order is that of what rests on what; of several reasons the first is given, because the others
follow from it or cannot be judged while it lasts. Without a connection nothing else is known. After
a sleep all that memory holds is as old as the sleep was long, and does not know it, whatever else
has been said since. A gateway that answers nothing leaves its login in doubt; without a login, or
cut off, it may call an empty book complete; positions come before the Greeks of their options. A
missed probe comes last: it is a suspicion, and whatever stands above it is known.

A reason that nobody has taken back goes on: forgetting to clear costs rows, never their truth. Each
connection begins with a `Readiness` of its own, so that the one before, ending late, has no say.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import NamedTuple

from trio_bridge.errors import BridgeError

SETTLE_S = 10.0
"""How long the first rows wait for the Greeks of every option."""


class Reason(Enum):
    """Why no row may be given, the most fundamental first; the value is the text for a person."""

    NOT_CONNECTED = "not connected to the gateway"
    ASLEEP = "the machine was asleep for {detail}"
    NO_ANSWER = "the gateway does not answer ({detail})"
    LOGGED_OUT = "nobody is logged in at the gateway"
    NO_BROKERAGE = "the gateway has no brokerage session"
    COMPETING = "another session of yours has the market data"
    UPSTREAM_LOST = "the gateway has lost its link to Interactive Brokers"
    SESSION_UNKNOWN = "the session's state is not known yet"
    SESSION_STALE = "the session's state could not be asked for {detail}"
    DOWNLOADING = "the positions are still being downloaded"
    POSITIONS_STALE = "the positions could not be read again for {detail}"
    SETTLING = "waiting for the first Greeks"
    PROBE_MISSED = "the gateway did not answer the last probe"


class Blocked(NamedTuple):
    """One reason, with what is particular about it now; `str()` is the text for a person."""

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
        """This reason is gone; harmless when it was not there."""
        self._spans.pop(reason, None)

    def vouch(self, reason: Reason, *, at: float, until: float) -> None:
        """This reason is gone, as was seen at the instant `at`; seen no more before `until`, it is
        back by itself, and says how long ago that was."""
        self._spans[reason] = _Span(until, math.inf, vouched_at=at)

    def blocks(self, reason: Reason, now: float) -> bool:
        """Whether this reason stands in the way, be it the first or not."""
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
    """The wait for the first Greeks: over when every option has answered, or when `wait_s` have
    passed since the download; an outage of the gateway's upstream stops that clock, and it starts
    again from zero. What has settled stays so until the positions are downloaded from scratch.
    """

    def __init__(self, readiness: Readiness, wait_s: float) -> None:
        self._readiness = readiness
        self._wait_s = wait_s
        self.forget()

    def forget(self) -> None:
        """What was downloaded is void: the next download begins the wait."""
        self._wait_until(math.inf)

    def start(self, now: float) -> None:
        """A download is complete, or the outage over: the clock starts, unless it runs already."""
        if self._until == math.inf:
            self._wait_until(now + self._wait_s)

    def hold(self, now: float) -> None:
        """An outage begins."""
        if not self.is_over(now):
            self._wait_until(math.inf)

    def answered(self) -> None:
        """Every option has answered; that counts after a download, and not during an outage."""
        if self._until < math.inf:
            self._wait_until(-math.inf)

    def is_over(self, now: float) -> bool:
        return now >= self._until

    def _wait_until(self, instant: float) -> None:
        self._until = instant
        self._readiness.block(Reason.SETTLING, until=instant)
