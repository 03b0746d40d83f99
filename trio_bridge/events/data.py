"""Events of positions and of their market data."""

from __future__ import annotations

from trio_bridge.events.event import ERROR, WARNING, Event
from trio_bridge.text import count


class FarmDown(Event):
    """Greeks of its options age until it is back. However often it goes, this is said once, until
    it has been back for a minute."""

    kind = "data.farm_down"
    severity = WARNING
    says = "a market data farm is down ({code}: {words})"
    code: int
    words: str


class FarmBack(Event):
    """It has been back for a minute. `lasted_s`: from its first break to its last return."""

    kind = "data.farm_back"
    says = "the market data farm {farm} is back: it was down {times:time} within {lasted_s:.0f} s"
    farm: str
    times: int
    lasted_s: float


class CompetingSession(Event):
    """The owner is logged in elsewhere with live data, which comes first: all lines are silent."""

    kind = "data.competing"
    severity = WARNING
    says = "another session of yours has the market data ({code}): waiting for its end"
    code: int


class CompetingSessionEnded(Event):
    kind = "data.competing_ended"
    says = "the competing session has ended: market data is back"


class LinesTaken(Event):
    """TWS and the bridge share the login's lines, and the bridge yields."""

    kind = "data.lines_taken"
    severity = WARNING
    says = "TWS needs market data lines (101): continuing with {budget}"
    budget: int


class LinesReturned(Event):
    kind = "data.lines_returned"
    says = "TWS has returned its market data lines: continuing with {budget}"
    budget: int


class LinesTooFew(Event):
    """Some options' Greeks become older than the limit before their next turn."""

    kind = "data.lines_too_few"
    severity = WARNING
    says = (
        "{options:option} take turns on {lines:market data line}: Greeks get about {oldest_s:.3g} "
        "s old, and are unpriced beyond {max_age_s:g} s"
    )
    advises = "raise IB_MARKET_DATA_LINES (after quote booster packs) or BRIDGE_GREEKS_MAX_AGE"
    options: int
    lines: int
    oldest_s: float
    max_age_s: float


class LinesEnough(Event):
    kind = "data.lines_enough"
    says = "there are enough market data lines again: {lines} for {options:option}"
    options: int
    lines: int


class NotSubscribed(Event):
    """The gateway said that the login has no subscription for these contracts, and no data came.

    `contract` names the first few, here and below; `contracts` counts all.
    """

    kind = "data.not_subscribed"
    severity = WARNING
    says = "no market data for {contract} ({code}: {words}): unpriced"
    contract: str
    code: int
    words: str
    delayed_tried: bool
    contracts: int = 1

    @property
    def remedy(self) -> str:
        also = "" if self.delayed_tried else ", or set IB_MARKET_DATA_TYPE=3 to take delayed data"
        return f"subscribe to it at Interactive Brokers{also}"


class DataWithheld(Event):
    """The Client Portal has no data that may count for some options; `contracts` are the first."""

    kind = "data.withheld"
    severity = WARNING
    says = "no usable market data for {options:option} ({contracts}): {reason}"
    advises = "{remedy_in_words}"
    options: int
    contracts: tuple[str, ...]
    reason: str
    remedy_in_words: str


class DataUsable(Event):
    """The end of the above, for one reason."""

    kind = "data.usable"
    says = "market data can be used again (for {lasted_s:.0f} s they could not: {reason})"
    reason: str
    lasted_s: float


class ContractUnknown(Event):
    """Mostly they have expired. `tried`: the exchanges; "" is none, the contract's id alone."""

    kind = "data.contract_unknown"
    severity = WARNING
    contract: str
    code: int
    tried: tuple[str, ...]
    contracts: int = 1

    @property
    def text(self) -> str:
        verb = "is" if self.contracts == 1 else "are"
        where = exchanges(self.tried)
        return f"{self.contract} {verb} unknown to the gateway ({self.code} {where}): unpriced"


class ExchangeGivenUp(Event):
    """Positions name an exchange that has no market data for them, and another one has."""

    kind = "data.exchange_given_up"
    contract: str
    code: int
    tried: tuple[str, ...]
    instead: str
    contracts: int = 1

    @property
    def text(self) -> str:
        return (
            f"no market data for {self.contract} {exchanges(self.tried)} ({self.code}): "
            f"they come {exchanges((self.instead,))}"
        )


def exchanges(names: tuple[str, ...]) -> str:
    """`at AMEX, SMART`, `at AMEX, without an exchange`."""
    named = [name for name in names if name]
    bare = ["without an exchange"] if "" in names else []
    return ", ".join([f"at {', '.join(named)}"] * bool(named) + bare)


class DataRefused(Event):
    """For a reason that the bridge does not know."""

    kind = "data.refused"
    severity = ERROR
    says = "the gateway refuses data for {contract} ({code}: {words}): unpriced"
    contract: str
    code: int
    words: str
    contracts: int = 1


class TypeUnknown(Event):
    kind = "positions.unknown_type"
    severity = WARNING
    says = "positions of the unknown type {sec_type!r} add nothing to the Greeks: unpriced"
    sec_type: str


class CurrenciesMixed(Event):
    kind = "positions.mixed_currencies"
    severity = WARNING
    says = (
        "options in {currencies}: vega and theta are in the base currency, at the ledger's "
        "exchange rates, and NULL while one is missing"
    )
    currencies: tuple[str, ...]


class MultipliersUnknown(Event):
    kind = "positions.no_multiplier"
    severity = WARNING
    con_ids: tuple[int, ...]

    @property
    def text(self) -> str:
        return (
            "the gateway does not give the multiplier or the price magnifier of "
            f"{count(len(self.con_ids), 'position')} "
            f"(conid {', '.join(map(str, self.con_ids[:5]))}): unpriced until it does"
        )


class MultipliersKnown(Event):
    kind = "positions.multipliers_known"
    says = "every multiplier is known (after {lasted_s:.0f} s)"
    lasted_s: float
