"""The gateway's numbered messages, and what an observer must never send. Pure.

Codes: https://interactivebrokers.github.io/tws-api/message_codes.html; texts as gateways send them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

NOTICES: Final = MappingProxyType(
    {
        1100: "Connectivity between IBKR and Trader Workstation has been lost.",
        1101: "Connectivity between IBKR and Trader Workstation has been restored - data lost.",
        1102: "Connectivity between IBKR and Trader Workstation has been restored -"
        " data maintained. All data farms are connected: usopt; ushmds; secdefil.",
        1300: "TWS socket port has been reset and this connection is being dropped."
        " Please reconnect on the new port - {}",
        2103: "Market data farm connection is broken:{}",
        2104: "Market data farm connection is OK:{}",
        2105: "HMDS data farm connection is broken:{}",
        2106: "HMDS data farm connection is OK:{}",
        2107: "HMDS data farm connection is inactive but should be available upon demand.{}",
        2108: "Market data farm connection is inactive but should be available upon demand.{}",
        2110: "Connectivity between Trader Workstation and server is broken."
        " It will be restored automatically.",
        2119: "Market data farm is connecting:{}",
        2157: "Sec-def data farm connection is broken:{}",
        2158: "Sec-def data farm connection is OK:{}",
    }
)
"""Sent without a request; {} stands for the farm or the port."""

ERRORS: Final = MappingProxyType(
    {
        100: "Max rate of messages per second has been exceeded: max=50 rec={}",
        101: "Max number of tickers has been reached",
        200: "No security definition has been found for the request",
        300: "Can't find EId with tickerId:{}",
        320: "Error reading request. {}",
        321: "Error validating request.-'bQ' : cause - {}",
        322: "Error processing request.-'bQ' : cause - {}",
        326: "Unable to connect as the client id is already in use. Retry with a unique client id.",
        354: "Requested market data is not subscribed. Delayed market data is available.",
        10089: "Requested market data requires additional subscription for API."
        " See link in 'Market Data Connections' dialog for more details."
        " Delayed market data is available.",
        10090: "Part of requested market data is not subscribed."
        " Subscription-independent ticks are still active.",
        10091: "Part of requested market data requires additional subscription for API."
        " See link in 'Market Data Connections' dialog for more details."
        " Delayed market data is available.",
        10167: "Requested market data is not subscribed. Displaying delayed market data.",
        10168: "Requested market data is not subscribed. Delayed market data is not enabled.",
        10186: "Requested market data is not subscribed. Delayed market data is not available.",
        10197: "No market data during competing live session",
    }
)
"""Sent in response to a request."""

FORBIDDEN: Final = MappingProxyType(
    {
        3: "placeOrder",
        4: "cancelOrder",
        5: "reqOpenOrders",
        6: "reqAccountUpdates",
        15: "reqAutoOpenOrders",
        16: "reqAllOpenOrders",
        19: "replaceFA",
        21: "exerciseOptions",
        58: "reqGlobalCancel",
        69: "updateDisplayGroup",
        99: "reqCompletedOrders",
        109: "updateConfig",
    }
)
"""Requests that trade, change or take away what the owner sees, or concern orders in any way."""

LIVE_ONLY_MISSING: Final = frozenset({354, 10089, 10091, 10168})
"""Refusals of live data; a client that asked for delayed data gets that, with notice 10167."""

DATA_GOES_ON: Final = frozenset({10090, 10167})
"""Notices that accompany data instead of refusing it."""
