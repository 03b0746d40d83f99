"""Every fault to inject into the simulated gateway, and what tests inspect; `server` lists both."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_bridge.simulator.tws import wire
from trio_bridge.simulator.tws.codes import DATA_GOES_ON, LIVE_ONLY_MISSING
from trio_bridge.simulator.tws.market_data import Stall
from trio_bridge.simulator.tws.state import Arrival, BrokenFarm, GatewayState, Received, Violation

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from trio_bridge.simulator.book import Book
    from trio_bridge.simulator.tws.session import ClientSession

MARKET_DATA_CODES: Final = frozenset({200, 10186}) | LIVE_ONLY_MISSING | DATA_GOES_ON


class TwsControls(GatewayState):
    """The levers a test pulls. Nothing here waits.

    Keyword arguments: see `GatewayState`.
    """

    def __init__(self, book: Book, **settings: Any) -> None:
        super().__init__(book, **settings)
        self.sessions: list[ClientSession] = []

    @property
    def lines_in_use_by_clients(self) -> int:
        return sum(len(session.market_data.subscriptions) for session in self.sessions)

    def client_id_in_use(self, client_id: int) -> bool:
        return client_id in self._occupied or any(
            session.client_id == client_id for session in self.sessions
        )

    # What tests inspect ----------------------------------------------------------------------

    def received(self, message_id: int) -> list[Received]:
        """The messages of one kind, oldest first."""
        return [one for one in self.transcript if one.message_id == message_id]

    def subscribed(self) -> set[int]:
        """The contracts with a market-data subscription of any client."""
        return {
            one.con_id
            for session in self.sessions
            for one in session.market_data.subscriptions.values()
        }

    def acknowledge_violations(self) -> list[Violation]:
        """Return the violations and forget them: the test expected them."""
        violations, self.violations[:] = list(self.violations), []
        return violations

    def tick_now(self) -> None:
        """Send every client the book's current values without waiting for the interval."""
        for session in self.sessions:
            session.market_data.tick()

    # Faults: connections ---------------------------------------------------------------------

    def hang(self) -> None:
        """Stop responding on every connection, old or new; connections stay open."""
        if self._flow is None:
            self._flow = trio.Event()

    def unhang(self) -> None:
        """Carry on, starting with what arrived in the meantime."""
        if self._flow is not None:
            self._flow.set()
            self._flow = None

    def drop_connections(self, *, reset: bool = False) -> None:
        """Close all connections at once, with a FIN or (reset) a RST."""
        for session in list(self.sessions):
            session.drop(reset=reset)

    def accept_silently(self) -> None:
        """From now on, send nothing to new connections."""
        self.arrival = Arrival.SILENCE

    def accept_and_close(self) -> None:
        """From now on, close new connections at once."""
        self.arrival = Arrival.CLOSED

    def accept_normally(self) -> None:
        """Serve new connections again."""
        self.arrival = Arrival.SERVED

    def break_next_download(self) -> None:
        """Close the connection in the middle of the next download of positions."""
        self._break_download = True

    def occupy_client_id(self, client_id: int) -> None:
        """Let another program have this client id: error 326."""
        self._occupied.add(client_id)

    def free_client_id(self, client_id: int) -> None:
        """The other program disconnects."""
        self._occupied.discard(client_id)

    def move_port(self, port: int) -> None:
        """Notify all clients that the port has changed (1300) and close their connections."""
        self.notify(1300, str(port))
        for session in self._started():
            session.finish()

    # Faults: accounts ------------------------------------------------------------------------

    def hide_account(self, account: str, seconds: float = math.inf) -> None:
        """Leave an account out of the list of accounts for some seconds; nothing else changes."""
        self._unlisted_until[account] = trio.current_time() + seconds

    def list_accounts(self) -> None:
        """Send every client the list of accounts again, unasked."""
        for session in self._started():
            session.send(wire.managed_accounts(self.listed_accounts()))

    def send_account_values(self) -> None:
        """Send the account values that have changed without waiting for the interval."""
        for session in self._started():
            session.requests.send_account_values()

    # Faults: upstream ------------------------------------------------------------------------

    def notify(self, code: int, detail: str = "", *, times: int = 1) -> None:
        """Send a notice to all clients, once or many times; only the text, nothing else happens."""
        for session in self._started():
            for _ in range(times):
                session.send_error(-1, code, detail)

    def lose_upstream(self, code: int = 1100) -> None:
        """Lose the link to Interactive Brokers (1100, or 2110): ticks and changes stop."""
        self.upstream_lost = True
        self.notify(code)

    def restore_upstream(self, *, data_kept: bool = True, silently: bool = False) -> None:
        """Restore the link: 1102, or 1101 with all subscriptions really gone; or neither."""
        self.upstream_lost = False
        for session in self._started():
            if not data_kept:
                session.market_data.subscriptions.clear()
                session.requests.forget_streams()
            if not silently:
                session.send_error(-1, 1102 if data_kept else 1101)
            session.requests.catch_up()

    def break_farm(self, con_ids: Iterable[int], *, farm: str = "usopt", code: int = 2103) -> None:
        """A data farm breaks (2103, or 2105, 2157): these contracts stop ticking."""
        self._broken_farms[farm] = BrokenFarm(code, frozenset(con_ids))
        self.notify(code, farm)

    def mend_farm(self, *, farm: str = "usopt", code: int = 2104) -> None:
        """The data farm works again (2104, or 2106, 2158), and so do its contracts."""
        self._broken_farms.pop(farm, None)
        self.notify(code, farm)
        self._repeat_ticks()

    def pause_ticks(self, con_ids: Iterable[int]) -> None:
        """These contracts stop ticking without a notice, as when they are not traded."""
        self._paused.update(con_ids)

    def resume_ticks(self) -> None:
        """The paused contracts tick again."""
        self._paused.clear()
        self._repeat_ticks()

    def stall_lines(
        self, con_ids: Collection[int] | None = None, *, prices_go_on: bool = False
    ) -> None:
        """Stop the present lines of these contracts, or all, without a word (or send prices only).

        New lines for the same contracts work. To have those dead too, call `pause_ticks` as well.
        """
        stall = Stall.COMPUTATIONS if prices_go_on else Stall.EVERYTHING
        for session in self.sessions:
            session.market_data.stall(con_ids, stall)

    def revive_lines(self) -> None:
        """Let stalled lines go on."""
        for session in self.sessions:
            session.market_data.stall(None, Stall.NOTHING)

    def say_of_lines(self, con_ids: Collection[int], code: int, *, times: int = 1) -> None:
        """Send a code (10089, 10197, …) for present lines; only the text, nothing else happens."""
        for session in self._started():
            for _ in range(times):
                session.market_data.say(con_ids, code)

    def start_competing_session(self) -> None:
        """The owner logs in elsewhere: 10197 for every subscription, old and new."""
        self.competing = True
        for session in self._started():
            session.market_data.lose_data()

    def end_competing_session(self, *, data_return: bool = False) -> None:
        """The owner logs out; lost subscriptions stay dead unless `data_return`."""
        self.competing = False
        if data_return:
            for session in self._started():
                session.market_data.revive()

    # Faults: market data ---------------------------------------------------------------------

    def refuse_market_data(self, con_ids: Collection[int], code: int) -> None:
        """Answer new requests for these contracts with `code`; existing subscriptions are kept.

        200, 10186: no data, whatever is requested. 354, 10089, 10091, 10168: no live data; a client
        that asked for delayed data gets it. 10090, 10167: a notice, and data (10167: delayed).
        """
        if code not in MARKET_DATA_CODES:
            raise ValueError(f"{code} is not one of {sorted(MARKET_DATA_CODES)}")
        self.refusals.update(dict.fromkeys(con_ids, code))

    def allow_market_data(self) -> None:
        """Stop refusing market data."""
        self.refusals.clear()

    def _repeat_ticks(self) -> None:
        for session in self.sessions:
            session.market_data.repeat()

    def _started(self) -> list[ClientSession]:
        return [session for session in self.sessions if session.started]
