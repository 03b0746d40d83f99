"""PostgreSQL's programs as child processes that never outlive this one.

They run in their own session, so that a Ctrl-C in the terminal reaches only the bridge, which stops
the server after the last row is in.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Self

import trio

from trio_bridge.errors import ConfigError
from trio_bridge.stores.embedded.binaries import PROGRAM_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Sequence

LAUNCHER = Path(__file__).with_name("launch.py")
SERVER_ACCOUNTS = ("postgres", "_postgres", "nobody")
"""PostgreSQL refuses to run as root, and initdb wants an account that exists."""

REAP_TIMEOUT_S = 1.0


class Tie(Enum):
    """What ends the child when this process ends."""

    PARENT_DEATH_SIGNAL = auto()
    """The kernel (Linux), when the *thread* that spawned ends: it must not be a worker thread."""
    WATCHDOG = auto()
    """A shell that waits for the end of a pipe and then kills; works on every POSIX system."""


NATIVE_TIE = Tie.PARENT_DEATH_SIGNAL if sys.platform == "linux" else Tie.WATCHDOG


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system's user that PostgreSQL runs as when we are root."""

    name: str
    uid: int
    gid: int

    @classmethod
    def for_server(cls, data: Path | None = None) -> Self | None:
        """The owner of the data if there is any, else one of SERVER_ACCOUNTS; None if we are not
        root and need no other account.

        Raises:
            ConfigError: we are root, and there is no such account.
        """
        if os.geteuid() != 0:
            return None
        if data is not None and data.exists() and (status := data.stat()).st_uid != 0:
            try:
                name = pwd.getpwuid(status.st_uid).pw_name
            except KeyError:
                name = str(status.st_uid)
            return cls(name, status.st_uid, status.st_gid)
        for name in SERVER_ACCOUNTS:
            with suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)
        raise ConfigError(
            "PostgreSQL does not run as root, and none of the accounts "
            f"{', '.join(SERVER_ACCOUNTS)} exists",
            setting="DATABASE_URL",
            remedy="start the bridge as another user, or name a server with DATABASE_URL",
        )

    def can_run(self, *command: str | Path) -> bool:
        """Whether the account can run a program successfully."""
        try:
            done = subprocess.run(
                _launch(self, 0, command),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd="/",
                timeout=PROGRAM_TIMEOUT_S,
                check=False,
            )
        except subprocess.SubprocessError:
            return False
        return done.returncode == 0

    def can_enter(self, directory: Path) -> bool:
        """Whether the account can enter a directory."""
        return self.can_run("/bin/sh", "-c", 'cd "$1"', "sh", directory)


@dataclass(slots=True)
class Child:
    """A running program and all processes it forked.

    `lifeline` is the read end of a pipe whose write end they all inherit: it reports end-of-file
    when the last of them has ended.
    """

    process: subprocess.Popen[bytes]
    lifeline: int
    watchdog: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def pid(self) -> int:
        return self.process.pid

    async def wait(self) -> int:
        """Wait until the program and everything it forked are gone; return its exit code."""
        await trio.lowlevel.wait_readable(self.lifeline)
        return self.process.wait()

    async def wait_alone(self) -> None:
        """Wait until the program itself is gone; if the system can't tell, wait as `wait` does."""
        try:
            process = os.pidfd_open(self.pid)
        except (AttributeError, OSError):  # another system, an old Linux, or gone and reaped
            await trio.lowlevel.wait_readable(self.lifeline)
            return
        try:
            await trio.lowlevel.wait_readable(process)
        finally:
            os.close(process)

    def kill_family(self) -> None:
        """SIGKILL all processes that still hold the lifeline (needs /proc). Blocking."""
        lifeline = f"pipe:[{os.fstat(self.lifeline).st_ino}]"
        for directory in Path("/proc").glob("[0-9]*"):
            pid = int(directory.name)
            if pid != os.getpid() and _holds(directory, lifeline):
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program itself, if it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def close(self) -> None:
        """Release the lifeline and the watchdog. Kills the program if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            with suppress(subprocess.TimeoutExpired):  # stuck in the kernel, it ends later
                self.process.wait(REAP_TIMEOUT_S)
        if self.watchdog is not None:
            self.watchdog.communicate(b"done\n")
        os.close(self.lifeline)


def _holds(directory: Path, file: str) -> bool:
    """Whether the process with this directory in /proc has a file open."""
    try:
        return any(str(one.readlink()) == file for one in (directory / "fd").iterdir())
    except OSError:  # gone, or another user's
        return False


def server_environment() -> dict[str, str]:
    """Our environment without what changes PostgreSQL's behaviour: PG… variables and locale."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("PG", "LC_"))}
    return kept | {"LANG": "C", "LC_ALL": "C"}


def spawn(
    command: Sequence[str | Path],
    *,
    account: Account | None,
    output: int,
    tie: Tie = NATIVE_TIE,
    death_signal: signal.Signals = signal.SIGINT,
) -> Child:
    """Start a program; its output goes to the file descriptor `output`.

    Blocks for a few milliseconds. Call it from the thread that runs Trio, see `Tie`.
    """
    by_kernel = death_signal if tie is Tie.PARENT_DEATH_SIGNAL else 0
    read_end, write_end = os.pipe()
    try:
        process = subprocess.Popen(
            _launch(account, by_kernel, command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=server_environment(),
            pass_fds=(write_end,),
            start_new_session=True,
        )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    child = Child(process, read_end)
    if tie is Tie.WATCHDOG:
        child.watchdog = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _ || kill -"$1" "$2"', "sh", *_kill(death_signal, child)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    return child


def _launch(
    account: Account | None, death_signal: int, command: Sequence[str | Path]
) -> list[str | Path]:
    uid, gid = (account.uid, account.gid) if account else (-1, -1)
    numbers = map(str, (os.getpid(), uid, gid, int(death_signal)))
    return [sys.executable, "-I", "-S", LAUNCHER, *numbers, *command]


def _kill(number: signal.Signals, child: Child) -> tuple[str, str]:
    return number.name.removeprefix("SIG"), str(child.pid)
