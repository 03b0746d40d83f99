"""Keeps the contracts' definitions in memory: requested before a derivative's first quote, and for
multipliers and price magnifiers that the positions lack."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from trio_bridge.errors import GatewayError
from trio_bridge.events.data import MultipliersKnown, MultipliersUnknown
from trio_bridge.gateways.portal.contracts import Definition
from trio_bridge.gateways.portal.health import AnswerError, LoggedOutError, PausedError
from trio_bridge.gateways.portal.positions import NO_SUCH_ENDPOINT
from trio_bridge.gateways.portal.values import (
    ShapeError,
    read_con_id,
    read_objects,
    read_positive,
)
from trio_bridge.gateways.portal.wire.pacing import (
    CONTRACT_INFO,
    CONTRACT_RULES,
    DEFINITION_CON_IDS,
    DEFINITIONS,
)
from trio_bridge.policy.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_bridge.gateways.keys import Product
    from trio_bridge.gateways.portal.holdings import Memory
    from trio_bridge.gateways.portal.wire.client import PortalClient, Shared

RESTART_S: Final = 3.0
"""How long a contract is left alone before its market data start again: the stream checks once a
second what it should end."""


class DefinitionLoop:
    """Asks for the definitions that one login needs; `run` it once."""

    def __init__(self, client: PortalClient, shared: Shared, memory: Memory) -> None:
        self._client = client
        self._memory = memory
        self._holdings = memory.holdings
        self._troubles = shared.troubles
        self._timing = shared.timing
        self._retry_lookup_at: dict[int, float] = {}
        self._retry_rules_at: dict[Product, float] = {}
        self._rules_asked_at: dict[int, float] = {}
        self._defined_at: dict[int, float] = {}

    async def run(self) -> NoReturn:
        """Define what is held, after each download and now and then, until cancelled."""
        backoff = Backoff(self._timing.backoff_s)
        seen = self._memory.downloads
        while True:
            if not backoff.attempts:
                with trio.move_on_after(self._timing.definitions_retry_s):
                    seen = await self._memory.wait_download(seen)
            if silent := self._silent():
                self._holdings.define_again(silent)
                await trio.sleep(RESTART_S)
            defined = await self._define(self._holdings.undefined())
            self._memory.definitions_first = defined
            if defined or backoff.attempts:
                # Missing definitions must not keep multipliers from being requested.
                with suppress(GatewayError):
                    await self._look_up(self._holdings.lacking())
                with suppress(GatewayError):
                    await self._look_up_magnifiers()
            self._report_unknown_multipliers()
            if defined:
                backoff = backoff.restarted()
            else:
                await trio.sleep(backoff.delay_s)
                backoff = backoff.attempted()

    async def _define(self, con_ids: Sequence[int]) -> bool:
        """Request these definitions; whether every answer came."""
        for start in range(0, len(con_ids), DEFINITION_CON_IDS):
            batch = con_ids[start : start + DEFINITION_CON_IDS]
            query = {"conids": ",".join(map(str, batch))}
            try:
                answer = await self._client.ask(DEFINITIONS, read=read_definitions, query=query)
            except GatewayError:
                return False
            self._memory.take_definitions(batch, answer.value)
            self._defined_at.update(dict.fromkeys(batch, trio.current_time()))
        return True

    def _silent(self) -> list[int]:
        """Options without Greeks for a long time, although they were defined.

        The gateway computes some only if their definition was requested before their market data,
        and its session may have been renewed unnoticed since: both are requested once more.
        """
        since = trio.current_time() - self._timing.silent_s
        return [
            con_id
            for con_id in self._holdings.options()
            if max(self._defined_at.get(con_id, math.inf), self._memory.priced_since) < since
            and self._memory.quotes.greeks_at(con_id) < since
        ]

    async def _look_up(self, con_ids: Sequence[int]) -> None:
        """Look up, one by one, contracts whose definition lacked the multiplier."""
        now = trio.current_time()
        for con_id in con_ids:
            if self._retry_lookup_at.get(con_id, -math.inf) > now:
                continue
            self._retry_lookup_at[con_id] = now + self._timing.definitions_retry_s
            try:
                answer = await self._client.ask(
                    CONTRACT_INFO, read=read_contract_info, con_id=con_id
                )
            except (PausedError, LoggedOutError):
                del self._retry_lookup_at[con_id]  # not an answer about the contract
                return
            except AnswerError:
                continue  # some contracts have no info; the others must not wait for them
            self._holdings.learn({con_id: answer.value})

    async def _look_up_magnifiers(self) -> None:
        """Look up the price magnifier of each product, from one of its contracts."""
        now = trio.current_time()
        for product, con_ids in self._holdings.unmagnified().items():
            if self._retry_rules_at.get(product, -math.inf) > now:
                continue
            # Some contracts have no rules, so each time another one is asked about.
            con_id = min(con_ids, key=lambda one: self._rules_asked_at.get(one, -math.inf))
            self._rules_asked_at[con_id] = now
            try:
                answer = await self._client.ask(CONTRACT_RULES, read=read_magnifier, con_id=con_id)
            except (PausedError, LoggedOutError):
                return
            except AnswerError as error:
                self._retry_rules_at[product] = now + self._timing.definitions_retry_s
                by_display = self._holdings.magnification_of(con_id)
                if error.status in NO_SUCH_ENDPOINT and by_display is not None:
                    self._memory.take_magnifier(product, 1.0)
                continue
            self._memory.take_magnifier(product, answer.value)

    def _report_unknown_multipliers(self) -> None:
        lacking = set(self._holdings.lacking())
        looked_up = lacking & self._retry_lookup_at.keys()
        for product, con_ids in self._holdings.unmagnified().items():
            lacking.update(con_ids)
            if product in self._retry_rules_at:
                looked_up.update(con_ids)
        if looked_up:
            self._troubles.begin("multiplier", MultipliersUnknown(tuple(sorted(looked_up))))
        elif not lacking:
            self._troubles.end("multiplier", MultipliersKnown)


def read_definitions(payload: object) -> dict[int, Definition]:
    """The answer of `/trsrv/secdef`, by contract id.

    Raises:
        ShapeError: it is something else.
    """
    if not isinstance(payload, dict):
        raise ShapeError("contract definitions are not an object")
    found = {}
    for entry in read_objects(payload.get("secdef"), "secdef"):
        if (con_id := read_con_id(entry.get("conid"))) is not None:
            found[con_id] = Definition.read(entry, ["assetClass"], ["ticker"], "undConid")
    return found


def read_contract_info(payload: object) -> Definition:
    """The answer of `/iserver/contract/{conid}/info`.

    Raises:
        ShapeError: it is something else.
    """
    if not isinstance(payload, dict):
        raise ShapeError("a contract's info is not an object")
    return Definition.read(payload, ["instrument_type"], ["symbol"], "underlying_con_id")


def read_magnifier(payload: object) -> float:
    """The price magnifier in the answer of `/iserver/contract/{conid}/info-and-rules`; 1 where the
    rules name none, as recorded of contracts that are quoted in their currency.

    Raises:
        ShapeError: it is something else, or the rules say that they could not be had.
    """
    rules = payload.get("rules") if isinstance(payload, dict) else None
    if isinstance(rules, list) and rules:
        rules = rules[0]
    if not isinstance(rules, dict) or ("priceMagnifier" not in rules and rules.get("error")):
        raise ShapeError("a contract has no rules")
    return read_positive(rules.get("priceMagnifier")) or 1.0
