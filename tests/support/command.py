"""A command of the bridge, run to its end as a user would."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import pytest
import trio

from tests.support.process import PATIENCE_S, clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Done(NamedTuple):
    """How a command ended; its outputs as text."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def run_process(home: Path, *arguments: str, **settings: object) -> Done:
    """Run it in `home` with only these settings, as a separate process; output goes to pipes."""
    run = partial(
        trio.run_process,
        [sys.executable, "-m", "trio_bridge", *arguments],
        cwd=home,
        env=_environment(home, **settings),
        stdin=b"",
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    with trio.fail_after(PATIENCE_S):
        done = await run()
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


async def run_command(home: Path, *arguments: str, **settings: object) -> Done:
    """The same within this process, in a thread: runs the whole command from its arguments to its
    exit code, and saves the half second that Python takes to start and import it.

    Use `run_process` for anything that needs the main thread or its own descriptors (the service,
    signals, a terminal, a broken pipe), and to test what is imported.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with (
        _as_if_alone(_environment(home, **settings), home, ["trio-bridge", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        trio.fail_after(PATIENCE_S),
    ):
        code = await trio.to_thread.run_sync(_main, abandon_on_cancel=True)
    written = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return Done(code, *written)


def _environment(home: Path, **settings: object) -> dict[str, str]:
    return clean_environment(
        home, **{"BRIDGE_EMBEDDED_DIR": home / "embedded", "COLUMNS": 80, **settings}
    )


def _main() -> int:
    from trio_bridge.cli import main

    with pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code


@contextlib.contextmanager
def _as_if_alone(environment: dict[str, str], home: Path, arguments: list[str]) -> Iterator[None]:
    """Set what a process has to itself: environment, working directory, arguments."""
    with (
        patch.dict(os.environ, environment, clear=True),
        patch.object(sys, "argv", arguments),
        contextlib.chdir(home),
    ):
        yield
