"""Can rows get into the database: are it and its tables there, may this user write, and does only
one service record each account?"""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import trio

from trio_bridge.commands.checks.finding import (
    Finding,
    failed,
    ok,
    report_with_rest,
    skipped,
    warning,
)
from trio_bridge.commands.database import find_database
from trio_bridge.errors import ConfigError, OutageError, StoreError
from trio_bridge.model import RecentRow, utc_now
from trio_bridge.policy.doubles import doubled_slots, look_back_s
from trio_bridge.rows import PORTFOLIO_GREEKS
from trio_bridge.stores.database.conninfo import safe_target
from trio_bridge.stores.database.reader import Reader
from trio_bridge.stores.embedded.server import try_out
from trio_bridge.stores.reading.inspection import Inspection
from trio_bridge.stores.reading.summary import newest_row, recent_rows
from trio_bridge.text import count, duration, listed

if TYPE_CHECKING:
    from trio_bridge.commands.checks.finding import Report
    from trio_bridge.config import Settings
    from trio_bridge.stores.reading.inspection import ServerFacts, TableState

CONNECT_TIMEOUT_S = 10.0
LOOK_TIMEOUT_S = 10.0
CLOCK_TOLERANCE_S = 2.0

NAMES = ("database", "schema", "rights", "rows")

NETWORK_REMEDY = (
    "start PostgreSQL there, or correct DATABASE_URL (or DB_HOST, DB_PORT); until then rows wait "
    "in the spool"
)


async def check_database(settings: Settings, report: Report) -> None:
    """Four findings: database, schema, rights, rows."""
    try:
        conninfo = await find_database(settings)
    except ConfigError as error:
        report_with_rest(failed(NAMES[0], error.text, error.remedy), NAMES, report)
        return
    if conninfo is None:
        report(await trio.to_thread.run_sync(_embedded, settings))
        report(skipped("schema", "the service makes it when it starts that PostgreSQL"))
        report(skipped("rights", "not checked"))
        report(skipped("rows", "not checked"))
        return
    inspection = Inspection(conninfo)
    try:
        await _connect(inspection)
    except StoreError as error:
        report_with_rest(_unreachable(conninfo, error), NAMES, report)
    else:
        await _inspect(inspection, conninfo, settings, report)
    finally:
        inspection.close()


def _embedded(settings: Settings) -> Finding:
    """No server is set and ours does not run: can it be started?"""
    try:
        directory, major = try_out(settings.embedded_dir)
    except ConfigError as error:
        return failed("database", error.text, error.remedy)
    text = f"the bridge's own PostgreSQL {major} in {directory}: starts with the service"
    return ok("database", text)


async def _connect(inspection: Inspection) -> None:
    with trio.move_on_after(CONNECT_TIMEOUT_S):
        await inspection.connect()
        return
    raise OutageError(f"no answer within {CONNECT_TIMEOUT_S:g} s")


def _unreachable(conninfo: str, error: StoreError) -> Finding:
    remedy = error.remedy or NETWORK_REMEDY
    return failed("database", f"{safe_target(conninfo)}: {error.text}", remedy)


async def _inspect(
    inspection: Inspection, conninfo: str, settings: Settings, report: Report
) -> None:
    done = 0
    try:
        with trio.fail_after(LOOK_TIMEOUT_S):
            server = await inspection.server(utc_now)
            report(_judge_server(server))
            done = 1
            tables = list((await inspection.tables()).values())
            report(_judge_schema(server, tables))
            done = 2
            complete = [
                table.name for table in tables if not table.missing and not table.statements
            ]
            for name in complete:
                await inspection.try_to_write(name, utc_now())
            report(_judge_rights(server, complete))
            done = 3
            readable = PORTFOLIO_GREEKS.name in complete
            report(await _judge_rows(conninfo if readable else None, settings))
            return
    except StoreError as error:
        found = failed(NAMES[done], error.text, error.remedy)
    except trio.TooSlowError:
        found = failed(NAMES[done], f"the database did not answer within {LOOK_TIMEOUT_S:g} s")
    report_with_rest(found, NAMES, report)


def _judge_server(server: ServerFacts) -> Finding:
    text = f"{server.target}: PostgreSQL {server.version}, {server.round_trip_s * 1000:.1f} ms away"
    if server.is_standby:
        return failed(
            "database",
            f"{text}, but it is a standby, which takes no rows",
            "name the primary in DATABASE_URL, or all hosts and target_session_attrs=read-write",
        )
    if abs(server.clock_ahead_s) > CLOCK_TOLERANCE_S:
        direction = "ahead of" if server.clock_ahead_s > 0 else "behind"
        return warning(
            "database",
            f"{text}; its clock is {abs(server.clock_ahead_s):.1f} s {direction} this machine's",
            "let both follow an NTP server: rows carry this machine's time",
        )
    return ok("database", text)


def _judge_schema(server: ServerFacts, tables: list[TableState]) -> Finding:
    missing = [table.name for table in tables if table.missing]
    if missing and not server.may_create:
        where = "the search path" if server.schema is None else f"the schema {server.schema}"
        return failed(
            "schema",
            f"{listed(missing)} missing, and {server.user} may not make tables in {where}",
            f"as the owner: GRANT CREATE ON SCHEMA {server.schema or 'public'} TO {server.user}",
        )
    incomplete = [table for table in tables if not table.missing and table.statements]
    foreign = [table.name for table in incomplete if not table.owned]
    if foreign:
        return failed(
            "schema",
            f"{listed(foreign)} must be completed, which only the owner may do",
            f"let {server.user} own the table, or run the service once as the owner",
        )
    if missing:
        return ok("schema", f"{listed(missing)} will be made with the first row")
    if incomplete:
        names = listed([table.name for table in incomplete])
        return ok("schema", f"{names} will be completed with the first row; nothing is removed")
    return ok("schema", f"{listed([table.name for table in tables])} are complete")


def _judge_rights(server: ServerFacts, tried: list[str]) -> Finding:
    if not tried:
        return skipped("rights", "nothing to try before the tables are made")
    return ok("rights", f"{server.user} can write to {listed(tried)} (tried, rolled back)")


async def _judge_rows(conninfo: str | None, settings: Settings) -> Finding:
    interval_s = settings.poll_interval_s
    at, back = utc_now(), timedelta(seconds=look_back_s(interval_s))
    newest = None
    rows: list[RecentRow] = []
    if conninfo is not None:
        with closing(Reader(conninfo)) as reader:
            newest = await newest_row(reader)
            rows = await recent_rows(reader, at - back, at + back)
    if newest is not None and (ahead_s := (newest - at).total_seconds()) > CLOCK_TOLERANCE_S:
        return warning(
            "rows",
            f"the last row is from the future, by {duration(ahead_s)}",
            "a clock is or was wrong, this machine's or the service's: let an NTP server keep them",
        )
    if not rows:
        return skipped("rows", f"none in the last {duration(back.total_seconds())}")
    taken = [(row.at, row.accounts) for row in rows]
    doubled = doubled_slots(taken, interval_s, ours=settings.ib_account or None)
    if doubled is not None:
        return warning(
            "rows",
            f"{doubled.slots} of the last slots hold two rows of {', '.join(doubled.accounts)}",
            "two services record into this database: stop one of the two",
        )
    last = duration(back.total_seconds())
    return ok("rows", f"{count(len(rows), 'row')} in the last {last}, no slot has two")
