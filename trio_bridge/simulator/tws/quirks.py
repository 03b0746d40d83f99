"""Recorded oddities that a simulated gateway shows on request; none by default. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from trio_bridge.simulator.contracts import Contract


class Advice(NamedTuple):
    """What follows the announced kind of data (58) when a contract is subscribed."""

    codes: tuple[int, ...]
    data_type: int
    """The kind announced, and the kind of the ticks that come all the same."""
    ticks: bool = True
    """Whether they come. The line is in use in any case, until it is cancelled."""


@dataclass
class TwsQuirks:
    """A test sets them at any time; they hold for what is asked from then on."""

    # Contracts
    details: dict[int, tuple[Contract, ...]] = field(default_factory=dict)
    """Details requests for this contract id are answered with each of these, in their order."""
    details_delay_s: float = 0.0
    """From a details request to its answer; infinity: none ever comes."""
    position_exchanges: dict[int, str] = field(default_factory=dict)
    """The exchange that a contract's positions name, instead of its own."""
    data_exchanges: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Where market data for a contract are found; elsewhere it is 200. "": without an exchange."""
    advice: dict[int, Advice] = field(default_factory=dict)

    # Positions
    empty_downloads: int = 0
    """This many downloads end without a position; nothing follows until one is asked for again."""
    late_positions: dict[str, float] = field(default_factory=dict)
    """The positions of these accounts come only this many seconds after the download's end."""

    # Account values
    account_interval_s: float = 180.0
    """From one round of changed account values to the next."""
    ledger_prefix: str = ""
    """Before the ledger's keys in a summary: "$LEDGER-" has been seen."""
    ledger_rates_are_one: bool = False
    """A summary gives 1.0 as the exchange rate of every currency."""

    texts: dict[int, str] = field(default_factory=dict)
    """The whole text of a code, instead of the usual one."""
