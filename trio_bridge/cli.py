"""The commands, and the only place that knows about exit codes.

0: ended as asked. 1: a check failed. 2: a setting or a file can't be used; one line says which.
130: a second Ctrl-C cut the goodbye short.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from functools import partial
from typing import Annotated

import trio
import typer

from trio_bridge import __version__
from trio_bridge.config import load_settings
from trio_bridge.errors import ConfigError
from trio_bridge.logs import configure_logging
from trio_bridge.model import ApiMode

EXIT_CONFIG = 2
EXIT_CUT_SHORT = 130

app = typer.Typer(
    name="trio-bridge",
    help="Records the risk of an Interactive Brokers portfolio: one true row of net Greeks every "
    "5 seconds, nothing lost. Without a command it runs the service.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Mode(StrEnum):
    SOCKET = "socket"
    PORTAL = "portal"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trio_bridge {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def service(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Run the service with the settings of the environment and .env, until Ctrl-C."""
    if context.invoked_subcommand is not None:
        return
    from trio_bridge.commands.serve import serve

    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    if trio.run(serve, settings) > 1:
        raise typer.Exit(EXIT_CUT_SHORT)


@app.command()
def demo(
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="End by itself after so many seconds.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="Which of the two APIs to demonstrate.")] = Mode.SOCKET,
) -> None:
    """Watch the real bridge at work on a simulated gateway and a database of its own."""
    from trio_bridge.demo import run_demo

    trio.run(partial(run_demo, seconds=seconds, mode=ApiMode[mode.name]))


def main() -> None:
    """Entry point: bad input ends in one line, a bug in its traceback."""
    try:
        app()
    except* ConfigError as group:
        for line in dict.fromkeys(_texts(group)):
            print(f"trio_bridge: {line}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)


def _texts(group: BaseExceptionGroup[ConfigError]) -> list[str]:
    found = []
    for error in group.exceptions:
        found += _texts(error) if isinstance(error, BaseExceptionGroup) else [str(error)]
    return found
