"""Account values and positions by request id: what takes nothing from other programs. No socket.

reqAccountSummary (62, cancelled by 63), reqPositionsMulti (74, 75), reqAccountUpdatesMulti (76,
77). Each sends everything first, then what has changed: positions at once, values every three
minutes and when a position changes. reqAccountUpdates (6) is none of these: it takes the owner's
subscription away, so it is refused (`codes`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from trio_bridge.simulator.accounts import BASE, figures, ledger
from trio_bridge.simulator.tws import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_bridge.simulator.book import Holding
    from trio_bridge.simulator.tws.state import Client, GatewayState

ALL: Final = "All"
MOST_SUMMARIES: Final = 2
LEDGER_TAG: Final = "$LEDGER"
LEDGER_ONLY: Final = frozenset({"AccountCode", "NetLiquidation"})
"""What `ledgerAndNLV` leaves of the values that are not the ledger's."""


class SentValue(NamedTuple):
    """One value as it travels."""

    account: str
    key: str
    text: str
    currency: str


class SummaryStream(NamedTuple):
    """One reqAccountSummary."""

    tags: frozenset[str]
    ledgers: frozenset[str]
    """Currencies, or ALL."""


class UpdatesStream(NamedTuple):
    """One reqAccountUpdatesMulti."""

    account: str
    ledger_only: bool


class AccountRequests:
    """Answers one client's requests."""

    def __init__(self, state: GatewayState, client: Client) -> None:
        self._state = state
        self._client = client
        self._positions: dict[int, str] = {}
        self._streams: dict[int, SummaryStream | UpdatesStream] = {}
        self._sent: dict[int, set[SentValue]] = {}
        self._repeating = False
        self.handlers: dict[int, Callable[[list[str]], None]] = {
            62: self._summary,
            63: self._cancel_values,
            74: self._positions_multi,
            75: self._cancel_positions,
            76: self._updates_multi,
            77: self._cancel_values,
        }

    def forget_streams(self) -> None:
        """The gateway lost what the client had asked it to stream (1101)."""
        self._positions.clear()
        self._streams.clear()

    def position_changed(self, holding: Holding) -> None:
        """Report it to every request for this account."""
        for req_id, account in self._positions.items():
            if account in (holding.account, ALL):
                self._client.send(wire.position_multi(req_id, holding))
        self.send_changes()

    def send_changes(self) -> None:
        """Send the values that have changed since they were sent."""
        if not self._state.upstream_lost:
            for req_id in self._streams:
                self._send_changes(req_id)

    # The requests ----------------------------------------------------------------------------

    def _positions_multi(self, fields: list[str]) -> None:
        req_id, account = int(fields[2]), fields[3]
        if not self._knows(req_id, account):
            return
        self._positions[req_id] = account
        late = self._state.quirks.late_positions
        for holding in self._state.book.positions():
            if account in (holding.account, ALL) and holding.account not in late:
                self._client.send(wire.position_multi(req_id, holding))
        self._client.send(wire.position_multi_end(req_id))
        for owner, seconds in late.items():
            if account in (owner, ALL):
                self._state.later(self._client, seconds, partial(self._send_late, req_id, owner))

    def _send_late(self, req_id: int, account: str) -> None:
        if req_id in self._positions:
            for holding in self._state.book.positions(account):
                self._client.send(wire.position_multi(req_id, holding))

    def _cancel_positions(self, fields: list[str]) -> None:
        self._positions.pop(int(fields[2]), None)

    def _updates_multi(self, fields: list[str]) -> None:
        req_id, account = int(fields[2]), fields[3]
        if self._knows(req_id, account):
            ledger_only = len(fields) > 5 and fields[5] in ("1", "True")
            self._open(req_id, UpdatesStream(account, ledger_only))
            self._client.send(wire.account_multi_end(req_id))

    def _summary(self, fields: list[str]) -> None:
        req_id, group, tags = int(fields[2]), fields[3], fields[4].split(",")
        others = [one for one in self._streams.values() if isinstance(one, SummaryStream)]
        if group != ALL:
            self._client.send_error(req_id, 321, f"Invalid account group '{group}'")
        elif self._state.positions_refused:
            self._client.send_error(req_id, 321, "Group All has more than 50 sub-accounts")
        elif len(others) >= MOST_SUMMARIES:
            excess = "Maximum number of account summary requests exceeded"
            self._client.send_error(req_id, 322, excess)
        else:
            ledgers = [tag for tag in tags if tag.startswith(LEDGER_TAG)]
            currencies = (tag.partition(":")[2] or BASE for tag in ledgers)
            self._open(
                req_id,
                SummaryStream(
                    frozenset(tags), frozenset(ALL if one == "ALL" else one for one in currencies)
                ),
            )
            self._client.send(wire.account_summary_end(req_id))

    def _cancel_values(self, fields: list[str]) -> None:
        self._streams.pop(int(fields[2]), None)

    def _knows(self, req_id: int, account: str) -> bool:
        known = account in self._state.book.accounts or (
            account == ALL and not self._state.positions_refused
        )
        if not known:
            self._client.send_error(req_id, 321, f"Invalid account code '{account}'")
        return known

    # Values ----------------------------------------------------------------------------------

    def _open(self, req_id: int, stream: SummaryStream | UpdatesStream) -> None:
        self._streams[req_id] = stream
        self._sent[req_id] = set()
        self._send_changes(req_id)
        if not self._repeating:
            self._repeating = True
            self._client.start(self._repeat)

    async def _repeat(self) -> None:
        while True:
            await trio.sleep(self._state.quirks.account_interval_s)
            self.send_changes()

    def _send_changes(self, req_id: int) -> None:
        stream, sent = self._streams[req_id], self._sent[req_id]
        values = self._summed_up(stream) if isinstance(stream, SummaryStream) else self._all(stream)
        encode = wire.account_summary if isinstance(stream, SummaryStream) else wire.account_multi
        for value in values:
            if value not in sent:
                self._client.send(encode(req_id, *value))
        self._sent[req_id] = set(values)

    def _all(self, stream: UpdatesStream) -> list[SentValue]:
        accounts = self._state.book.accounts if stream.account == ALL else (stream.account,)
        return [
            value
            for account in accounts
            for value in (
                *(
                    one
                    for one in self._figures(account)
                    if not stream.ledger_only or one.key in LEDGER_ONLY
                ),
                *self._ledger(account),
            )
        ]

    def _summed_up(self, stream: SummaryStream) -> list[SentValue]:
        quirks = self._state.quirks
        values = []
        for account in self._state.book.accounts:
            values += [one for one in self._figures(account) if one.key in stream.tags]
            for one in self._ledger(account):
                if not stream.ledgers & {one.currency, ALL}:
                    continue
                rate = one.key == "ExchangeRate" and quirks.ledger_rates_are_one
                values.append(
                    one._replace(
                        key=quirks.ledger_prefix + one.key, text="1.00" if rate else one.text
                    )
                )
        return values

    def _figures(self, account: str) -> list[SentValue]:
        return [
            SentValue(account, one.key, _spelled(one.amount), one.currency)
            for one in figures(self._state.book, account)
        ]

    def _ledger(self, account: str) -> list[SentValue]:
        return [
            SentValue(account, key, text, line.currency)
            for line in ledger(self._state.book, account).values()
            for key, text in (
                ("CashBalance", f"{line.cash:.2f}"),
                ("TotalCashBalance", f"{line.cash:.2f}"),
                ("StockMarketValue", f"{line.stocks:.2f}"),
                ("OptionMarketValue", f"{line.options:.2f}"),
                ("FuturesPNL", f"{line.futures_pnl:.2f}"),
                ("NetLiquidationByCurrency", f"{line.net_liquidation:.2f}"),
                ("UnrealizedPnL", "0.00"),
                ("RealizedPnL", "0.00"),
                ("ExchangeRate", f"{line.exchange_rate:.7g}"),
            )
        ]


def _spelled(amount: float | str) -> str:
    return amount if isinstance(amount, str) else f"{amount:.2f}"
