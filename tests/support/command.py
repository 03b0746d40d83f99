"""A command of the bridge, run to its end as a user does: a process of its own."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from tests.support.process import clean_environment

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 60.0


class Done(NamedTuple):
    """How a command ended; outputs as text."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def run_command(home: Path, *arguments: str, **settings: object) -> Done:
    """Run it in `home` with nothing but these settings; its output goes into pipes."""
    environment = clean_environment(
        home, **{"BRIDGE_EMBEDDED_DIR": home / "embedded", "COLUMNS": 80, **settings}
    )
    run = partial(
        trio.run_process,
        [sys.executable, "-m", "trio_bridge", *arguments],
        cwd=home,
        env=environment,
        stdin=b"",
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    with trio.fail_after(PATIENCE_S):
        done = await run()
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())
