"""`tail`: rows and events on the terminal, as they land in the database."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import orjson
import trio
from rich.text import Text

from trio_bridge.commands.console import STYLES, Console
from trio_bridge.commands.database import present_database
from trio_bridge.errors import OutageError, StoreError
from trio_bridge.events.folding import folded, with_count
from trio_bridge.model import Verdict
from trio_bridge.risk.verdict import verdict_of
from trio_bridge.stores.reading.landing import LandedRow, Landing
from trio_bridge.text import number, uncertain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from trio_bridge.config import Settings
    from trio_bridge.stores.reading.landing import LandedEvent

LOOK_EVERY_S = 0.5
LOOK_TIMEOUT_S = 10.0
RETRY_S = 5.0

HEADER = (
    f"{'UTC':8} {'delta':>12} {'gamma':>10} {'vega':>12} {'theta':>12} {'underlying':>11} "
    f"{'priced':>7}"
)


async def run_tail(
    settings: Settings, *, lines: int, follow: bool, events: bool, as_json: bool
) -> None:
    """Show the last rows and events, then new ones, until cancelled.

    Raises:
        ConfigError: there is no database to read.
        StoreError: it can't be read now, and `follow` is off.
    """
    landing = Landing(await present_database(settings))
    screen = Screen(events=events, as_json=as_json)
    try:
        started = False
        while True:
            try:
                with _no_longer_than(LOOK_TIMEOUT_S):
                    if not started:
                        await landing.skip_to_end(but=lines)
                        started = True
                    screen.show(*await landing.look())
            except StoreError as error:
                if not follow:
                    raise
                landing.close()
                print(f"{error}; trying again", file=sys.stderr)
                await trio.sleep(RETRY_S)
                continue
            if not follow:
                return
            await trio.sleep(LOOK_EVERY_S)
    finally:
        landing.close()


@contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise OutageError(f"no answer from the database within {seconds:g} s") from None


class Screen:
    """Prints what has landed in the order of its time."""

    def __init__(self, *, events: bool, as_json: bool) -> None:
        self._events = events
        self._as_json = as_json
        self._day: date | None = None
        self._console = Console(highlight=False, soft_wrap=True)

    def show(self, rows: list[LandedRow], events: list[LandedEvent]) -> None:
        landed: list[LandedRow | LandedEvent] = [*rows, *(events if self._events else ())]
        landed.sort(key=lambda one: one.timestamp)
        if self._as_json:
            for one in landed:
                print(orjson.dumps(one).decode())
        else:
            for one, times in folded(landed):
                self._print(one, times)
        sys.stdout.flush()

    def _print(self, one: LandedRow | LandedEvent, times: int) -> None:
        if self._day != (day := one.timestamp.date()):
            self._day = day
            self._console.print(Text(f"{day} UTC", style="bold"))
            self._console.print(Text(HEADER, style="dim"))
        if isinstance(one, LandedRow):
            self._console.print(Text(row_line(one)))
        else:
            message = with_count(one.message, times)
            text = f"{one.timestamp:%H:%M:%S} {one.status}: {message}"
            self._console.print(Text(text, style=STYLES.get(one.status or "", "")))


def row_line(row: LandedRow) -> str:
    """A row in 79 characters, and what is wrong with it behind them."""
    verdict = verdict_of(row)
    priced = "–" if row.priced is None else f"{row.priced}/{row.positions}"
    return (
        f"{row.timestamp:%H:%M:%S} {number(row.delta):>12} "
        f"{uncertain(row.gamma, row.gamma_error):>10} "
        f"{number(row.vega):>12} {number(row.theta):>12} {number(row.underlying_price):>11} "
        f"{priced:>7}{'' if verdict is Verdict.COMPLETE else f' {verdict}'}"
    )
