"""The accounts' money as a test sets it: cash, exchange rates, odd figures. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

CASH: Final = 1_000_000.0
"""Every account's, in the base currency, unless it was set."""


class Money:
    """The part of a book that is neither market nor position; `accounts` makes figures of it."""

    def __init__(self) -> None:
        self.base_currency = "USD"
        self.rates: dict[str, float] = {"USD": 1.0}
        """From each currency to the base currency; one that is missing is not known."""
        self._cash: dict[tuple[str, str], float] = {}
        self._changes: dict[str, dict[str, float | str | None]] = {}

    def cash(self, account: str, currency: str) -> float:
        """An account's cash in one currency."""
        usual = CASH if currency == self.base_currency else 0.0
        return self._cash.get((account, currency), usual)

    def set_cash(self, account: str, currency: str, amount: float) -> None:
        """Let an account have this much in a currency."""
        self._cash[account, currency] = amount

    def currencies(self, account: str) -> list[str]:
        """The base currency, and those in which the account's cash was set."""
        return [self.base_currency, *(name for owner, name in self._cash if owner == account)]

    def changes(self, account: str) -> Mapping[str, float | str | None]:
        """The figures that `set_figures` changed."""
        return self._changes.get(account, {})

    def set_figures(self, account: str, **changes: float | str | None) -> None:
        """Report these values for an account, whatever it holds; None: leave the value out.

        `GrossPositionValue=57_500.0` of an account without positions; `AccountReady="false"`: what
        is reported may be out of date. Without changes, the true values are reported again.
        """
        self._changes[account] = {**self.changes(account), **changes} if changes else {}

    def together(self, amounts: Mapping[str, float]) -> float:
        """Amounts by currency as one.

        A single currency's amount stays as it is; several are summed in the base currency, and are
        NaN where a rate is not known.
        """
        if len(amounts) == 1:
            return next(iter(amounts.values()))
        parts = (amount * self.rates.get(name, math.nan) for name, amount in amounts.items())
        return sum(parts, 0.0)
