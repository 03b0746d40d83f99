"""Threads for blocking work. Failing to start a thread (this user has too many processes, memory is
short) is a passing condition of the machine, not a bug: an OSError, as with files."""

from __future__ import annotations

import errno
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class NoThreadError(BlockingIOError):
    """No thread could be started; the job has not begun."""


async def in_thread(
    job: Callable[..., T],
    *arguments: Any,
    limiter: trio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
) -> T:
    """Like `trio.to_thread.run_sync`.

    Raises:
        NoThreadError: no thread can be started now.
    """
    begun = False

    def begin() -> T:
        nonlocal begun
        begun = True
        return job(*arguments)

    try:
        return await trio.to_thread.run_sync(
            begin, limiter=limiter, abandon_on_cancel=abandon_on_cancel
        )
    except RuntimeError as error:
        if begun:
            raise
        raise NoThreadError(errno.EAGAIN, str(error)) from error


class Resolver(trio.abc.HostnameResolver):
    """Looks up host names as Trio itself does, but with `in_thread`."""

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # Trio's parameter names
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        look = partial(socket.getaddrinfo, host, port, family, type, proto, flags)
        return await in_thread(look, abandon_on_cancel=True)

    async def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int) -> tuple[str, str]:
        look = partial(socket.getnameinfo, sockaddr, flags)
        return await in_thread(look, abandon_on_cancel=True)


def tell_of_missing_threads() -> None:
    """Make every host name lookup in this run of Trio raise NoThreadError if it cannot start a
    thread."""
    trio.socket.set_custom_hostname_resolver(Resolver())
