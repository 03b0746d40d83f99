"""psycopg's asynchronous connection, driven by Trio itself.

psycopg's I/O is generators that say which socket event they wait for next; only its `wait` method
knows asyncio. Waiting for the same events with Trio needs no thread and no second event loop, costs
less than half the CPU of either, and, what matters most here, can be cancelled at once, whatever
the server does. A frozen server would hold a thread for as long as it stays frozen, and psycopg
reacts to a cancellation by asking the server to cancel and waiting for its answer.
"""

from __future__ import annotations

import math
import os
import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg
import trio
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait

from trio_bridge.stores.database.conninfo import host_attempts, parse_conninfo, with_defaults

if TYPE_CHECKING:
    from psycopg.abc import PQGen

Result = TypeVar("Result")

ATTEMPT_TIMEOUT_S = 10.0
"""For each address of each host, unless the conninfo has a connect_timeout."""

CLIENT_OPTIONS = {
    "fallback_application_name": "trio_bridge",
    # A peer that vanished while nothing was written (a reset window) is found out early.
    "keepalives_idle": "60",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
"""Our defaults for libpq options; the conninfo overrides them."""

SEND_BUFFER_BYTES = 1024 * 1024
"""A large batch and more, where the system allows it."""

LOCK_TIMEOUT = "30s"
"""If we abandon a statement that waits for a lock, the server's process keeps waiting: under a lock
held for hours, each attempt would take one more of the server's connections. Longer than anything
here waits, shorter than the pause between two attempts."""

PREPARE_SESSION = """
    SELECT set_config('TimeZone', 'UTC', false),
           set_config('synchronous_commit', CASE current_setting('synchronous_commit')
               WHEN 'off' THEN 'local' ELSE current_setting('synchronous_commit') END, false),
           set_config('lock_timeout', CASE current_setting('lock_timeout')
               WHEN '0' THEN %s ELSE current_setting('lock_timeout') END, false)
"""
"""Times without an offset, and columns without one, mean UTC; a commit means "on disk", also where
the server's default says otherwise; and no wait for a lock is endless. Not startup options: poolers
refuse those."""


class TrioConnection(psycopg.AsyncConnection[TupleRow]):
    """A psycopg connection for Trio.

    Error handling: a statement that fails raises psycopg's own errors and leaves the connection
    usable. Whatever interrupts a wait, a cancellation above all, closes the connection on the spot
    without a message to the server: the outcome of the statement is unknown, it may still commit,
    and a connection in that state is of no use.

    Resource handling: `close` and `drop` never wait.
    """

    lock: trio.Lock  # type: ignore[assignment]  # used only as an async context manager

    def __init__(self, pgconn: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(pgconn, *args, **kwargs)
        self.lock = trio.Lock()

    @classmethod
    async def connect(  # type: ignore[override]  # without the options that we do not use
        cls, conninfo: str = "", *, autocommit: bool = False
    ) -> Self:
        """Connect to the first host that takes us and is what target_session_attrs asks for.

        Every address of every host gets a fair share of the time that the caller's cancel scope
        leaves, and no more than its own timeout: a frozen first host must not use up the second
        one's.

        Raises:
            psycopg.OperationalError: no host took us; the text has the reason of each attempt.
            ConfigError: the conninfo is malformed.
        """
        parameters = {**CLIENT_OPTIONS, **parse_conninfo(conninfo), "client_encoding": "UTF8"}
        limit_s = _attempt_timeout(parameters)
        attempts = host_attempts(parameters)
        failures: list[psycopg.OperationalError] = []
        for number, attempt in enumerate(attempts):
            deadline = _share(trio.current_effective_deadline(), len(attempts) - number)
            with trio.move_on_at(deadline) as scope:
                try:
                    return await cls._connect_host(attempt, limit_s, autocommit=autocommit)
                except psycopg.OperationalError as error:
                    failures.append(error)
            if scope.cancelled_caught:
                failures.append(_timed_out(attempt))
        if len(failures) == 1:
            raise failures[0]
        raise psycopg.OperationalError("; ".join(str(error).strip() for error in failures))

    @classmethod
    async def _connect_host(
        cls, attempt: dict[str, str], limit_s: float, *, autocommit: bool
    ) -> Self:
        failure: psycopg.OperationalError | None = None
        addresses = await _resolve(attempt, limit_s)
        for number, address in enumerate(addresses):
            remaining = _share(trio.current_effective_deadline(), len(addresses) - number)
            with trio.move_on_at(min(remaining, trio.current_time() + limit_s)) as scope:
                try:
                    return await cls._connect_address(address, autocommit=autocommit)
                except psycopg.OperationalError as error:
                    failure = error
            if scope.cancelled_caught:
                failure = _timed_out(address)
        assert failure is not None
        raise failure

    @classmethod
    async def _connect_address(cls, address: dict[str, str], *, autocommit: bool) -> Self:
        pgconn = pq.PGconn.connect_start(make_conninfo("", **address).encode())
        try:
            await _finish_connecting(pgconn)
            pgconn.nonblocking = 1
            _let_batches_leave_at_once(pgconn.socket)
            connection = cls(pgconn)
            # Prepared statements gain nothing at this pace and are lost on poolers.
            connection.prepare_threshold = None
            await connection.set_autocommit(True)
            await connection.execute(PREPARE_SESSION, [LOCK_TIMEOUT])
            await connection.set_autocommit(autocommit)
        except BaseException:
            pgconn.finish()
            raise
        return connection

    async def wait(
        self,
        gen: PQGen[Result],
        interval: float = math.inf,
        timeout: float | None = None,  # noqa: ASYNC109  # the signature is psycopg's
    ) -> Result:
        """Run one of psycopg's generators to its end (see the class for what interrupts it).

        `interval` is not needed: nothing here has to wake up to notice a signal. `timeout` raises
        trio.TooSlowError.
        """
        try:
            with trio.fail_after(math.inf if timeout is None else timeout):
                return await _drive(gen, self.pgconn.socket)
        except psycopg.Error:
            raise
        except BaseException:
            self.drop()
            raise

    def drop(self) -> None:
        """Close it at once; tasks that wait for it get trio.ClosedResourceError."""
        if self.closed:
            return
        self._closed = True
        with suppress(psycopg.Error):  # libpq has already given the socket up
            trio.lowlevel.notify_closing(self.pgconn.socket)
        self.pgconn.finish()

    async def close(self) -> None:
        """As `drop`: we do not need the server's goodbye."""
        self.drop()

    def looks_usable(self) -> bool:
        """Whether an idle connection still works, as far as is known without asking.

        A server sends something unasked only to say goodbye (a shutdown, an idle timeout, a lost
        peer) or to report a changed setting: a new connection is cheaper than finding out which.
        """
        if self.closed:
            return False
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        return not poll.poll(0)


async def _drive(gen: PQGen[Result], fileno: int) -> Result:
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        wanted = next(gen)
        while True:
            wanted = gen.send(await _wait_socket(fileno, wanted))
    except StopIteration as end:
        result: Result = end.value
        return result


def _let_batches_leave_at_once(fileno: int) -> None:
    """Else the server waits for the end of one while we are busy with the next.

    TCP finds the size of its buffers itself; that of a Unix socket is small (on macOS 8 KiB).
    """
    with socket.socket(fileno=os.dup(fileno)) as unix, suppress(OSError):
        if unix.family == socket.AF_UNIX:
            unix.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


async def _finish_connecting(pgconn: Any) -> None:
    while True:
        if pgconn.status == pq.ConnStatus.BAD:
            raise _connect_error(pgconn)
        match pgconn.connect_poll():
            case pq.PollingStatus.OK:
                return
            case pq.PollingStatus.READING:
                await trio.lowlevel.wait_readable(pgconn.socket)
            case pq.PollingStatus.WRITING:
                await trio.lowlevel.wait_writable(pgconn.socket)
            case _:
                raise _connect_error(pgconn)


async def _wait_socket(fileno: int, wanted: Wait) -> Ready:
    if wanted == Wait.R:
        await trio.lowlevel.wait_readable(fileno)
        return Ready.R
    if wanted == Wait.W:
        await trio.lowlevel.wait_writable(fileno)
        return Ready.W
    # Sending more than the socket takes at once: the server may send something first.
    ready = Ready.NONE
    async with trio.open_nursery() as nursery:

        async def readable() -> None:
            nonlocal ready
            await trio.lowlevel.wait_readable(fileno)
            ready = Ready(ready | Ready.R)
            nursery.cancel_scope.cancel()

        async def writable() -> None:
            nonlocal ready
            await trio.lowlevel.wait_writable(fileno)
            ready = Ready(ready | Ready.W)
            nursery.cancel_scope.cancel()

        nursery.start_soon(readable)
        nursery.start_soon(writable)
    return ready


async def _resolve(attempt: dict[str, str], limit_s: float) -> list[dict[str, str]]:
    """The same parameters with each of the host's addresses: libpq's own look-up would block."""
    known = with_defaults(attempt)
    host = known.get("host", "")
    is_socket = host.startswith(("/", "@"))
    if not host or is_socket or known.get("hostaddr") or "service" in known:
        return [attempt]
    try:
        with trio.fail_after(limit_s):
            found = await trio.socket.getaddrinfo(
                host, known["port"], type=trio.socket.SOCK_STREAM, proto=trio.socket.IPPROTO_TCP
            )
    except trio.TooSlowError:
        raise psycopg.OperationalError(f"looking up {host!r} took too long") from None
    except (OSError, UnicodeError) as error:
        raise psycopg.OperationalError(f"cannot find the host {host!r}: {error}") from error
    return [{**attempt, "hostaddr": str(address[4][0])} for address in found]


def _attempt_timeout(parameters: dict[str, str]) -> float:
    """As libpq: 0 or less means the default here, since no wait is endless."""
    seconds = float(with_defaults(parameters).get("connect_timeout") or 0)
    return seconds if seconds > 0 else ATTEMPT_TIMEOUT_S


def _share(deadline: float, candidates: int) -> float:
    """The deadline of the first of several candidates that divide the time left fairly."""
    now = trio.current_time()
    return now + (deadline - now) / candidates


def _timed_out(attempt: dict[str, str]) -> psycopg.errors.ConnectionTimeout:
    known = with_defaults(attempt)
    place = f"{known.get('host') or known.get('hostaddr') or 'the server'}:{known['port']}"
    return psycopg.errors.ConnectionTimeout(f"{place} did not answer in time")


def _connect_error(pgconn: Any) -> psycopg.OperationalError:
    return psycopg.OperationalError(pgconn.get_error_message().strip())
