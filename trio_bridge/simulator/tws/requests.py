"""The gateway's responses to one client's requests, market data excepted. Knows no socket."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import trio

from trio_bridge.simulator.tws import wire
from trio_bridge.simulator.tws.contracts import (
    ContractQuery,
    contract_details,
    contract_details_end,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_bridge.simulator.book import Holding
    from trio_bridge.simulator.tws.state import GatewayState

HASTY_S = 0.9
"""A second reqCurrentTime this soon after the first is not answered; the real gateway does the
same."""


class Client(Protocol):
    """The client that sent the requests."""

    version: int

    def send(self, message: bytes) -> None: ...
    def send_error(self, req_id: int, code: int, detail: str = "") -> None: ...
    def start(self, function: Callable[[], Awaitable[Any]]) -> None: ...
    def finish(self) -> None: ...


class Requests:
    """Answers requests for positions, account figures, contracts and the clock."""

    def __init__(self, state: GatewayState, client: Client) -> None:
        self._state = state
        self._client = client
        self._send = client.send
        self._wants_positions = False
        self._wants_account = ""
        self._missed: list[Holding] = []
        self._last_time_request = float("-inf")
        self._unwatch = state.book.watch(self._position_changed)
        self.handlers: dict[int, Callable[[list[str]], None]] = {
            6: self._account_updates,
            7: self._executions,
            8: self._ids,
            9: self._contract_details,
            14: self._ignore,
            17: self._managed_accounts,
            49: self._current_time,
            61: self._positions,
            64: self._cancel_positions,
            74: self._positions_multi,
            75: self._ignore,
            76: self._account_updates_multi,
            77: self._ignore,
        }

    def close(self) -> None:
        """The client has disconnected."""
        self._unwatch()

    def forget_streams(self) -> None:
        """The gateway lost what the client had asked it to stream (1101)."""
        self._wants_positions = False
        self._wants_account = ""
        self._missed.clear()

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
        if self._wants_account == holding.account:
            self._send_portfolio(holding)

    def _ignore(self, fields: list[str]) -> None:
        """Harmless; needs no response."""

    def _ids(self, fields: list[str]) -> None:
        self._send(wire.next_valid_id(1))

    def _managed_accounts(self, fields: list[str]) -> None:
        self._send(wire.managed_accounts(self._state.book.accounts))

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
        holdings = self._state.book.positions()
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

    def _send_position(self, holding: Holding) -> None:
        lacking: dict[str, Any] = dict.fromkeys(self._state.positions_lack)
        if "exchange" in lacking:
            lacking["exchange"] = ""
        contract = replace(holding.contract, **lacking)
        self._send(wire.position(holding._replace(contract=contract)))

    def _cancel_positions(self, fields: list[str]) -> None:
        self._wants_positions = False

    def _positions_multi(self, fields: list[str]) -> None:
        req_id, account = int(fields[2]), fields[3]
        if self._knows(req_id, account):
            for holding in self._state.book.positions(account):
                self._send(wire.position_multi(req_id, holding))
            self._send(wire.position_multi_end(req_id))

    # Accounts --------------------------------------------------------------------------------

    def _account_updates(self, fields: list[str]) -> None:
        subscribe, account = fields[2] == "1", fields[3]
        if not subscribe:
            self._wants_account = ""
            return
        accounts = self._state.book.accounts
        account = account or (accounts[0] if len(accounts) == 1 else "")
        if not self._knows(-1, account):
            return
        self._wants_account = account
        for key, value, currency in self._figures(account):
            self._send(wire.account_value(key, value, currency, account))
        for holding in self._state.book.positions(account):
            self._send_portfolio(holding)
        self._send(wire.account_time("16:00"))
        self._send(wire.account_download_end(account))

    def _account_updates_multi(self, fields: list[str]) -> None:
        req_id, account = int(fields[2]), fields[3]
        if self._knows(req_id, account):
            for key, value, currency in self._figures(account):
                self._send(wire.account_multi(req_id, account, key, value, currency))
            self._send(wire.account_multi_end(req_id))

    def _knows(self, req_id: int, account: str) -> bool:
        known = account in self._state.book.accounts
        if not known:
            self._client.send_error(req_id, 321, f"Invalid account code '{account}'")
        return known

    def _figures(self, account: str) -> list[tuple[str, str, str]]:
        value = sum(
            self._state.book.quote(holding.contract.con_id).last
            * holding.quantity
            * (holding.contract.multiplier or 1.0)
            for holding in self._state.book.positions(account)
            if holding.contract.sec_type != "FUT"
        )
        return [
            ("AccountCode", account, ""),
            ("AccountType", "INDIVIDUAL", ""),
            ("NetLiquidation", f"{1_000_000 + value:.2f}", "USD"),
        ]

    def _send_portfolio(self, holding: Holding) -> None:
        price = self._state.book.quote(holding.contract.con_id).last
        self._send(wire.portfolio(holding, price))

    # Contracts -------------------------------------------------------------------------------

    def _contract_details(self, fields: list[str]) -> None:
        req_id = int(fields[2])
        found = self._state.find(ContractQuery.parse(fields[3:]))
        if not found:
            self._client.send_error(req_id, 200, "")
            return
        contracts = self._state.book.contracts
        for contract in found:
            under = contracts.get(contract.under_con_id)
            sec_type = under.sec_type if under else ""
            self._send(contract_details(self._client.version, req_id, contract, sec_type))
        self._send(contract_details_end(req_id))
