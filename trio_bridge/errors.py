"""Errors that a user or another module can act on. Anything else is a bug and crashes loudly."""

from __future__ import annotations

from typing import ClassVar

from trio_bridge.text import LONGEST_QUOTE, clean


class BridgeError(Exception):
    """Base of all errors that the bridge expects; `str()` is one line for a person to read.

    Attributes:
        text: what is wrong.
        setting: the one that is at fault or decides about it; empty when none does.
        remedy: what a person can do about it; empty when the text says it, or nobody can.

    Texts quote gateways, servers and libraries, so they are cleaned here (`text.clean`).
    """

    longest: ClassVar[int] = 4_000
    """Characters of the text: room for every setting that is wrong."""

    def __init__(self, text: str, *, setting: str = "", remedy: str = "") -> None:
        text = clean(text, self.longest)
        super().__init__(f"{text}: {remedy}" if remedy else text)
        self.text = text
        self.setting = setting
        self.remedy = remedy


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group and in its groups; an error that is not a group is its only leaf."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for one in error.exceptions for leaf in leaves(one)]


class ConfigError(BridgeError, ValueError):
    """A setting or file cannot be used: the text names it and its value."""


class StartError(ConfigError):
    """The environment keeps the service from starting; this may pass by itself, so try again."""


class GatewayError(BridgeError):
    """The gateway could not be reached, refused us, or was lost; the text says why."""

    longest = LONGEST_QUOTE


class StoreError(BridgeError):
    """Base of the database's errors."""

    longest = LONGEST_QUOTE


class OutageError(StoreError):
    """The database cannot accept rows now; the outcome of the last write is unknown. Try later."""


class UnclearError(OutageError):
    """The database refuses these rows, and it may be one of them that it will never accept."""

    def __init__(self, text: str, *, sqlstate: str, remedy: str = "") -> None:
        super().__init__(text, remedy=remedy)
        self.sqlstate = sqlstate


class UnreachableError(OutageError):
    """There is no connection to the database: nothing was sent to it."""


class SchemaMissingError(StoreError):
    """A table or column is missing: run `ensure_bridge_schema` and try again."""


class ServerChangedError(StoreError):
    """Another server answers than the one that took the last rows, or it was started again: it may
    lack some of them."""


class RowRejectedError(StoreError):
    """The database will never accept one of these rows (SQLSTATE classes 22 and 23)."""

    def __init__(self, message: str, *, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class SpoolError(BridgeError):
    """The spool file could not be written; no part of the last append counts as safe."""
