"""A simulated TWS / IB Gateway: one book behind the TWS API's wire protocol, on TCP.

    book = make_book()
    async with open_tws_simulator(book) as sim:
        ...connect any TWS API client to 127.0.0.1, sim.port...

or, as a process that prints `listening on 127.0.0.1:4001` when it is ready:

    python -m trio_bridge.simulator.tws --port 4001

It serves clients of protocol versions 157 to 178, many at a time, and enforces the real gateway's
limits: 50 messages a second (100), 100 market-data lines for all clients and the owner together
(101), an exchange on every market-data request (321), unique client ids (326), delayed data only
for clients that asked for it, reqCurrentTime not twice a second, positions for at most 50
sub-accounts.

**It refuses what an observer must never send**: anything about orders, reqAccountUpdates (6: it
takes the owner's subscription away), client id 0, more than 50 messages a second. Each violation
is answered, logged, kept in `sim.violations`, and ends the connection (except for pacing). Leaving
`open_tws_simulator` with violations raises `SimulatorViolation`, unless the test has called
`acknowledge_violations()`.

To inspect: `transcript`, `received(message_id)`, `violations`, `sessions`, `subscribed()`,
`lines_in_use`, `lines_in_use_by_clients`.

The faults, all plain methods and attributes of the simulator:

==================  ==============================================================================
the socket          stop_listening, start_listening (same port), drop_connections(reset=…), hang,
                    unhang, accept_silently, accept_and_close, accept_normally, move_port (1300)
the start           occupy_client_id, free_client_id (326), break_next_download, download_delay_s,
                    positions_refused, positions_lack (of "exchange", "multiplier"),
                    quirks.empty_downloads, quirks.late_positions, hide_account, list_accounts,
                    server_version (below 157: too old)
accounts            book.money (figures, cash, rates), send_account_values,
                    quirks.account_interval_s, quirks.ledger_prefix, quirks.ledger_rates_are_one
liveness            answers_current_time
upstream            lose_upstream (1100, 2110), restore_upstream (1102; 1101 with data_kept=False;
                    neither with silently=True), break_farm (2103, 2105, 2157), mend_farm,
                    notify (any code, text only; times=180 for a flood), quirks.texts
contracts           quirks.details (several answers), quirks.details_delay_s (late, or never),
                    quirks.position_exchanges, quirks.data_exchanges (elsewhere 200)
market data         refuse_market_data (200, 354, 10089, 10090, 10091, 10167, 10168, 10186),
                    allow_market_data, start_competing_session, end_competing_session (10197),
                    lines_used_by_owner, pause_ticks, resume_ticks, first_tick_delay_s, tick_now,
                    stall_lines, revive_lines (new ones work), say_of_lines (any code, text
                    only), quirks.advice (58, then codes, then ticks all the same)
the book            freeze, thaw, set_position; market.override (sentinels, impossible values),
                    market.silence_greeks, market.set_data_type, market.end_trading (expired),
                    market.change_contract (multiplier, price_magnifier, …), listings.list_corn
                    (quoted in cents), listings.list_nikkei (in yen); see `book`, `market`
==================  ==============================================================================
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from trio_bridge.simulator.tws.controls import TwsControls
from trio_bridge.simulator.tws.session import ClientSession
from trio_bridge.simulator.tws.state import Arrival

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_bridge.simulator.book import Book

LOOPBACK = "127.0.0.1"


class SimulatorViolation(AssertionError):
    """A client did something that an observer must never do."""


class TwsSimulator(TwsControls):
    """The server. Keyword arguments: see `TwsControls`."""

    def __init__(self, book: Book, *, host: str = LOOPBACK, port: int = 0, **settings: Any) -> None:
        super().__init__(book, **settings)
        self.host = host
        self.port = port
        self._listener: trio.SocketListener | None = None
        self._nursery: trio.Nursery | None = None

    async def serve(
        self, task_status: trio.TaskStatus[TwsSimulator] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen and serve until cancelled; reports started once `port` is known.

        Raises:
            OSError: the port is taken.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self.start_listening()
                task_status.started(self)
                await trio.sleep_forever()
        finally:
            self.stop_listening()

    async def start_listening(self) -> None:
        """Listen; after `stop_listening`, on the same port as before."""
        if self._listener is not None:
            return
        assert self._nursery is not None, "serve first"
        self._listener = (await trio.open_tcp_listeners(self.port, host=self.host))[0]
        self.port = self._listener.socket.getsockname()[1]
        self._nursery.start_soon(self._accept, self._listener)

    def stop_listening(self) -> None:
        """Refuse new connections from now on; existing ones are kept."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.socket.close()

    async def _accept(self, listener: trio.SocketListener) -> None:
        assert self._nursery is not None
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            self._nursery.start_soon(self._serve_client, stream)

    async def _serve_client(self, stream: trio.SocketStream) -> None:
        if self.arrival is Arrival.CLOSED:
            stream.socket.close()
            return
        if self.arrival is Arrival.SILENCE:
            await _listen_in_silence(stream)
            return
        session = ClientSession(self, stream)
        self.sessions.append(session)
        try:
            await session.run()
        finally:
            self.sessions.remove(session)


async def _listen_in_silence(stream: trio.SocketStream) -> None:
    async with stream:
        try:
            async for _ in stream:
                pass
        except trio.BrokenResourceError:
            pass


@asynccontextmanager
async def open_tws_simulator(
    book: Book, *, host: str = LOOPBACK, port: int = 0, **settings: Any
) -> AsyncIterator[TwsSimulator]:
    """Serve the book while the block runs.

    Raises:
        SimulatorViolation: at the end, if a client did something forbidden.
    """
    sim = TwsSimulator(book, host=host, port=port, **settings)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(sim.serve)
        try:
            yield sim
        except Exception as error:
            # Kept out of the nursery, which would wrap it in a group.
            failure = error
        nursery.cancel_scope.cancel()
    violations = "; ".join(one.what for one in sim.violations)
    if failure is not None:
        if violations:
            failure.add_note(f"the simulator saw what a bridge must never do: {violations}")
        raise failure
    if violations:
        raise SimulatorViolation(violations)
