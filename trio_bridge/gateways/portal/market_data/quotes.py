"""Polls the quotes of what is held: often until every option has answered, rarely while the stream
brings the changes."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from trio_bridge.errors import GatewayError
from trio_bridge.events.data import DataUsable, DataWithheld
from trio_bridge.gateways.portal.values import REQUESTED_FIELDS, Lack, read_con_id, read_objects
from trio_bridge.gateways.portal.wire.pacing import BROKERAGE_ACCOUNTS, SNAPSHOT, SNAPSHOT_CON_IDS
from trio_bridge.policy.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_bridge.gateways.portal.holdings import Memory
    from trio_bridge.gateways.portal.market_data.stream import QuoteStream
    from trio_bridge.gateways.portal.wire.client import PortalClient, Shared

NAMED: Final = 5
"""How many contracts an event names."""

INTRODUCE_AFTER: Final = 2
"""After this many failures the brokerage accounts are requested again, which the gateway expects
first: its session may have been renewed unnoticed."""


class QuoteLoop:
    """Asks for the quotes that one login needs; `run` it once."""

    def __init__(
        self, client: PortalClient, shared: Shared, memory: Memory, stream: QuoteStream
    ) -> None:
        self._client = client
        self._memory = memory
        self._stream = stream
        self._timing = shared.timing
        self._troubles = shared.troubles

    async def run(self) -> NoReturn:
        """Poll until cancelled."""
        backoff = Backoff(self._timing.backoff_s)
        introduced = False
        while True:
            began = trio.current_time()
            if not introduced:
                with suppress(GatewayError):
                    await self._client.ask(BROKERAGE_ACCOUNTS)
                    introduced = True
            if await self._ask_all(self._memory.wanted_con_ids()):
                backoff = backoff.restarted()
                pause_s = self._pause_s()
                self._report_lacks()
            else:
                pause_s = backoff.delay_s
                backoff = backoff.attempted()
                introduced = introduced and backoff.attempts < INTRODUCE_AFTER
            await trio.sleep_until(began + pause_s)

    async def _ask_all(self, con_ids: Sequence[int]) -> bool:
        """Request all quotes once; whether every answer came."""
        failures: list[GatewayError] = []

        async def ask(batch: Sequence[int]) -> None:
            query = {"conids": ",".join(map(str, batch)), "fields": ",".join(REQUESTED_FIELDS)}
            try:
                answer = await self._client.ask(SNAPSHOT, read=read_snapshot, query=query)
            except GatewayError as error:
                failures.append(error)
            else:
                self._memory.take_quotes(answer.value, answer.asked_at)

        async with trio.open_nursery() as nursery:
            for start in range(0, len(con_ids), SNAPSHOT_CON_IDS):
                nursery.start_soon(ask, con_ids[start : start + SNAPSHOT_CON_IDS])
        return not failures

    def _report_lacks(self) -> None:
        """Each reason why data may not count: once, and its end. Not before the options have had
        their time to answer."""
        if not self._memory.is_settled:
            return
        found = self._memory.lacks()
        for lack in Lack:
            if contracts := found.get(lack):
                withheld = DataWithheld(
                    len(contracts), tuple(contracts[:NAMED]), lack.value, lack.remedy
                )
                self._troubles.begin(lack, withheld)
            else:
                self._troubles.end(lack, partial(DataUsable, lack.value))

    def _pause_s(self) -> float:
        if not self._memory.is_settled:
            return self._timing.first_quotes_s
        if self._stream.is_streaming:
            return self._timing.streamed_quotes_s
        return self._timing.quotes_s


def read_snapshot(payload: object) -> list[tuple[int, dict[str, object]]]:
    """The answer of `/iserver/marketdata/snapshot`: each contract's fields.

    Raises:
        ShapeError: it is something else.
    """
    return [
        (con_id, entry)
        for entry in read_objects(payload, "quotes")
        if (con_id := read_con_id(entry.get("conid", entry.get("conidEx")))) is not None
    ]
