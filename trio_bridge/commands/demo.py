"""The real bridge on a simulated gateway, with each row shown as it lands in the database.

Nothing of the user's is touched: the database and the buffer file are the demo's own.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from rich import box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trio_bridge.commands.console import STYLES, Console
from trio_bridge.config import Settings, load_settings
from trio_bridge.errors import StoreError
from trio_bridge.logs import configure_logging
from trio_bridge.model import ApiMode
from trio_bridge.service import Service, Stopper, run_service
from trio_bridge.simulator.book import make_book
from trio_bridge.stores.database.conninfo import safe_target
from trio_bridge.stores.embedded.cluster import default_directory
from trio_bridge.stores.reading.landing import LandedRow, Landing
from trio_bridge.text import count, number, size, uncertain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from rich.console import Console as RichConsole
    from rich.console import ConsoleOptions, RenderResult

    from trio_bridge.stores.reading.landing import LandedEvent

LOOK_EVERY_S = 0.25
ROWS_SHOWN = 12
EVENTS_SHOWN = 4
FAREWELL_S = 1.0

DEMO_BUFFER = Path("~/.portfolio_bridge_demo_buffer.jsonl")


COLUMNS: dict[str, Callable[[LandedRow], str]] = {
    "delta": lambda row: number(row.delta),
    "gamma": lambda row: uncertain(row.gamma, row.gamma_error),
    "vega": lambda row: number(row.vega),
    "theta": lambda row: number(row.theta),
    "underlying": lambda row: number(row.underlying_price),
    "priced": lambda row: f"{row.priced}/{row.positions}",
    "age": lambda row: "–" if row.greeks_age_s is None else f"{row.greeks_age_s:.1f} s",
}
DROPPED_FIRST = ("age", "underlying", "gamma", "vega", "theta", "priced")
"""In a narrow terminal."""

WIDEST = 1_000


class View:
    """The last rows and events as a table, and how many there were."""

    def __init__(self) -> None:
        self.rows: deque[LandedRow] = deque(maxlen=ROWS_SHOWN)
        self.events: deque[LandedEvent] = deque(maxlen=EVENTS_SHOWN)
        self.database = ""
        self.row_count = 0
        self.event_count = 0
        self.backlog_bytes = 0
        """What waited for the database when the service had ended."""

    def add(self, rows: list[LandedRow], events: list[LandedEvent]) -> None:
        self.rows.extend(rows)
        self.events.extend(events)
        self.row_count += len(rows)
        self.event_count += len(events)

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        yield self._fitting(console, options)
        for event in self.events:
            yield Text(
                f"{event.timestamp:%H:%M:%S} UTC {event.message}",
                style=STYLES.get(event.status or "", "dim"),
            )

    def _fitting(self, console: RichConsole, options: ConsoleOptions) -> Table:
        """As many columns as there is room for: a number that is cut looks like another number."""
        names, unlimited = list(COLUMNS), options.update(max_width=WIDEST)
        for name in DROPPED_FIRST:
            table = self._table(names)
            if console.measure(table, options=unlimited).maximum <= options.max_width:
                break
            names.remove(name)
        return self._table(names)

    def _table(self, names: Sequence[str]) -> Table:
        title = "portfolio_greeks, as it lands"
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("UTC", min_width=8)
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(f"{row.timestamp:%H:%M:%S}", *(COLUMNS[name](row) for name in names))
        return table


async def run_demo(*, seconds: float | None, mode: ApiMode) -> None:
    """Run simulator, service and view until Ctrl-C, or for this many seconds; then sum up."""
    console = Console()
    configure_logging("error", "console")
    async with AsyncExitStack() as stack:
        settings = await _start_gateway(stack, mode)
        console.print("starting a simulated gateway and a PostgreSQL of the demo's own …")
        view = View()

        async def show(service: Service, stopper: Stopper) -> None:
            view.database = safe_target(service.conninfo)
            landing = Landing(service.conninfo)
            with suppress(StoreError):  # the database or the tables are not there yet
                # The first events may have landed by now.
                await landing.skip_to_end(but=EVENTS_SHOWN)
            look = partial(_look, landing, view, service.started_at)
            try:
                with trio.move_on_after(math.inf if seconds is None else seconds):
                    await _follow(look, console, view)
                stopper.stop()
                await trio.sleep_forever()
            finally:
                view.backlog_bytes = service.delivery.backlog_bytes
                with trio.move_on_after(FAREWELL_S, shield=True):
                    await look()
                landing.close()

        await run_service(settings, show)
    console.print(view)
    console.print(
        f"recorded {count(view.row_count, 'row')} in portfolio_greeks and "
        f"{count(view.event_count, 'event')} in api_logs, in the database {view.database}",
        soft_wrap=True,
    )
    if view.backlog_bytes:
        console.print(
            f"{size(view.backlog_bytes)} of rows and events wait in {settings.buffer_path} for "
            "the database to answer: the next demo stores them",
            soft_wrap=True,
        )


async def _start_gateway(stack: AsyncExitStack, mode: ApiMode) -> Settings:
    own = {
        "ib_api_mode": mode,
        "ib_account": (),
        "buffer_path": DEMO_BUFFER,
        "embedded_dir": default_directory("demo"),
        "database_url": None,
        **dict.fromkeys(("db_host", "db_port", "db_name", "db_user", "db_pass")),
    }
    book = make_book()
    if mode is ApiMode.PORTAL:
        from trio_bridge.simulator.portal.server import open_portal_simulator

        portal = await stack.enter_async_context(open_portal_simulator(book))
        return load_settings(**own, ibkr_gateway_url=portal.url)
    from trio_bridge.simulator.tws.server import open_tws_simulator

    tws = await stack.enter_async_context(open_tws_simulator(book))
    return load_settings(**own, ib_socket_host=tws.host, ib_socket_port=tws.port)


async def _follow(look: Callable[[], Awaitable[None]], console: Console, view: View) -> None:
    with Live(view, console=console, auto_refresh=False, transient=True) as live:
        while True:
            await look()
            live.update(view, refresh=True)
            await trio.sleep(LOOK_EVERY_S)


async def _look(landing: Landing, view: View, since: datetime) -> None:
    with suppress(StoreError):
        rows, events = await landing.look()
        view.add(
            [row for row in rows if row.timestamp >= since],
            [event for event in events if event.timestamp >= since],
        )
