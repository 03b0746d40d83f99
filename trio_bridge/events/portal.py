"""Events that only the Client Portal has: its login, its answers, its stream of quotes.

`because` is what the gateway says about the state of its session; often nothing.
"""

from __future__ import annotations

from trio_bridge.events.event import WARNING, Event


class LoggedOut(Event):
    kind = "login.lost"
    severity = WARNING
    stops_rows = True
    says = "nobody is logged in at the gateway{because:()}: no rows"
    advises = "open {login_url} in a browser and log in"
    because: str
    login_url: str


class NoBrokerageSession(Event):
    kind = "login.no_brokerage"
    severity = WARNING
    stops_rows = True
    says = (
        "the gateway has no brokerage session{because:()}: no rows, asking for one every "
        "{retry_s:.0f} s"
    )
    advises = "if that does not help, open {login_url} in a browser and log in"
    because: str
    login_url: str
    retry_s: float


class CompetingLogin(Event):
    kind = "login.competing"
    severity = WARNING
    stops_rows = True
    says = "another session of yours has the market data{because:()}: no rows until it ends"
    because: str


class LoginCutOff(Event):
    kind = "login.upstream_lost"
    severity = WARNING
    stops_rows = True
    says = (
        "the gateway has lost its link to Interactive Brokers{because:()}: no rows until it is back"
    )
    because: str


class LoginBack(Event):
    kind = "login.back"
    stops_rows = False
    says = "the brokerage session is back (after {lasted_s:.0f} s)"
    lasted_s: float


class RequestsPaused(Event):
    """The gateway has put us into its penalty box."""

    kind = "portal.paused"
    severity = WARNING
    says = "no requests for a while: {reason}"
    reason: str


class RequestsResumed(Event):
    kind = "portal.resumed"
    says = "the gateway accepts requests again (after {lasted_s:.0f} s)"
    lasted_s: float


class PaceUnshared(Event):
    """Normal where the directory for shared memory cannot be written."""

    kind = "portal.pace_unshared"
    says = "other programs of this user keep a pace of their own towards the gateway ({reason})"
    reason: str


class AnswersUnusable(Event):
    """Some endpoint keeps answering with errors; `reason` is the last one."""

    kind = "portal.answers_unusable"
    severity = WARNING
    says = "the gateway's answers are unusable: {reason}"
    reason: str


class AnswersUsable(Event):
    kind = "portal.answers_usable"
    says = "the gateway answers properly again (after {lasted_s:.0f} s)"
    lasted_s: float


class StreamBegun(Event):
    """For the first time: the WebSocket has brought data of our contracts."""

    kind = "portal.streaming"
    says = "quotes are streaming"


class StreamLost(Event):
    """Until it is back Greeks come by polling, a little later."""

    kind = "portal.stream_lost"
    severity = WARNING
    says = "no streaming quotes ({reason}): polling instead"
    reason: str


class StreamBack(Event):
    kind = "portal.stream_back"
    says = "quotes are streaming again (after {lasted_s:.0f} s)"
    lasted_s: float


class CertificateUnchecked(Event):
    """Normal for a gateway on this machine."""

    kind = "portal.certificate_unchecked"
    says = "the certificate of {url} is not checked: it is on this machine"
    advises = "IBKR_CA_FILE names a certificate to check it with"
    url: str


class CertificatePinned(Event):
    """IBKR_CA_FILE is the gateway's own certificate."""

    kind = "portal.certificate_pinned"
    says = (
        "the certificate of {url} is the one in IBKR_CA_FILE: no other is accepted, its name and "
        "dates don't matter (SHA-256 {fingerprint})"
    )
    url: str
    fingerprint: str
