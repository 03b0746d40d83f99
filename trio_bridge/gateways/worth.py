"""What each account is worth by its gateway's word, and whether that agrees with its positions.
Pure.

Right after a login a gateway may know of no positions yet, or of one account's only, and calls that
complete. Its account values give it away: an account whose gross position value or margin is not
zero holds something. Both zero: it truly holds nothing.

Keys: https://interactivebrokers.github.io/tws-api/account_values.html; the Client Portal spells
them in lower case.
"""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, assert_never

from trio_bridge.events.gateway import PositionsLacking, PositionsThere, PositionsUnconfirmed
from trio_bridge.gateways.readiness import Reason
from trio_bridge.model import ExchangeRates
from trio_bridge.risk.greeks import LARGEST_CREDIBLE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from trio_bridge.gateways.ongoing import Ongoing
    from trio_bridge.gateways.readiness import Readiness

VALUES_WAIT_S: Final = 20.0
"""How long the first rows wait for account values. A login without the permission to see them must
not go without rows for ever."""

ACCOUNT_WAIT_S: Final = 1.0
"""Added for each account: some gateways have to be asked about them one by one."""

STALE_VALUES_S: Final = 600.0
"""Values that were not told again for this long no longer say anything: two of the gateway's own
rounds of three minutes, and then some."""

SAID_AFTER_S: Final = 5.0
"""Positions that lack for no longer are not worth an event: account values follow a trade."""

RELOADS_AFTER_S: Final = (5.0, 10.0, 20.0, 40.0, 60.0)
"""When positions that lack are requested again: some gateways send them only when asked."""

NET_LIQUIDATION: Final = "netliquidation"
GROSS: Final = "grosspositionvalue"
MARGINS: Final = ("initmarginreq", "maintmarginreq")
FUTURES_MARGIN: Final = "maintmarginreq-c"

LEDGER_PREFIX: Final = "$LEDGER-"
EVERYTHING: Final = "BASE"
"""The ledger's line of all currencies together."""

SMALLEST_AMOUNT: Final = 0.005
"""Amounts come with two decimals."""

MASTERS: Final = ("F", "DF", "I", "DI")
"""How the ids of advisers' and introducing brokers' own accounts begin: the values of such an
account may be those of its clients."""


class Word(Enum):
    """What an account's values say of its positions."""

    SOME = auto()
    NONE = auto()
    UNKNOWN = auto()


class AccountValues:
    """One account's values, as an answer names them; what it leaves out is not known."""

    def __init__(self, account: str, at: float) -> None:
        """`at`: when they were told, on the monotonic clock."""
        self.at = at
        self.base = ""
        """The base currency; empty if it is not known."""
        self._is_master = account.startswith(MASTERS)
        self._is_ready = True
        self._amounts: dict[str, float | None] = {}
        self._rates: dict[str, float | None] = {}
        self._cash: dict[str, float | None] = {}

    def take(self, key: str, value: object, currency: str) -> None:
        """Take one value, of the account or of its ledger; None: the gateway does not know it."""
        match key.removeprefix(LEDGER_PREFIX).lower():
            case _ if currency == EVERYTHING:
                pass
            case "accountready":
                self._is_ready = value not in ("false", False)
            case "exchangerate":
                self._rates[currency] = _amount(value)
            case "cashbalance":
                self._cash[currency] = _amount(value)
            case name:
                if name == NET_LIQUIDATION:
                    self.base = currency
                self._amounts[name] = _amount(value)

    @property
    def of_positions(self) -> Word:
        """Whether there must be some, or can be none.

        Margin may also be required of cash in a foreign currency, so where there is any, only the
        margin of the segment of futures is a sign; and a master's values prove nothing.
        """
        gross = self._amounts.get(GROSS)
        margins = [self._amounts.get(name) for name in MARGINS]
        signs = [gross, self._amounts.get(FUTURES_MARGIN)]
        if not self._has_foreign_cash:
            signs += margins
        if any(map(_is_something, signs)):
            return Word.UNKNOWN if self._is_master else Word.SOME
        known = [amount for amount in margins if amount is not None]
        if not self._is_ready or gross is None or not known or any(map(_is_something, known)):
            return Word.UNKNOWN
        return Word.NONE

    @property
    def rates(self) -> dict[str, float]:
        """What one unit of each currency is worth in the base currency, as far as it is known.

        A ledger that gives 1.0 for every one of several currencies knows none of them.
        """
        if not self._is_ready:
            return {}
        known = {
            currency: rate
            for currency, rate in self._rates.items()
            if rate is not None and rate > 0
        }
        return {} if self.rates_are_all_one else known

    @property
    def rates_are_all_one(self) -> bool:
        """Whether the ledger gives the same rate, 1.0, for several currencies."""
        return len(self._rates) > 1 and set(self._rates.values()) == {1.0}

    @property
    def _has_foreign_cash(self) -> bool:
        return any(
            _is_something(amount)
            for currency, amount in self._cash.items()
            if currency != self.base
        )


def rates_of(values: Iterable[AccountValues]) -> ExchangeRates:
    """The rates of several accounts; none if their base currencies differ, or are not known."""
    values = list(values)
    bases = {one.base for one in values if one.base}
    if len(bases) != 1:
        return ExchangeRates()
    (base,) = bases
    to_base: dict[str, float] = {}
    for one in values:
        to_base = one.rates | to_base
    return ExchangeRates(base, to_base | {base: 1.0})


def fresh(values: Mapping[str, AccountValues], now: float) -> dict[str, AccountValues]:
    """Those that were told recently enough to count, by account."""
    return {name: one for name, one in values.items() if now - one.at < STALE_VALUES_S}


class Agreement:
    """Holds the rows back while account values say that positions are lacking.

    Args:
        readiness: blocked meanwhile.
        said: reports what lasts, once.
    """

    def __init__(self, readiness: Readiness, said: Ongoing) -> None:
        self._readiness = readiness
        self._said = said
        self._wait_until = math.inf
        self._lacking_since = math.inf
        self._reloads = 0
        self._unknown = True
        self.lacking: tuple[str, ...] = ()
        """Accounts whose positions are lacking, by the last judgement."""
        self._open: tuple[str, ...] = ()
        self.start(-math.inf)

    def start(self, now: float, accounts: int = 0) -> None:
        """A download from scratch of so many accounts: the values have to agree with it."""
        self._wait_until = now + VALUES_WAIT_S + accounts * ACCOUNT_WAIT_S
        self._readiness.block(Reason.VALUES_AWAITED)

    def forget(self) -> None:
        """The positions no longer count: the next download starts from nothing."""
        self._lacking_since, self._reloads = math.inf, 0
        self._readiness.clear(Reason.POSITIONS_LACKING)
        self._open = self.lacking = ()
        self.start(-math.inf)

    @property
    def is_reached(self) -> bool:
        """Whether no account lacks positions, as far as is known."""
        return self._lacking_since == math.inf

    @property
    def reload_at(self) -> float:
        """When to request the positions again; infinity: they are not lacking."""
        step = RELOADS_AFTER_S[min(self._reloads, len(RELOADS_AFTER_S) - 1)]
        return self._lacking_since + step

    def doubted(self, now: float) -> tuple[str, ...] | None:
        """Accounts whose values should be asked for soon, because rows wait for them; None: there
        is no hurry."""
        waits = not self.is_reached or (self._unknown and now < self._wait_until)
        return self._open if waits else None

    def reloading(self, now: float) -> None:
        """They are being requested again."""
        self._reloads += 1
        self._lacking_since = now

    def judge(
        self,
        accounts: Iterable[str],
        holding: Collection[str],
        values: Mapping[str, AccountValues],
        now: float,
        *,
        awaited: bool = False,
        why: str = "",
    ) -> None:
        """Compare the positions with the values.

        Args:
            accounts: those that count.
            holding: those of which positions are here.
            values: by account, as far as they have come.
            now: monotonic, seconds.
            awaited: whether values that were asked for have not come.
            why: what the gateway says about that.
        """
        words = {
            account: values[account].of_positions if account in values else Word.UNKNOWN
            for account in accounts
            if account not in holding
        }
        lacking: list[str] = []
        unknown = awaited
        for account, word in words.items():
            match word:
                case Word.SOME:
                    lacking.append(account)
                case Word.UNKNOWN:
                    unknown = True
                    if account in self.lacking and now < self._wait_until:
                        lacking.append(account)  # its values are being asked for again
                case Word.NONE:
                    pass
                case _:
                    assert_never(word)
        self._unknown = unknown
        self._open = tuple(name for name, word in words.items() if word is not Word.NONE)
        self._note_lacking(lacking, now)
        if not unknown:
            self._readiness.clear(Reason.VALUES_AWAITED)
        elif now < self._wait_until:
            self._readiness.block(Reason.VALUES_AWAITED, until=self._wait_until)
        else:
            self._readiness.clear(Reason.VALUES_AWAITED)
            usual = "no answer" if awaited else "the gateway does not know them"
            self._said.once("values", PositionsUnconfirmed(why or usual))

    def _note_lacking(self, accounts: list[str], now: float) -> None:
        self.lacking = tuple(accounts)
        if not accounts:
            self._lacking_since, self._reloads = math.inf, 0
            self._readiness.clear(Reason.POSITIONS_LACKING)
            self._said.end("lacking", PositionsThere)
            return
        self._readiness.block(Reason.POSITIONS_LACKING, ", ".join(accounts))
        if self.is_reached:
            self._lacking_since = now
        if self._reloads or now - self._lacking_since >= SAID_AFTER_S:
            self._said.begin("lacking", PositionsLacking(tuple(accounts)))


def _is_something(amount: float | None) -> bool:
    return amount is not None and abs(amount) >= SMALLEST_AMOUNT


def _amount(raw: object) -> float | None:
    """A finite, credible number, else None: DBL_MAX means that there is none."""
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        return None
    try:
        amount = float(raw)
    except (ValueError, OverflowError):
        return None
    return amount if math.isfinite(amount) and abs(amount) < LARGEST_CREDIBLE else None
