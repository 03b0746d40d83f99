"""The gateway's responses to one client's requests, market data excepted. Knows no socket."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from trio_bridge.simulator.tws import wire
from trio_bridge.simulator.tws.accounts import AccountRequests
from trio_bridge.simulator.tws.contracts import (
    ContractQuery,
    contract_details,
    contract_details_end,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_bridge.simulator.book import Holding
    from trio_bridge.simulator.contracts import Contract
    from trio_bridge.simulator.tws.state import Client, GatewayState

HASTY_S = 0.9
"""A second reqCurrentTime this soon after the first is not answered; the real gateway does the
same."""


class Requests:
    """Answers requests for positions, contracts and the clock; `AccountRequests` has the rest."""

    def __init__(self, state: GatewayState, client: Client) -> None:
        self._state = state
        self._client = client
        self._send = client.send
        self._accounts = AccountRequests(state, client)
        self._wants_positions = False
        self._missed: list[Holding] = []
        self._last_time_request = float("-inf")
        self._unwatch = state.book.watch(self._position_changed)
        self.handlers: dict[int, Callable[[list[str]], None]] = {
            7: self._executions,
            8: self._ids,
            9: self._contract_details,
            14: self._ignore,
            17: self._managed_accounts,
            49: self._current_time,
            61: self._positions,
            64: self._cancel_positions,
            **self._accounts.handlers,
        }

    def close(self) -> None:
        """The client has disconnected."""
        self._unwatch()

    def forget_streams(self) -> None:
        """The gateway lost what the client had asked it to stream (1101)."""
        self._wants_positions = False
        self._missed.clear()
        self._accounts.forget_streams()

    def send_account_values(self) -> None:
        """Send the account values that have changed."""
        self._accounts.send_changes()

    def catch_up(self) -> None:
        """Send what changed while the gateway was cut off from upstream."""
        missed, self._missed = self._missed, []
        for holding in missed:
            self._position_changed(holding)

    def _position_changed(self, holding: Holding) -> None:
        if self._state.upstream_lost:
            self._missed.append(holding)
            return
        if self._wants_positions:
            self._send_position(holding)
        self._accounts.position_changed(holding)

    def _ignore(self, fields: list[str]) -> None:
        """Harmless; needs no response."""

    def _ids(self, fields: list[str]) -> None:
        self._send(wire.next_valid_id(1))

    def _managed_accounts(self, fields: list[str]) -> None:
        self._send(wire.managed_accounts(self._state.listed_accounts()))

    def _executions(self, fields: list[str]) -> None:
        self._send(wire.executions_end(int(fields[2])))

    def _current_time(self, fields: list[str]) -> None:
        now = trio.current_time()
        hasty = now - self._last_time_request < HASTY_S
        self._last_time_request = now
        if self._state.answers_current_time and not hasty:
            self._send(wire.current_time(self._state.epoch_s()))

    # Positions -------------------------------------------------------------------------------

    def _positions(self, fields: list[str]) -> None:
        if self._state.positions_refused:
            # The refusal is documented, its text is not.
            self._client.send_error(
                -1, 321, "Positions info is not available for more than 50 sub-accounts"
            )
            return
        self._wants_positions = True
        self._client.start(self._download)

    async def _download(self) -> None:
        quirks = self._state.quirks
        if quirks.empty_downloads > 0:
            quirks.empty_downloads -= 1
            self._send(wire.position_end())
            return
        late = dict(quirks.late_positions)
        holdings = [one for one in self._state.book.positions() if one.account not in late]
        for number, holding in enumerate(holdings):
            if self._state.breaks_download(number, len(holdings)):
                self._client.finish()
                return
            if self._state.download_delay_s:
                await trio.sleep(self._state.download_delay_s)
            if not self._wants_positions:
                return
            self._send_position(holding)
        self._send(wire.position_end())
        for account, seconds in late.items():
            self._state.later(self._client, seconds, partial(self._send_late, account))

    def _send_late(self, account: str) -> None:
        if self._wants_positions:
            for holding in self._state.book.positions(account):
                self._send_position(holding)

    def _send_position(self, holding: Holding) -> None:
        lacking: dict[str, Any] = dict.fromkeys(self._state.positions_lack)
        if "exchange" in lacking:
            lacking["exchange"] = ""
        exchange = self._state.quirks.position_exchanges.get(holding.contract.con_id)
        if exchange is not None:
            lacking["exchange"] = exchange
        contract = replace(holding.contract, **lacking)
        self._send(wire.position(holding._replace(contract=contract)))

    def _cancel_positions(self, fields: list[str]) -> None:
        self._wants_positions = False

    # Contracts -------------------------------------------------------------------------------

    def _contract_details(self, fields: list[str]) -> None:
        req_id = int(fields[2])
        query = ContractQuery.parse(fields[3:])
        found = self._state.quirks.details.get(query.con_id) or self._state.find(query)
        if not found:
            self._client.send_error(req_id, 200, "")
            return
        answer = partial(self._send_details, req_id, found)
        if delay_s := self._state.quirks.details_delay_s:
            self._state.later(self._client, delay_s, answer)
        else:
            answer()

    def _send_details(self, req_id: int, found: Iterable[Contract]) -> None:
        contracts = self._state.book.contracts
        for contract in found:
            under = contracts.get(contract.under_con_id)
            sec_type = under.sec_type if under else ""
            self._send(contract_details(self._client.version, req_id, contract, sec_type))
        self._send(contract_details_end(req_id))
