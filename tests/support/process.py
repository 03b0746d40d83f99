"""The service as a user runs it: a separate process with its own environment and home."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

PATIENCE_S = 90.0
"""For what takes a second on an idle machine. Only a failure waits this long."""
PORTS = range(15_000, 30_000)
"""Below the ephemeral range: no outgoing connection can take a stopped server's port."""
OURS = ("IB", "BRIDGE_", "DB_", "DATABASE_", "TRIO_BRIDGE")
NOT_A_USERS = "PYTHONUNBUFFERED"
"""Set in many containers and CI jobs; it hides what is left in a buffer."""


def clean_environment(home: Path, **settings: object) -> dict[str, str]:
    """The tests' own environment without any of the bridge's settings, as a user has it, with an
    empty home.

    There is no reset window unless `settings` has one: at 23:40 in New York a service that has lost
    its gateway would wait, and so would its test.
    """
    inherited = {
        name: text for name, text in os.environ.items() if not name.startswith((*OURS, NOT_A_USERS))
    }
    return {
        **inherited,
        "HOME": str(home),
        "BRIDGE_RESET_WINDOWS": "none",
        **{name: str(value) for name, value in settings.items()},
    }


def free_port() -> int:
    """A port on which nothing listens now."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@dataclass
class ServiceProcess:
    """A running `python -m trio_bridge`; `output` is what it has written so far."""

    process: trio.Process
    output_path: Path

    @property
    def output(self) -> str:
        return self.output_path.read_text()

    @property
    def pid(self) -> int:
        return self.process.pid

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        self.process.send_signal(number)

    async def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Its exit code."""
        with trio.fail_after(timeout_s):
            return await self.process.wait()

    async def wait_for_output(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        with trio.fail_after(timeout_s):
            while text not in self.output:
                if self.process.returncode is not None:
                    raise AssertionError(f"ended before it said {text!r}:\n{self.output}")
                await trio.sleep(0.05)


def running_service(
    home: Path, *arguments: str, **settings: object
) -> AbstractAsyncContextManager[ServiceProcess]:
    """Run the service (or a command) in `home`; kill it on leaving if it is still running."""
    return running_program(home, ["-m", "trio_bridge", *arguments], **settings)


@asynccontextmanager
async def running_program(
    home: Path, arguments: Sequence[str], **settings: object
) -> AsyncIterator[ServiceProcess]:
    """The same for anything that Python can run: these are its arguments."""
    number = len(list(home.glob("output*")))
    output_path = home / f"output{number}.txt"
    command = [sys.executable, *arguments]
    with output_path.open("wb") as output:
        process = await trio.lowlevel.open_process(
            command,
            cwd=home,
            env=clean_environment(home, **settings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield ServiceProcess(process, output_path)
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below `pid`."""
    children: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    return children


def postgres_below(pid: int) -> list[psutil.Process]:
    """The PostgreSQL server's processes below `pid`; some end before they are asked their name."""
    found = []
    for one in descendants(pid):
        with suppress(psutil.NoSuchProcess):
            if one.name() == "postgres":
                found.append(one)
    return found
