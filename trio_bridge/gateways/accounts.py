"""Which accounts count: those of IB_ACCOUNT, or all that the login manages, including ones added
later. A row that misses an account would look complete and be partial. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_bridge.errors import ConfigError
from trio_bridge.events.gateway import AccountAppeared, AccountGone

if TYPE_CHECKING:
    from collections.abc import Collection

    from trio_bridge.gateways.base import EventSink


ALL: Final = "All"
CONSOLIDATED: Final = ("A", "C")
"""Endings of names that stand for an account together with others: its positions come twice."""


class UnmanagedAccountError(ConfigError):
    """IB_ACCOUNT names accounts that the login's list lacks; right after a login it may be short.

    Attributes:
        missing: those accounts.
        listed: what the list has.
    """

    def __init__(
        self, wanted: Collection[str], missing: Collection[str], listed: Collection[str]
    ) -> None:
        super().__init__(
            f"IB_ACCOUNT={','.join(wanted)}: this login does not manage {', '.join(missing)}; "
            f"it manages {', '.join(sorted(listed))}",
            setting="IB_ACCOUNT",
        )
        self.missing = tuple(missing)
        self.listed = tuple(sorted(listed))


def is_one(name: str, others: Collection[str]) -> bool:
    """Whether a name that a gateway uses is that of an account of its own, and not `All` or the
    consolidated twin of one of the others (`U1234567C`)."""
    twin = name.endswith(CONSOLIDATED) and name[:-1] in others
    return bool(name) and name != ALL and not twin


class Accounts:
    """The accounts of one connection.

    Args:
        wanted: those that the settings name; none for all.
        emit: takes an event for each account that appears or goes during the connection.
    """

    def __init__(self, wanted: tuple[str, ...], emit: EventSink) -> None:
        self.chosen: tuple[str, ...] = ()
        self.are_named = bool(wanted)
        """Whether the settings name them, so that no other account can ever count."""
        self._wanted = wanted
        self._emit = emit
        self._missing: frozenset[str] = frozenset()

    @property
    def are_in_doubt(self) -> bool:
        """Whether the last list lacked an account that counts."""
        return bool(self._missing)

    def managed(self, accounts: Collection[str]) -> None:
        """Take the gateway's list of the accounts that the login manages.

        An account is gone only when two lists in a row lack it: right after a login the gateway may
        not know all of them yet.

        Raises:
            UnmanagedAccountError: the list lacks an account that the settings name.
        """
        if unknown := [account for account in self._wanted if account not in accounts]:
            raise UnmanagedAccountError(self._wanted, unknown, accounts)
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

    def knows(self, name: str) -> bool:
        """Whether a name that stands beside account values is that of an account that counts."""
        return is_one(name, self.chosen) and self.counts(name)

    def counts(self, account: str) -> bool:
        """Whether the positions of this account count; where all do, a new one is added."""
        if account in self.chosen:
            return True
        if self.are_named:
            return False
        self.chosen = tuple(sorted((*self.chosen, account)))
        self._emit(AccountAppeared(account))
        return True
