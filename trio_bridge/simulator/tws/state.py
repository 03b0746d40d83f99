"""What all sessions of the simulated gateway share."""

from __future__ import annotations

import logging
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import trio

from trio_bridge.simulator.tws.contracts import valid_exchanges
from trio_bridge.simulator.tws.quirks import TwsQuirks
from trio_bridge.simulator.tws.ticks import TickFeed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_bridge.simulator.book import Book
    from trio_bridge.simulator.contracts import Contract
    from trio_bridge.simulator.tws.contracts import ContractQuery

SUB_ACCOUNTS_WITH_POSITIONS: Final = 50
"""With more sub-accounts than this, a master account's reqPositions is refused."""

OPENING_NOTICES: Final = ((2104, "usfuture"), (2104, "usopt"), (2106, "ushmds"), (2158, "secdefil"))

LEDGER_VARIABLE: Final = "TWS_SIMULATOR_LEDGER"
"""Environment variable: a file to which every violation is appended, for test suites that run
simulators in other processes."""

_log = logging.getLogger(__name__)


class Arrival(Enum):
    """What happens to a client that connects."""

    SERVED = "served"
    SILENCE = "silence"
    CLOSED = "closed"


class Received(NamedTuple):
    """One message from a client; `fields` includes the message id, `at` is `trio.current_time`."""

    at: float
    client_id: int | None
    message_id: int
    fields: tuple[str, ...]


class Violation(NamedTuple):
    """Something that a bridge must never do."""

    at: float
    client_id: int | None
    what: str


class Client(Protocol):
    """Whose requests they are."""

    version: int

    def send(self, message: bytes) -> None: ...
    def send_error(self, req_id: int, code: int, detail: str = "") -> None: ...
    def start(self, function: Callable[[], Awaitable[Any]]) -> None: ...
    def finish(self) -> None: ...


class BrokenFarm(NamedTuple):
    """A data farm that does not deliver."""

    code: int
    con_ids: frozenset[int]


class GatewayState(ABC):
    """What all sessions share. Only `flowing` waits."""

    def __init__(
        self,
        book: Book,
        *,
        server_version: int = 178,
        market_data_lines: int = 100,
        tick_interval_s: float = 1.0,
        first_tick_delay_s: float = 0.0,
        snapshot_s: float = 0.2,
        transcript_size: int = 50_000,
    ) -> None:
        self.book = book
        self.feed = TickFeed(book)
        self.server_version = server_version
        self.market_data_lines = market_data_lines
        self.tick_interval_s = tick_interval_s
        self.first_tick_delay_s = first_tick_delay_s
        self.snapshot_s = snapshot_s
        self.transcript: deque[Received] = deque(maxlen=transcript_size)
        self.violations: list[Violation] = []

        self.quirks = TwsQuirks()
        self.lines_used_by_owner = 0
        self.answers_current_time = True
        self.positions_refused = len(book.accounts) > SUB_ACCOUNTS_WITH_POSITIONS
        self.positions_lack: frozenset[str] = frozenset()
        self.download_delay_s = 0.0
        self.refusals: dict[int, int] = {}
        self.upstream_lost = False
        self.competing = False
        self.arrival = Arrival.SERVED
        self._unlisted_until: dict[str, float] = {}
        self._occupied: set[int] = set()
        self._paused: set[int] = set()
        self._broken_farms: dict[str, BrokenFarm] = {}
        self._break_download = False
        self._flow: trio.Event | None = None

    async def flowing(self) -> None:
        """Wait while the gateway hangs."""
        while self._flow is not None:
            await self._flow.wait()

    def epoch_s(self) -> int:
        """The gateway's clock."""
        return int(time.time())

    def listed_accounts(self) -> tuple[str, ...]:
        """The account ids that clients are given."""
        now = trio.current_time()
        return tuple(one for one in self.book.accounts if self._unlisted_until.get(one, now) <= now)

    def later(self, client: Client, seconds: float, function: Callable[[], None]) -> None:
        """Do something for a client after a while, if it is still there."""

        async def wait_and_do() -> None:
            await trio.sleep(seconds)
            function()

        client.start(wait_and_do)

    def data_exchanges(self, contract: Contract) -> tuple[str, ...]:
        """Where market data for the contract are found."""
        return self.quirks.data_exchanges.get(contract.con_id, valid_exchanges(contract))

    def find(self, query: ContractQuery) -> list[Contract]:
        """The listed contracts that match a client's description."""
        if query.con_id:
            contract = self.book.contracts.get(query.con_id)
            return [] if contract is None else [contract]
        return [contract for contract in self.book.contracts.values() if query.matches(contract)]

    @property
    def lines_in_use(self) -> int:
        """Market-data lines used by all API clients and the owner's own screen."""
        return self.lines_used_by_owner + self.lines_in_use_by_clients

    @property
    @abstractmethod
    def lines_in_use_by_clients(self) -> int:
        """Market-data lines used by all API clients."""

    @property
    def ticks_stopped(self) -> bool:
        """Whether market data has stopped for everyone."""
        return self.upstream_lost or self._flow is not None

    def is_silent(self, con_id: int) -> bool:
        """Whether this contract gets no updates: it is paused, or its farm is broken."""
        return con_id in self._paused or any(
            con_id in one.con_ids for one in self._broken_farms.values()
        )

    @abstractmethod
    def client_id_in_use(self, client_id: int) -> bool:
        """Whether another client has this id."""

    def opening_notices(self) -> list[tuple[int, str]]:
        """The notices that a client gets once it has started."""
        if self.upstream_lost:
            return [(2110, "")]
        broken = [(one.code, farm) for farm, one in self._broken_farms.items()]
        well = [one for one in OPENING_NOTICES if one[1] not in self._broken_farms]
        return broken + well

    def breaks_download(self, sent: int, of: int) -> bool:
        """Whether to close the connection at this point of a download; only once."""
        if self._break_download and sent >= of // 2:
            self._break_download = False
            return True
        return False

    def record(self, client_id: int | None, message_id: int, fields: list[str]) -> None:
        """Add a message to the transcript."""
        self.transcript.append(Received(trio.current_time(), client_id, message_id, tuple(fields)))

    def violate(self, client_id: int | None, what: str) -> None:
        """Record something that a bridge must never do, and log it as an error."""
        _log.error("VIOLATION by client %s: %s", client_id, what)
        if ledger := os.environ.get(LEDGER_VARIABLE):
            with Path(ledger).open("a") as file:
                file.write(f"{os.getpid()} client {client_id}: {what}\n")
        self.violations.append(Violation(trio.current_time(), client_id, what))
