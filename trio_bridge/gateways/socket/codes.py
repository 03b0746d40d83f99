"""What to do about each TWS API message code: one table, no I/O.

Codes and meanings: Interactive Brokers' "TWS API message codes". Three things that can be lost are
kept apart: the socket, the gateway's upstream link (1100–1102, 2110), and single market-data farms
or subscriptions (everything else).
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Literal, TypeAlias


class Reaction(Enum):
    """What the bridge does about a code."""

    IGNORE = auto()
    """Good news, or no concern of ours."""
    UPSTREAM_LOST = auto()
    """The gateway lost Interactive Brokers: no rows from now on; keep the socket."""
    UPSTREAM_BACK = auto()
    """It is back and kept our subscriptions: carry on."""
    UPSTREAM_BACK_EMPTY = auto()
    """It is back without our subscriptions: subscribe to everything again, reload positions."""
    RECONNECT = auto()
    """This connection can no longer be used."""
    CLIENT_ID_TAKEN = auto()
    """Another client has our id: end the attempt and say what to do."""
    FARM_BROKEN = auto()
    """A market-data farm is down: its Greeks age; tear nothing down, subscribe to nothing again."""
    FARM_WELL = auto()
    """A market-data farm is back."""
    DEFINITIONS_WELL = auto()
    """The gateway can look contracts up again: try the unknown ones again."""
    NOTE = auto()
    """A farm that brings no Greeks is down: report it."""
    PACE = auto()
    """Too many messages: our fault; report it."""
    TOO_MANY_LINES = auto()
    """Fewer market-data lines than we thought: shrink the budget."""
    UNKNOWN_CONTRACT = auto()
    """Ask another exchange, and when all have been asked, give the contract up for a long while."""
    ADVICE = auto()
    """About what the login is subscribed to. Data may come all the same; if none do, ask once more
    for delayed data if the settings allow, else the contract is unpriced."""
    COMPETING_SESSION = auto()
    """No data for this contract; when all lines have got it, the owner uses the market data
    elsewhere: wait until that ends."""
    INVALID_REQUEST = auto()
    """The gateway refused a request: report it with its contract."""
    SUB_ACCOUNTS = auto()
    """No positions for a login with more than 50 sub-accounts: end the attempt, say what to do."""
    REMARK = auto()
    """A warning that is not in the table: report it."""


ContractRefusal: TypeAlias = Literal[
    Reaction.UNKNOWN_CONTRACT, Reaction.ADVICE, Reaction.INVALID_REQUEST
]
"""What is about one contract, and never about all data."""

Refusal: TypeAlias = ContractRefusal | Literal[Reaction.TOO_MANY_LINES, Reaction.COMPETING_SESSION]
"""What may end one contract's subscription."""

REACTIONS: dict[int, Reaction] = {
    100: Reaction.PACE,
    101: Reaction.TOO_MANY_LINES,
    200: Reaction.UNKNOWN_CONTRACT,
    300: Reaction.IGNORE,  # cancelled a subscription that the gateway had ended itself
    321: Reaction.INVALID_REQUEST,
    326: Reaction.CLIENT_ID_TAKEN,
    354: Reaction.ADVICE,
    502: Reaction.RECONNECT,
    504: Reaction.RECONNECT,
    1100: Reaction.UPSTREAM_LOST,
    1101: Reaction.UPSTREAM_BACK_EMPTY,
    1102: Reaction.UPSTREAM_BACK,
    1300: Reaction.RECONNECT,
    2103: Reaction.FARM_BROKEN,
    2104: Reaction.FARM_WELL,
    2105: Reaction.NOTE,  # historical data
    2106: Reaction.IGNORE,
    2107: Reaction.IGNORE,
    2108: Reaction.IGNORE,
    2110: Reaction.UPSTREAM_LOST,
    2119: Reaction.IGNORE,
    2157: Reaction.NOTE,  # contract definitions
    2158: Reaction.DEFINITIONS_WELL,
    10089: Reaction.ADVICE,
    10090: Reaction.ADVICE,
    10091: Reaction.ADVICE,
    10167: Reaction.ADVICE,
    10168: Reaction.ADVICE,
    10186: Reaction.ADVICE,
    10197: Reaction.COMPETING_SESSION,
}

WARNINGS = range(2100, 2200)

SUB_ACCOUNTS_HINT = "subaccount"
"""Part of the text that refuses reqPositions to a master of more than 50 sub-accounts: the refusal
has no code of its own."""

NO_SUCH_CONTRACT = 200


def reaction_to(code: int, text: str = "") -> Reaction:
    """The reaction to a message; a code that is not in the table counts as a refused request."""
    default = Reaction.REMARK if code in WARNINGS else Reaction.INVALID_REQUEST
    reaction = REACTIONS.get(code, default)
    hinted = SUB_ACCOUNTS_HINT in text.lower().replace("-", "")
    if hinted and reaction in (Reaction.REMARK, Reaction.INVALID_REQUEST):
        return Reaction.SUB_ACCOUNTS
    return reaction


def farm_in(text: str) -> str:
    """The farm that a message about one names at its end, `…connection is broken:usopt`."""
    return text.rpartition(":")[2].strip()
