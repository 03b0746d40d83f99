"""Events of the connection to the gateway, and of the accounts behind it, in both modes."""

from __future__ import annotations

from trio_bridge.events.event import WARNING, Event


class Connected(Event):
    """The gateway has let us in and sent the positions."""

    kind = "gateway.connected"
    says = "connected to {endpoint}"
    endpoint: str


class ConnectionLost(Event):
    kind = "gateway.lost"
    severity = WARNING
    says = "disconnected from {endpoint}: {reason}"
    endpoint: str
    reason: str


class Reconnecting(Event):
    """`attempt` counts from 1 after each connection that lasted."""

    kind = "gateway.reconnecting"
    severity = WARNING
    says = "reconnect attempt {attempt} in {delay_s:g} s: {reason}"
    attempt: int
    delay_s: float
    reason: str


class HoldBegun(Event):
    """No attempts within a reset window. `until` is a time in words, New York's."""

    kind = "gateway.holding"
    says = "holding until {until}: reset window ({reason})"
    until: str
    reason: str


class HoldEnded(Event):
    kind = "gateway.hold_ended"
    says = "the reset window is over: reconnecting now"


class GatewaySilent(Event):
    """One probe was not answered; two in a row end the connection."""

    kind = "gateway.silent"
    severity = WARNING
    stops_rows = True
    says = "the gateway is silent ({reason}): no rows until it answers"
    reason: str


class GatewayAnswers(Event):
    kind = "gateway.answers"
    stops_rows = False
    says = "the gateway answers again"


class UpstreamLost(Event):
    """The gateway is cut off from Interactive Brokers; `code` is the message's."""

    kind = "gateway.upstream_lost"
    severity = WARNING
    stops_rows = True
    says = "the gateway lost its link to Interactive Brokers ({code}): no rows until it is back"
    code: int


class UpstreamBack(Event):
    """`forgot`: positions and subscriptions are gone on the other side."""

    kind = "gateway.upstream_back"
    stops_rows = False
    code: int
    forgot: bool

    @property
    def text(self) -> str:
        what = "subscribing to everything again" if self.forgot else "carrying on"
        return f"the gateway's link is back ({self.code}): {what}"


class GatewayNotice(Event):
    """The gateway's own words; each is reported once per connection."""

    kind = "gateway.notice"
    severity = WARNING
    says = "gateway notice ({code}: {words})"
    code: int
    words: str


class GatewayRemark(Event):
    """A remark about requests that go on. `contract`: the first few names, or empty."""

    kind = "gateway.remark"
    code: int
    contract: str
    words: str
    contracts: int = 1

    @property
    def text(self) -> str:
        where = f" for {self.contract}" if self.contract else ""
        return f"the gateway says{where}: {self.words} ({self.code})"


class GatewayWarning(GatewayRemark):
    """An objection to a request that is not for market data."""

    kind = "gateway.warning"
    severity = WARNING


class RateLimited(Event):
    """Should not happen: the bridge keeps to the gateway's limits."""

    kind = "gateway.rate_limited"
    severity = WARNING
    says = "the gateway rate-limited us ({code}: {words})"
    code: int
    words: str


class AccountAppeared(Event):
    kind = "account.appeared"
    says = "account {account} has appeared: its positions count too"
    account: str


class AccountGone(Event):
    """The gateway has left it out twice in a row."""

    kind = "account.gone"
    severity = WARNING
    says = "account {account} no longer belongs to this login: its positions no longer count"
    account: str


class AccountsAwaited(Event):
    """Right after a login the gateway's list may lack accounts; `patience_s`: then the service
    ends."""

    kind = "account.awaited"
    severity = WARNING
    says = (
        "IB_ACCOUNT names {missing}, which this login does not list (it lists {listed}): trying "
        "for {patience_s:.0f} s"
    )
    missing: tuple[str, ...]
    listed: tuple[str, ...]
    patience_s: float


class AccountLeftOut(Event):
    """One of the gateway's lists names it, but its positions are refused."""

    kind = "account.left_out"
    severity = WARNING
    says = (
        "the gateway names account {account} but refuses its positions ({reason}): they are not "
        "recorded"
    )
    account: str
    reason: str


class PositionsLacking(Event):
    """Account values say that these accounts hold something."""

    kind = "positions.lacking"
    severity = WARNING
    says = (
        "no positions of {accounts} have arrived, but their position value or margin is not zero: "
        "no rows until they agree"
    )
    accounts: tuple[str, ...]


class PositionsThere(Event):
    kind = "positions.there"
    says = "the positions agree with the account values (after {lasted_s:.0f} s)"
    lasted_s: float


class PositionsUnconfirmed(Event):
    """Account values did not come, or do not say."""

    kind = "positions.unconfirmed"
    severity = WARNING
    says = (
        "account values do not confirm the positions ({reason}): an account without positions "
        "counts as empty"
    )
    reason: str
