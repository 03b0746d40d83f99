"""The simulated gateway's state and every fault it can be given. See `tws` for the list."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from trio_bridge.simulator.tws_codes import DATA_GOES_ON, LIVE_ONLY_MISSING
from trio_bridge.simulator.tws_ticks import TickFeed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from trio_bridge.simulator.book import Book
    from trio_bridge.simulator.contracts import Contract
    from trio_bridge.simulator.tws_contracts import ContractQuery
    from trio_bridge.simulator.tws_market_data import Subscription
    from trio_bridge.simulator.tws_session import Session

SUB_ACCOUNTS_WITH_POSITIONS: Final = 50
"""A master with more of them is refused reqPositions."""

MARKET_DATA_CODES: Final = frozenset({200, 10186}) | LIVE_ONLY_MISSING | DATA_GOES_ON
OPENING_NOTICES: Final = ((2104, "usfuture"), (2104, "usopt"), (2106, "ushmds"), (2158, "secdefil"))

LEDGER_VARIABLE: Final = "TWS_SIMULATOR_LEDGER"
"""Environment variable: a file to which every violation is added, for a suite that runs simulators
in other processes."""

_log = logging.getLogger(__name__)


class Arrival(Enum):
    """What happens to a client that connects."""

    SERVED = "served"
    SILENCE = "silence"
    CLOSED = "closed"


class Received(NamedTuple):
    """One message from a client; `fields` include the message id. `at` is `trio.current_time`."""

    at: float
    client_id: int | None
    message_id: int
    fields: tuple[str, ...]


class Violation(NamedTuple):
    """Something that a bridge must never do."""

    at: float
    client_id: int | None
    what: str


class BrokenFarm(NamedTuple):
    """A data farm that does not deliver."""

    code: int
    con_ids: frozenset[int]


class TwsControls:
    """State shared by all sessions, and the levers a test pulls. Nothing here waits."""

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
        self.sessions: list[Session] = []
        self.transcript: deque[Received] = deque(maxlen=transcript_size)
        self.violations: list[Violation] = []

        self.lines_used_by_owner = 0
        self.answers_current_time = True
        self.positions_refused = len(book.accounts) > SUB_ACCOUNTS_WITH_POSITIONS
        self.positions_lack: frozenset[str] = frozenset()
        self.download_delay_s = 0.0
        self.refusals: dict[int, int] = {}
        self.upstream_lost = False
        self.competing = False
        self.arrival = Arrival.SERVED
        self._occupied: set[int] = set()
        self._paused: set[int] = set()
        self._broken_farms: dict[str, BrokenFarm] = {}
        self._break_download = False
        self._flow: trio.Event | None = None

    # What sessions ask -----------------------------------------------------------------------

    async def flowing(self) -> None:
        """Wait while the gateway hangs."""
        while self._flow is not None:
            await self._flow.wait()

    def epoch_s(self) -> int:
        """The gateway's clock."""
        return int(time.time())

    def find(self, query: ContractQuery) -> list[Contract]:
        """The listed contracts that fit a client's description."""
        if query.con_id:
            contract = self.book.contracts.get(query.con_id)
            return [] if contract is None else [contract]
        return [contract for contract in self.book.contracts.values() if query.matches(contract)]

    @property
    def lines_in_use(self) -> int:
        """Market-data lines of all API clients and of the owner's own screen."""
        return self.lines_used_by_owner + self.lines_in_use_by_clients

    @property
    def lines_in_use_by_clients(self) -> int:
        """Market-data lines of all API clients."""
        return sum(len(session.market_data.subscriptions) for session in self.sessions)

    @property
    def ticks_stopped(self) -> bool:
        """Whether no market data flow at all."""
        return self.upstream_lost or self._flow is not None

    def ticking(self, subscription: Subscription) -> bool:
        """Whether this subscription gets its updates."""
        return (
            subscription.service.ticks
            and not subscription.dead
            and subscription.con_id not in self._paused
            and not any(subscription.con_id in one.con_ids for one in self._broken_farms.values())
        )

    def client_id_in_use(self, client_id: int) -> bool:
        """Whether another client has this id."""
        return client_id in self._occupied or any(
            session.client_id == client_id for session in self.sessions
        )

    def opening_notices(self) -> list[tuple[int, str]]:
        """What a client is told when it has started."""
        if self.upstream_lost:
            return [(2110, "")]
        broken = [(one.code, farm) for farm, one in self._broken_farms.items()]
        well = [one for one in OPENING_NOTICES if one[1] not in self._broken_farms]
        return broken + well

    def breaks_download(self, sent: int, of: int) -> bool:
        """Whether a download ends here, by a closed connection; only once."""
        if self._break_download and sent >= of // 2:
            self._break_download = False
            return True
        return False

    def record(self, client_id: int | None, message_id: int, fields: list[str]) -> None:
        """Keep a message for the transcript."""
        self.transcript.append(Received(trio.current_time(), client_id, message_id, tuple(fields)))

    def violate(self, client_id: int | None, what: str) -> None:
        """Record what a bridge must never do, loudly."""
        _log.error("VIOLATION by client %s: %s", client_id, what)
        if ledger := os.environ.get(LEDGER_VARIABLE):
            with Path(ledger).open("a") as file:
                file.write(f"{os.getpid()} client {client_id}: {what}\n")
        self.violations.append(Violation(trio.current_time(), client_id, what))

    # What tests look at ----------------------------------------------------------------------

    def received(self, message_id: int) -> list[Received]:
        """The messages of one kind, oldest first."""
        return [one for one in self.transcript if one.message_id == message_id]

    def subscribed(self) -> set[int]:
        """The contracts that any client has a market-data subscription for."""
        return {
            one.con_id
            for session in self.sessions
            for one in session.market_data.subscriptions.values()
        }

    def acknowledge_violations(self) -> list[Violation]:
        """Return the violations and forget them: they were what the test wanted."""
        violations, self.violations[:] = list(self.violations), []
        return violations

    def tick_now(self) -> None:
        """Send every client the book's present values without waiting for the interval."""
        for session in self.sessions:
            session.market_data.tick()

    # Faults: connections ---------------------------------------------------------------------

    def hang(self) -> None:
        """Answer nothing more, on any connection, old or new; connections stay open."""
        if self._flow is None:
            self._flow = trio.Event()

    def unhang(self) -> None:
        """Carry on, with what came in the meantime."""
        if self._flow is not None:
            self._flow.set()
            self._flow = None

    def drop_connections(self, *, reset: bool = False) -> None:
        """Close all connections at once, with a FIN or (reset) a RST."""
        for session in list(self.sessions):
            session.drop(reset=reset)

    def accept_silently(self) -> None:
        """From now on, never say a word to whoever connects."""
        self.arrival = Arrival.SILENCE

    def accept_and_close(self) -> None:
        """From now on, close at once on whoever connects."""
        self.arrival = Arrival.CLOSED

    def accept_normally(self) -> None:
        """Serve whoever connects."""
        self.arrival = Arrival.SERVED

    def break_next_download(self) -> None:
        """Close the connection in the middle of the next download of positions."""
        self._break_download = True

    def occupy_client_id(self, client_id: int) -> None:
        """Let another program have this client id: error 326."""
        self._occupied.add(client_id)

    def free_client_id(self, client_id: int) -> None:
        """The other program has gone."""
        self._occupied.discard(client_id)

    def move_port(self, port: int) -> None:
        """Tell all clients that the port has changed (1300) and close on them."""
        self.notify(1300, str(port))
        for session in self._started():
            session.finish()

    # Faults: upstream ------------------------------------------------------------------------

    def notify(self, code: int, detail: str = "") -> None:
        """Send a notice to all clients; only the words, nothing happens."""
        for session in self._started():
            session.send_error(-1, code, detail)

    def lose_upstream(self, code: int = 1100) -> None:
        """Lose the link to Interactive Brokers (1100, or 2110): ticks and changes stop."""
        self.upstream_lost = True
        self.notify(code)

    def restore_upstream(self, *, data_kept: bool = True) -> None:
        """Get the link back: 1102, or 1101 with all subscriptions really gone."""
        self.upstream_lost = False
        for session in self._started():
            if not data_kept:
                session.market_data.subscriptions.clear()
                session.requests.forget_streams()
            session.send_error(-1, 1102 if data_kept else 1101)
            session.requests.catch_up()

    def break_farm(self, con_ids: Iterable[int], *, farm: str = "usopt", code: int = 2103) -> None:
        """A data farm breaks (2103, or 2105, 2157): these contracts tick no more."""
        self._broken_farms[farm] = BrokenFarm(code, frozenset(con_ids))
        self.notify(code, farm)

    def mend_farm(self, *, farm: str = "usopt", code: int = 2104) -> None:
        """The data farm is well again (2104, or 2106, 2158), and so are its contracts."""
        self._broken_farms.pop(farm, None)
        self.notify(code, farm)
        self._repeat_ticks()

    def pause_ticks(self, con_ids: Iterable[int]) -> None:
        """These contracts tick no more, and nobody says why: nobody trades them."""
        self._paused.update(con_ids)

    def resume_ticks(self) -> None:
        """The paused contracts tick again."""
        self._paused.clear()
        self._repeat_ticks()

    def start_competing_session(self) -> None:
        """The owner logs in elsewhere: 10197 for every subscription, old and new."""
        self.competing = True
        for session in self._started():
            session.market_data.lose_data()

    def end_competing_session(self, *, data_return: bool = False) -> None:
        """The owner has gone; lost subscriptions stay dead unless `data_return`."""
        self.competing = False
        if data_return:
            for session in self._started():
                session.market_data.revive()

    # Faults: market data ---------------------------------------------------------------------

    def refuse_market_data(self, con_ids: Collection[int], code: int) -> None:
        """Answer new requests for these contracts with `code`; subscriptions that stand are kept.

        200, 10186: no data, whatever is asked. 354, 10089, 10091, 10168: no live data; a client
        that asked for delayed data gets it. 10090, 10167: a notice, and data (10167: delayed).
        """
        if code not in MARKET_DATA_CODES:
            raise ValueError(f"{code} is none of {sorted(MARKET_DATA_CODES)}")
        self.refusals.update(dict.fromkeys(con_ids, code))

    def allow_market_data(self) -> None:
        """Refuse nothing any more."""
        self.refusals.clear()

    def _repeat_ticks(self) -> None:
        for session in self.sessions:
            session.market_data.repeat()

    def _started(self) -> list[Session]:
        return [session for session in self.sessions if session.started]
