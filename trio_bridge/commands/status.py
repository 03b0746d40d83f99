"""`status`: how the service is, from itself where it has an endpoint, and in any case what its
database and its spool say."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson
import trio
from rich.table import Table
from rich.text import Text

from trio_bridge.commands.console import STYLES, Console
from trio_bridge.commands.database import present_database
from trio_bridge.commands.endpoint import NoStatusError, ask_service
from trio_bridge.errors import BridgeError
from trio_bridge.events.folding import folded, with_count
from trio_bridge.model import Verdict, utc_now
from trio_bridge.policy.schedule import INTERVALS_ALLOWED
from trio_bridge.risk.verdict import suffices, verdict_of
from trio_bridge.stores.database.conninfo import safe_target
from trio_bridge.stores.reading.summary import read_summary
from trio_bridge.stores.spool.look import look_at_spool
from trio_bridge.stores.spool.ownership import in_words
from trio_bridge.text import count, duration, moment, number, percent, size, uncertain, waiting

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from trio_bridge.config import Settings
    from trio_bridge.rows import PortfolioRow
    from trio_bridge.status import BridgeStatus
    from trio_bridge.stores.reading.summary import Summary
    from trio_bridge.stores.spool.look import SpoolLook

DATABASE_TIMEOUT_S = 10.0
CLOCK_TOLERANCE_S = 2.0
"""The service may run on another machine, whose clock is a little ahead of ours."""
LOOK_BACK = timedelta(hours=24)
NAME_WIDTH = 9
FOLDED_EVENTS = 20
"""How many are read for each line: a run of attempts to connect is one."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The parts; for one that could not be had, `missing` says why, by its name."""

    at: datetime
    interval_s: float
    ready: Verdict
    service: BridgeStatus | None
    database: Summary | None
    target: str
    spool: SpoolLook | None
    missing: Mapping[str, str]

    @property
    def verdict(self) -> Verdict:
        """The last row's; BLIND without one in the last three intervals. The service knows it even
        while the database is down."""
        if self.service is not None:
            return self.service.verdict
        row = self.last_row
        if row is None:
            return Verdict.BLIND
        age_s = (self.at - row.timestamp).total_seconds()
        return Verdict.BLIND if age_s > INTERVALS_ALLOWED * self.interval_s else verdict_of(row)

    @property
    def ahead_s(self) -> float:
        """How far in the future the last row is; 0 when it is not."""
        row = None if self.database is None else self.database.last
        ahead_s = 0.0 if row is None else (row.timestamp - self.at).total_seconds()
        return ahead_s if ahead_s > CLOCK_TOLERANCE_S else 0.0

    @property
    def is_well(self) -> bool:
        """Whether the last row is one that BRIDGE_READY allows, or none is needed of a standby; and
        none is from the future."""
        row = self.last_row
        enough = row is not None and suffices(self.verdict, row.delta, self.ready)
        return (enough or self.verdict is Verdict.STANDBY) and not self.ahead_s

    @property
    def last_row(self) -> PortfolioRow | None:
        if self.service is not None:
            return self.service.ticker.last
        return None if self.database is None else self.database.last


async def run_status(settings: Settings, *, events: int, as_json: bool) -> bool:
    """Show everything; whether there is a row that BRIDGE_READY allows."""
    overview = await _gather(settings, events if as_json else events * FOLDED_EVENTS)
    if as_json:
        print(orjson.dumps(_as_json(overview), default=str).decode())
        return overview.is_well
    console = Console(highlight=False)
    if not console.is_terminal:
        console.soft_wrap = True
    for name, text in _lines(overview):
        _print(console, name, text)
    _print_events(console, overview, events)
    return overview.is_well


async def _gather(settings: Settings, events: int) -> Overview:
    target, database, spool, service = "", None, None, None
    missing = {
        "service": "no endpoint to ask (BRIDGE_STATUS_PORT is not set)",
        "database": f"no answer within {DATABASE_TIMEOUT_S:g} s",
    }
    try:
        conninfo = await present_database(settings)
        target = safe_target(conninfo)
        with trio.move_on_after(DATABASE_TIMEOUT_S):
            database = await read_summary(conninfo, since=utc_now() - LOOK_BACK, events=events)
    except BridgeError as error:
        missing["database"] = str(error)
    try:
        spool = await trio.to_thread.run_sync(look_at_spool, settings.buffer_path)
    except OSError as error:
        missing["spool"] = f"BRIDGE_BUFFER_PATH={in_words(settings.buffer_path, error)}"
    # Last: its age counts from now, and the database may have taken seconds.
    try:
        service = await ask_service(settings)
    except NoStatusError as error:
        missing["service"] = str(error)
    return Overview(
        utc_now(),
        settings.poll_interval_s,
        settings.ready,
        service,
        database,
        target,
        spool,
        missing,
    )


def _lines(overview: Overview) -> list[tuple[str, str]]:
    """Name and text of each line."""
    lines = [("verdict", str(overview.verdict)), *_service_lines(overview), *_row_lines(overview)]
    if overview.service is not None:
        lines += [("", str(defect)) for defect in overview.service.defects]
    if overview.ahead_s:
        text = f"the database holds a row from the future, by {duration(overview.ahead_s)}"
        lines.append(("error", f"{text}: a clock is or was wrong, this machine's or the service's"))
    if overview.database is None:
        text = f"{overview.target}: {overview.missing['database']}".removeprefix(": ")
        lines.append(("database", text))
    else:
        lines.append(("database", overview.target))
        lines.append(("coverage", _coverage(overview.database, overview)))
    spool = overview.missing["spool"] if overview.spool is None else _spool(overview.spool)
    return [*lines, ("spool", spool)]


def _service_lines(overview: Overview) -> list[tuple[str, str]]:
    service = overview.service
    if service is None:
        holder = None if overview.spool is None else overview.spool.holder
        recording = f"{holder} is recording" if holder else "none is recording into this spool"
        return [("service", f"{recording}; {overview.missing['service']}")]
    gateway, storage = service.gateway, service.storage
    up = duration((service.at - service.started_at).total_seconds())
    since = "" if gateway.since is None else f" since {moment(gateway.since)}"
    reason = f" ({gateway.reason})" if gateway.reason else ""
    lines = [
        ("service", f"trio_bridge {service.version}, process {service.pid}, up for {up}"),
        ("gateway", f"{gateway.state} {gateway.endpoint}{since}{reason}"),
        (
            "rows",
            f"{count(service.ticker.rows, 'row')} taken, "
            f"{count(service.ticker.skipped, 'slot')} skipped",
        ),
        ("circuit", f"{storage.breaker}; rows and events committed: {storage.committed:,}"),
    ]
    if service.ticker.silent_because is not None:
        lines.append(("no rows", service.ticker.silent_because))
    lines += _recorder_lines(service)
    if storage.waiting:
        lines.append(("waiting", f"{count(storage.waiting, 'row')} not safe yet"))
    if storage.quarantined or storage.dropped:
        lines.append(("lost", f"{storage.quarantined:,} quarantined, {storage.dropped:,} dropped"))
    return lines


def _recorder_lines(service: BridgeStatus) -> list[tuple[str, str]]:
    about = service.recorder
    if about.resting:
        return [("recorder", about.other or "none is seen; this standby takes over if it stays so")]
    return [("recorder", name) for name in (about.name, about.other) if name is not None]


def _row_lines(overview: Overview) -> list[tuple[str, str]]:
    row = overview.last_row
    if row is None:
        return [("last row", "none")]
    ago_s = (overview.at - row.timestamp).total_seconds()
    is_past = ago_s > -CLOCK_TOLERANCE_S
    age = f"{duration(max(0.0, ago_s))} ago" if is_past else f"{duration(-ago_s)} in the future"
    priced = "" if row.priced is None else f", {row.priced} of {row.positions} priced"
    kind = "" if row.data_type is None else f", {row.data_type}"
    return [
        ("last row", f"{age} ({moment(row.timestamp)}){priced}{kind}"),
        ("", numbers_of(row)),
    ]


def numbers_of(row: PortfolioRow) -> str:
    """A row's Greeks and the price of its underlying."""
    currency = "" if row.currency is None else f" {row.currency}"
    return (
        f"delta {number(row.delta)} gamma {uncertain(row.gamma, row.gamma_error)} "
        f"vega {number(row.vega)} theta {number(row.theta)}{currency}, "
        f"underlying {number(row.underlying_price)}"
    )


def _coverage(summary: Summary, overview: Overview) -> str:
    coverage = summary.coverage(overview.at, overview.interval_s)
    if coverage is None:
        return "no row in the last 24 hours"
    assert summary.first_at is not None
    span = duration((overview.at - summary.first_at).total_seconds())
    partial = summary.right - summary.complete
    text = f"{percent(coverage)} of the last {span} have a valid row"
    return f"{text}; {count(partial, 'row')} without all positions" if partial > 0 else text


def _spool(spool: SpoolLook) -> str:
    text = f"{spool.path}: empty"
    if spool.backlog_bytes:
        rows = waiting(spool.backlog_rows, "row")
        text = f"{spool.path}: {rows} ({size(spool.backlog_bytes)})"
    if spool.quarantined:
        text += f"; {count(spool.quarantined, 'line')} in {spool.quarantine_path.name}"
    return text


def _print(console: Console, name: str, text: str) -> None:
    if not console.is_terminal:
        print(f"{name:{NAME_WIDTH}} {text}".rstrip())
        return
    row = Table.grid(padding=(0, 1, 0, 0))
    row.add_column(width=NAME_WIDTH, style="bold")
    row.add_column(overflow="fold")
    row.add_row(Text(name), Text(text))
    console.print(row)


def _print_events(console: Console, overview: Overview, limit: int) -> None:
    known = overview.database or overview.service
    if known is None or not limit:
        return
    for event, times in folded(known.events)[-limit:]:
        message = with_count(event.message, times)
        text = f"{moment(event.timestamp)} {event.status}: {message}"
        style = STYLES.get(str(event.status), "")
        console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


def _as_json(overview: Overview) -> dict[str, Any]:
    def part(name: str) -> dict[str, Any]:
        value = getattr(overview, name)
        return {"error": overview.missing[name]} if value is None else asdict(value)

    database = part("database")
    if overview.database is not None:
        database["coverage"] = overview.database.coverage(overview.at, overview.interval_s)
    return {
        "at": overview.at,
        "well": overview.is_well,
        "verdict": overview.verdict,
        "ahead_s": overview.ahead_s,
        "service": part("service"),
        "database": {"target": overview.target, **database},
        "spool": part("spool"),
    }
