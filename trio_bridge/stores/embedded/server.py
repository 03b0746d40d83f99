"""Starts the embedded server, keeps it running, and stops it; on Trio."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import trio

from trio_bridge.errors import ConfigError, StartError
from trio_bridge.events.service import (
    EmbeddedCreated,
    EmbeddedEnded,
    EmbeddedFailed,
    EmbeddedRestarted,
)
from trio_bridge.logs import log_event
from trio_bridge.policy.backoff import Backoff
from trio_bridge.stores.database.connection import TrioConnection
from trio_bridge.stores.embedded.binaries import installations
from trio_bridge.stores.embedded.cluster import (
    DATABASE,
    EMBEDDED_DIR,
    Room,
    choose,
    default_directory,
    initdb_command,
    postgres_command,
)
from trio_bridge.stores.embedded.process import Account, spawn
from trio_bridge.stores.spool.disk import cannot_start
from trio_bridge.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from trio_bridge.events.event import Event
    from trio_bridge.stores.embedded.binaries import Installation
    from trio_bridge.stores.embedded.process import Child

INITDB_TIMEOUT_S = 120.0
START_TIMEOUT_S = 120.0
"""Recovery after a crash reads up to a gigabyte of write-ahead log."""
PREDECESSOR_TIMEOUT_S = 20.0
"""A server whose bridge was killed may still be writing its last checkpoint."""
PREDECESSOR_POLL_S = 0.1
READY_POLL_S = 0.02
STILL_IN_USE = "still in use"
"""PostgreSQL says this while processes of the last server, orphaned by a SIGKILL, still run."""
RESTART_DELAYS_S = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before each attempt to bring back a server that ended by itself (see `Backoff`)."""
ORPHANS_S = 5.0
"""How long the processes of a killed server may take to end."""
STOP_DEADLINES_S = (
    (signal.SIGINT, 5.0),  # fast: transactions are rolled back, a checkpoint is written
    (signal.SIGQUIT, 2.0),  # immediate: the next start recovers
    (signal.SIGKILL, 2.0),
)


@asynccontextmanager
async def open_embedded(
    directory: Path | None = None, *, emit: Callable[[Event], None] = log_event
) -> AsyncIterator[str]:
    """A PostgreSQL of our own, created at the first use; gives the conninfo of `portfolio_engine`.

    It runs as long as the block. If it ends by itself it is restarted, which `emit` reports; the
    conninfo stays valid. If this process is killed, the server shuts itself down. A directory can
    be used by one process at a time.

    Raises:
        ConfigError: the directory is in use, of another version, full, or cannot be reached; or
            there are no programs. The text is one line that names BRIDGE_EMBEDDED_DIR.
    """
    root = (directory or default_directory()).absolute()
    room, installation, lock = await in_thread(_prepare, root)
    server = EmbeddedServer(room, installation, emit)
    failure: Exception | None = None
    try:
        await server.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.keep_running)
            try:
                yield room.conninfo()
            except Exception as error:
                failure = error  # raised outside the nursery, which would wrap it in a group
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # limited by its own deadlines
            await server.stop()
        os.close(lock)
    if failure is not None:
        raise failure


def running_conninfo(directory: Path | None = None) -> str | None:
    """The conninfo of the server that another process runs in a directory; None if none runs.

    Raises:
        ConfigError: this user can't read it; the text is one line that names BRIDGE_EMBEDDED_DIR.
    """
    room = Room((directory or default_directory()).absolute(), None)
    try:
        return room.conninfo() if room.postmaster() is not None else None
    except OSError as error:
        raise _unusable(room.root, error) from error


def try_out(directory: Path | None = None) -> tuple[Path, int]:
    """The directory and PostgreSQL's major version that `open_embedded` would use. Blocking;
    changes nothing.

    Raises:
        ConfigError: it could not start there; the text says why.
    """
    root = (directory or default_directory()).absolute()
    try:
        room = Room(root, Account.for_server(root / "data"))
        room.try_out()
        return root, choose(installations(), room, copy=False).major
    except OSError as error:
        raise _unusable(root, error) from error


def _prepare(root: Path) -> tuple[Room, Installation, int]:
    """Prepare what the first process needs: directories, lock, programs. Blocking."""
    try:
        room = Room(root, Account.for_server(root / "data"))
        room.make()
        room.must_be_entered(root)
        lock = room.lock()
        try:
            room.tidy()
            return room, choose(installations(), room), lock
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        raise _unusable(root, error) from error


class EmbeddedServer:
    """One data directory and the process that serves it."""

    def __init__(
        self, room: Room, installation: Installation, emit: Callable[[Event], None]
    ) -> None:
        self.room = room
        self._installation = installation
        self._emit = emit
        self._child: Child | None = None

    async def start(self) -> None:
        """Create the data directory if there is none, start the server, wait until it answers.

        Raises:
            ConfigError: it cannot be started; the text holds the server's own reason.
        """
        try:
            if await in_thread(self.room.version) is None:
                await self._initdb()
            await self._await_predecessor()
            await self._start()
        except (OSError, psycopg.Error) as error:
            raise _unusable(self.room.root, error) from error

    async def keep_running(self) -> None:
        """Start the server again whenever it ends. Runs until cancelled."""
        backoff = Backoff(RESTART_DELAYS_S)
        began = trio.current_time()
        while True:
            if self._child is not None:
                code = await self._family_of(self._child)
                self._forget()
                self._emit(EmbeddedEnded(_ending(code)))
                backoff = backoff.lost(up_s=trio.current_time() - began)
            await trio.sleep(backoff.delay_s)
            backoff = backoff.attempted()
            began = trio.current_time()
            try:
                await self.start()
            except ConfigError as error:
                await self.stop()
                self._emit(EmbeddedFailed(str(error)))
            else:
                self._emit(EmbeddedRestarted())

    async def _family_of(self, child: Child) -> int:
        """Wait for the end of the server and of all its processes; return its exit code.

        The others notice that it is gone and end too, but one that runs a long query would first
        finish it, and no new server can start before that: after `ORPHANS_S` they are killed.
        """
        await child.wait_alone()
        with trio.move_on_after(ORPHANS_S):
            return await child.wait()
        child.kill_family()
        return await child.wait()

    async def stop(self) -> None:
        """Stop the server and everything it started, within `STOP_DEADLINES_S`."""
        if self._child is None:
            return
        for number, seconds in STOP_DEADLINES_S:
            self._child.send(number)
            with trio.move_on_after(seconds):
                await self._child.wait()
                break
        else:
            # A frozen process of this server would keep the next one from starting.
            self._child.kill_family()
        self._forget()

    async def _initdb(self) -> None:
        self._emit(EmbeddedCreated(str(self.room.root)))
        directory = await in_thread(self.room.new_data)
        command = initdb_command(self._installation, directory)
        begin = await self._spawn(command, death_signal=signal.SIGKILL)
        assert self._child is not None
        code = None
        try:
            with trio.move_on_after(INITDB_TIMEOUT_S):
                code = await self._child.wait()
        finally:
            self._forget()
        if code != 0:
            words = await in_thread(self.room.last_words, begin)
            raise self._failure("cannot make the data directory", words)
        await in_thread(self.room.adopt, directory)

    async def _await_predecessor(self) -> None:
        """Wait for a server whose bridge was killed: it will stop by itself."""
        with trio.move_on_after(PREDECESSOR_TIMEOUT_S):
            while await in_thread(self.room.postmaster) is not None:  # noqa: ASYNC110
                await trio.sleep(PREDECESSOR_POLL_S)
            await in_thread(self.room.forget_postmaster)
            return
        pid = await in_thread(self.room.postmaster)
        raise ConfigError(
            f"BRIDGE_EMBEDDED_DIR={self.room.root}: a server that is not the bridge's runs there "
            f"as process {pid}",
            setting=EMBEDDED_DIR,
            remedy="stop it, or name it with DATABASE_URL",
        )

    async def _start(self) -> None:
        command = postgres_command(
            self._installation, self.room.data, socket_directory=self.room.socket_directory
        )
        with trio.move_on_after(START_TIMEOUT_S):
            while True:
                begin = await self._spawn(command)
                if await self._answers():
                    return
                self._forget()
                words = await in_thread(self.room.last_words, begin)
                if STILL_IN_USE not in words:
                    raise self._failure("PostgreSQL does not start", words)
                await trio.sleep(PREDECESSOR_POLL_S)
        words = await in_thread(self.room.last_words, begin)
        raise self._failure(f"PostgreSQL is not ready after {START_TIMEOUT_S:g} s", words)

    async def _answers(self) -> bool:
        """Wait until the server takes connections and has our database; False if it ends first."""
        assert self._child is not None
        while self._child.process.poll() is None:
            try:
                connection = await TrioConnection.connect(
                    self.room.conninfo("postgres"), autocommit=True
                )
            except psycopg.OperationalError:
                await trio.sleep(READY_POLL_S)
                continue
            try:
                await _ensure_database(connection)
            finally:
                connection.drop()
            return True
        await self._child.wait()
        return False

    async def _spawn(
        self, command: Sequence[str | Path], death_signal: signal.Signals = signal.SIGINT
    ) -> int:
        """Start a program; return the offset in the log at which its output begins."""
        output, begin = await in_thread(self.room.open_log)
        try:
            # Not in a worker thread: the kernel ends the child when the thread that made it ends.
            self._child = spawn(
                command, account=self.room.account, output=output, death_signal=death_signal
            )
        finally:
            os.close(output)
        return begin

    def _failure(self, what: str, words: str) -> StartError:
        text = f"BRIDGE_EMBEDDED_DIR={self.room.root}: {what}: {words}"
        return StartError(text, setting=EMBEDDED_DIR)

    def _forget(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


async def _ensure_database(connection: TrioConnection) -> None:
    found = await connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE])
    if await found.fetchone() is None:
        await connection.execute(f"CREATE DATABASE {DATABASE}")


def _unusable(root: Path, error: OSError | psycopg.Error) -> ConfigError:
    reason = " ".join(str(error).split())
    text = f"BRIDGE_EMBEDDED_DIR={root} cannot be used: {reason}"
    if isinstance(error, OSError):
        return cannot_start(text, error, setting=EMBEDDED_DIR)
    return StartError(text, setting=EMBEDDED_DIR)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    names = {one.value: one.name for one in signal.Signals}  # not those of real time
    return f"killed by {names.get(-code, f'signal {-code}')}"
