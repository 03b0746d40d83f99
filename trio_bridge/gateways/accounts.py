"""Which accounts count: those of IB_ACCOUNT, or all that the login manages, whenever it comes to
manage them. A row that leaves out an account would look whole and be a part. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_bridge.errors import ConfigError
from trio_bridge.events.gateway import AccountAppeared, AccountGone

if TYPE_CHECKING:
    from collections.abc import Collection

    from trio_bridge.gateways.base import EventSink


class Accounts:
    """The accounts of one connection.

    Args:
        wanted: those that the settings name; none for all.
        emit: told of each account that appears or goes while the connection lasts.
    """

    def __init__(self, wanted: tuple[str, ...], emit: EventSink) -> None:
        self.chosen: tuple[str, ...] = ()
        self._wanted = wanted
        self._emit = emit
        self._missing: frozenset[str] = frozenset()

    @property
    def are_named(self) -> bool:
        """Whether the settings name them, so that no other can come to count."""
        return bool(self._wanted)

    @property
    def are_in_doubt(self) -> bool:
        """Whether one that counts was not named the last time."""
        return bool(self._missing)

    def managed(self, accounts: Collection[str]) -> None:
        """The gateway has named the accounts that the login manages.

        One that it no longer names is gone only when it is missing twice in a row: a gateway that
        is just logging in may not know all of them yet.

        Raises:
            ConfigError: one of those that the settings name is not among them.
        """
        if unknown := [account for account in self._wanted if account not in accounts]:
            raise ConfigError(
                f"IB_ACCOUNT={','.join(self._wanted)}: this login does not manage "
                f"{', '.join(unknown)}; it manages {', '.join(sorted(accounts))}",
                setting="IB_ACCOUNT",
            )
        if not self.chosen:
            self.chosen = self._wanted or tuple(sorted(accounts))
            return
        for account in accounts:
            self.counts(account)
        missing = frozenset(self.chosen) - frozenset(accounts)
        gone = missing & self._missing
        self._missing = missing - gone
        self.chosen = tuple(account for account in self.chosen if account not in gone)
        for account in sorted(gone):
            self._emit(AccountGone(account))

    def counts(self, account: str) -> bool:
        """Whether the positions of this account count; one that is new among all is told."""
        if account in self.chosen:
            return True
        if self._wanted:
            return False
        self.chosen = tuple(sorted((*self.chosen, account)))
        self._emit(AccountAppeared(account))
        return True
