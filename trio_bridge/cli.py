"""The commands, and the only place that knows about exit codes (but for a service that is stuck).

0: finished as asked. 1: a check failed, the service is unhealthy or cannot start just now, a
command could not finish, or the service had to end without a connection that did not. 2: a setting,
file or option can't be used; one line says which. 130: interrupted (the service: a second Ctrl-C
cut its shutdown short). 141: the reader of the output has gone.
"""

from __future__ import annotations

import errno
import os
import sys
from datetime import datetime  # noqa: TC003  # Typer reads the annotations
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import trio
import typer

from trio_bridge.config import load_settings, settings_remarks
from trio_bridge.errors import BridgeError, ConfigError, StartError
from trio_bridge.logs import Log, as_error, configure_logging
from trio_bridge.model import ApiMode, utc_now
from trio_bridge.version import __version__

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TextIO

NAME = "trio-bridge"
"""However it was started: shells complete program names, and `python -m …` has none."""

EXIT_FAILED = 1
EXIT_CONFIG = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The disk is full, or this user's quota or file size limit is used up."""

Result = TypeVar("Result")

app = typer.Typer(
    name=NAME,
    # Boxes and colours are for people at a terminal. ("rich" mode would keep the line breaks of the
    # docstrings here.)
    rich_markup_mode="markdown" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

log = Log()

JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


class Mode(StrEnum):
    SOCKET = "socket"
    PORTAL = "portal"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trio_bridge {__version__}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    epilog="Settings come from the environment, then from .env in the working directory; "
    ".env.example lists them all. Exit codes: 0 as asked, 1 not well, 2 bad setting or option.",
)
def service(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Record the risk of an Interactive Brokers portfolio: one true row of net Greeks every 5
    seconds, nothing lost.

    Without a command this runs the service, until Ctrl-C. Start with the command `demo`, which
    needs nothing; then `check` says whether your own settings would work.
    """
    if context.invoked_subcommand is not None:
        return
    settings = load_settings()
    from trio_bridge.commands.serve import serve

    configure_logging(settings.log_level, settings.log_format)
    for text, remedy in settings_remarks():
        log.warning(text, remedy=remedy)
    if trio.run(serve, settings) > 1:
        raise typer.Exit(EXIT_INTERRUPTED)


@app.command(short_help="Check whether the service would run here, and what is missing.")
def check(
    as_json: JsonOption = False,
    alert: Annotated[
        bool, typer.Option("--alert", help="Also post a test alert to BRIDGE_ALERT_URL.")
    ] = False,
) -> None:
    """Check whether the service would run: settings, spool, database, gateway, market data, page.

    One line each, with a remedy where something is wrong; then the exit code is 1. Nothing is
    changed, and a running service is not disturbed: the gateway is asked under another client id.
    """
    from trio_bridge.commands.check import run_check

    if not _run(run_check, as_json=as_json, try_alert=alert):
        raise typer.Exit(EXIT_FAILED)


@app.command(short_help="Show how the service is doing.")
def status(
    as_json: JsonOption = False,
    events: Annotated[
        int, typer.Option(min=0, max=50, help="How many of the latest events to show.")
    ] = 5,
) -> None:
    """Show how the service is doing: last row, coverage, gateway, database, spool, latest events.

    A running service with BRIDGE_STATUS_PORT is asked directly; what the database and the spool say
    is shown in any case. Exit code 1 if there has been no valid row for three intervals.
    """
    from trio_bridge.commands.status import run_status

    if not _run(run_status, load_settings(), events=events, as_json=as_json):
        raise typer.Exit(EXIT_FAILED)


@app.command(short_help="Show rows and events as they arrive in the database.")
def tail(
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, max=1000, help="Start with this many of each.")
    ] = 10,
    follow: Annotated[bool, typer.Option(help="Continue until Ctrl-C.")] = True,
    events: Annotated[bool, typer.Option(help="Show the events between the rows.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Show rows and events as they arrive in the database, whichever service writes them.

    Outages of the database are waited out. With --json each row and event is one line.
    """
    from trio_bridge.commands.tail import run_tail

    settings = load_settings()
    _run(run_tail, settings, lines=lines, follow=follow, events=events, as_json=as_json)


@app.command(short_help="Move the spool into the database now.")
def flush() -> None:
    """Move the rows that wait in the spool into the database now.

    For use while the service is stopped: a running service does this by itself, and the command
    then refuses. It may be interrupted at any time; nothing is lost or doubled.
    """
    from trio_bridge.commands.flush import run_flush

    if not _run(run_flush, load_settings()):
        raise typer.Exit(EXIT_FAILED)


def _moment(text: str) -> datetime:
    from trio_bridge.commands.export import parse_moment

    try:
        return parse_moment(text, now=utc_now())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.command(short_help="Write rows or events of a time range as CSV or Parquet.")
def export(
    since: Annotated[
        datetime,
        typer.Option(
            "--from",
            parser=_moment,
            metavar="TIME",
            show_default="24 hours ago",
            help="First moment of the range.",
        ),
    ] = "24h",  # type: ignore[assignment]  # parsed like any other value
    until: Annotated[
        datetime,
        typer.Option(
            "--to",
            parser=_moment,
            metavar="TIME",
            show_default="now",
            help="First moment after the range.",
        ),
    ] = "0s",  # type: ignore[assignment]
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="A file; - is standard output.")
    ] = "-",
    events: Annotated[bool, typer.Option("--events", help="Events instead of rows.")] = False,
    kind: Annotated[
        Literal["csv", "parquet"] | None,
        typer.Option("--format", show_default="by FILE's name, else csv", help="File format."),
    ] = None,
) -> None:
    """Write the rows (or events) of a time range as CSV or Parquet.

    TIME is 2026-01-31, 2026-01-31T14:30, 2026-01-31T14:30-05:00 (UTC if no offset is given), or how
    long ago: 90m, 24h, 7d, 4w. The rows are streamed, so a year is no problem; a file appears once
    it is complete. Parquet needs pyarrow, which is not installed by default: pip install pyarrow.
    """
    from trio_bridge.commands.export import run_export
    from trio_bridge.rows import API_LOGS, PORTFOLIO_GREEKS

    table = API_LOGS if events else PORTFOLIO_GREEKS
    _run(run_export, load_settings(), table, since=since, until=until, output=output, kind=kind)


@app.command(short_help="Watch the bridge at work on a simulated gateway.")
def demo(
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after this many seconds.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="Which of the two APIs to demonstrate.")] = Mode.SOCKET,
) -> None:
    """Watch the real bridge at work on a simulated gateway and a database of its own."""
    from trio_bridge.commands.demo import run_demo

    _run(run_demo, seconds=seconds, mode=ApiMode[mode.name])


def _run(command: Callable[..., Awaitable[Result]], *args: Any, **kwargs: Any) -> Result:
    """Run a command to its end; an interruption, or a reader that has gone, is not an error."""
    configure_logging("warning", "console")
    code = 0
    result: list[Result] = []
    try:
        result.append(trio.run(partial(command, *args, **kwargs)))
        sys.stdout.flush()
    except* KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except* BrokenPipeError:
        _let_go_of(sys.stdout)
        code = EXIT_BROKEN_PIPE
    except* OSError as group:
        # Commands report trouble with their own files; this is standard output.
        if group.subgroup(lambda error: isinstance(error, OSError) and error.errno in FULL) is None:
            raise
        _let_go_of(sys.stdout)
        raise BridgeError("standard output: its disk is full") from group
    if code:
        raise typer.Exit(code)
    return result[0]


def _let_go_of(stream: TextIO) -> None:
    """Python flushes once more when it exits, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _drop_what_the_log_did_not_take() -> None:
    """A full disk or a reader that has gone has left lines in the buffer; that is no failure."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except ValueError:
        pass  # it is closed
    except OSError:
        _let_go_of(sys.stderr)


def main() -> None:
    """Entry point: what a user can fix ends in one line, a bug in its traceback."""
    code = 0
    try:
        app(prog_name=NAME)
    except* StartError as group:
        _explain(group)
        code = EXIT_FAILED
    except* ConfigError as group:
        _explain(group)
        code = EXIT_CONFIG
    except* BridgeError as group:
        _explain(group)
        code = EXIT_FAILED
    finally:
        _drop_what_the_log_did_not_take()
    sys.exit(code)


def _explain(group: BaseExceptionGroup[BridgeError]) -> None:
    for line in dict.fromkeys(_texts(group)):
        print(as_error(f"trio_bridge: {line}"), file=sys.stderr)


def _texts(group: BaseExceptionGroup[BridgeError]) -> list[str]:
    found = []
    for error in group.exceptions:
        found += _texts(error) if isinstance(error, BaseExceptionGroup) else [str(error)]
    return found
