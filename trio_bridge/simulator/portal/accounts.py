"""The accounts in the portal's words: which lists name them, their summary, their ledger. Pure.

An adviser's login sees its master account in one list, the clients' in another, "All" in a third.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trio_bridge.simulator.accounts import BASE, figures, ledger

if TYPE_CHECKING:
    from collections.abc import Collection

    from trio_bridge.simulator.book import Book

ACCOUNTS: Final = "/portfolio/accounts"
SUB_ACCOUNTS: Final = "/portfolio/subaccounts"
SUB_ACCOUNT_PAGES: Final = "/portfolio/subaccounts2"
BROKERAGE_ACCOUNTS: Final = "/iserver/accounts"
MOST_SUB_ACCOUNTS: Final = 100
SUB_ACCOUNTS_A_PAGE: Final = 20
ALL: Final = "All"
UPDATED_MS: Final = 1_700_000_000_000


class AccountLists:
    """Which accounts each list names."""

    def __init__(self, book: Book) -> None:
        self.master = ""
        """An adviser's own account: alone in `/portfolio/accounts`, and without positions."""
        self.missing: dict[str, set[str]] = {}
        """By path: accounts that this list lacks; clear it and they are there."""
        self.refuses_long_list = False
        """`/portfolio/subaccounts` is an error with more than 100, instead of the first 100."""
        self._book = book

    @property
    def everyone(self) -> tuple[str, ...]:
        """All accounts of the login, the adviser's first."""
        return tuple(dict.fromkeys([*filter(None, [self.master]), *self._book.accounts]))

    def portfolio(self) -> list[dict[str, Any]]:
        """`/portfolio/accounts`."""
        named = (self.master,) if self.master else self._book.accounts
        return [self._entry(one) for one in self._left(ACCOUNTS, named)]

    def sub_accounts(self) -> list[dict[str, Any]] | None:
        """`/portfolio/subaccounts`; None when there are too many."""
        named = self._left(SUB_ACCOUNTS, self.everyone)
        if len(named) > MOST_SUB_ACCOUNTS and self.refuses_long_list:
            return None
        return [self._entry(one) for one in named[:MOST_SUB_ACCOUNTS]]

    def sub_accounts_page(self, page: int) -> dict[str, Any]:
        """`/portfolio/subaccounts2?page=`, from 0 on; the misspelt key is the gateway's own."""
        named = self._left(SUB_ACCOUNT_PAGES, self.everyone)
        start = page * SUB_ACCOUNTS_A_PAGE
        return {
            "metadata": {"total": len(named), "pageSize": SUB_ACCOUNTS_A_PAGE, "pageNume": page},
            "subaccounts": [self._entry(one) for one in named[start : start + SUB_ACCOUNTS_A_PAGE]],
        }

    def brokerage(self) -> dict[str, Any]:
        """`/iserver/accounts`."""
        named = self._left(BROKERAGE_ACCOUNTS, self.everyone)
        everything = [ALL] if self.master else []
        return {
            "accounts": [*named, *everything],
            "selectedAccount": named[0] if named else "",
            "aliases": {},
        }

    def _left(self, path: str, accounts: Collection[str]) -> list[str]:
        return [one for one in accounts if one not in self.missing.get(path, ())]

    def _entry(self, account: str) -> dict[str, Any]:
        return {
            "id": account,
            "accountId": account,
            "accountVan": account,
            "displayName": account,
            "currency": self._book.money.base_currency,
            "type": "DEMO",
            "tradingType": "STKNOPT",
        }


def summary(book: Book, account: str, nulls: Collection[str]) -> dict[str, dict[str, Any]]:
    """`/portfolio/{id}/summary`; the keys of `nulls`, in lower case, are `isNull` with amount 0."""
    entries: dict[str, dict[str, Any]] = {}
    for key, amount, currency in figures(book, account):
        name = key.lower()
        words = isinstance(amount, str)
        null = name in nulls
        entries[name] = {
            "amount": 0.0 if null or words else amount,
            "currency": currency or None,
            "isNull": null,
            "timestamp": UPDATED_MS,
            "value": amount if words and not null else None,
            "severity": 0,
        }
    return entries


def ledgers(book: Book, account: str) -> dict[str, dict[str, Any]]:
    """`/portfolio/{id}/ledger`: one entry for each currency, and BASE."""
    return {
        currency: {
            "acctcode": account,
            "currency": book.money.base_currency if currency == BASE else currency,
            "secondkey": currency,
            "key": "LedgerList",
            "cashbalance": line.cash,
            "settledcash": line.cash,
            "stockmarketvalue": line.stocks,
            "stockoptionmarketvalue": line.options,
            "futuresonlypnl": line.futures_pnl,
            "netliquidationvalue": line.net_liquidation,
            "unrealizedpnl": 0.0,
            "realizedpnl": 0.0,
            "exchangerate": line.exchange_rate,
            "timestamp": UPDATED_MS // 1000,
            "severity": 0,
        }
        for currency, line in ledger(book, account).items()
    }
