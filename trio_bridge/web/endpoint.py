"""The endpoint's life beside the recording, which it must never take down, hold up or delay.

- The port is taken before anything else starts: one that is in use ends the program with one
  line, not with a service that cannot be watched.
- It runs in a task of its own that contains every failure: it is logged, and the task restarts.
- It reads the service's memory and, with connections of its own, the database; it never writes.
- Connections, streams, bodies, answers and questions to the database are bounded in number, size
  and time. A client that does not read or send is disconnected (see `connections`, `guard`).
"""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import orjson
import trio

from trio_bridge.errors import ConfigError, StartError
from trio_bridge.logs import Log
from trio_bridge.stores.reading.history import History
from trio_bridge.tasks.guests import keep_going
from trio_bridge.web.access import Access
from trio_bridge.web.app import Site, build_app
from trio_bridge.web.chart import page_facts
from trio_bridge.web.connections import BACKLOG, prepare, serve
from trio_bridge.web.files import read_page_files
from trio_bridge.web.metrics import Metrics
from trio_bridge.web.observer import Observer
from trio_bridge.web.spool_count import SpoolCount
from trio_bridge.web.streams import STATUS_EVERY_S, Hub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_bridge.config import Settings
    from trio_bridge.service import Service

SEND_EVERY_S = 1.0

log = Log()


class Endpoint:
    """Made by `open_endpoint`; `run` it beside a service."""

    def __init__(self, settings: Settings, listeners: list[trio.SocketListener]) -> None:
        assert settings.status_port is not None
        self._listeners = listeners
        self._access = Access(settings.status_token, settings.status_port)
        self._files = read_page_files(page_facts(settings.poll_interval_s))
        self.url = url_of(settings)

    async def run(self, service: Service) -> None:
        """Answer requests until cancelled. Raises nothing."""
        metrics, hub = Metrics(), Hub()
        observer = Observer(service, metrics.lateness.observe, metrics.time_to_safe.observe, hub)
        metrics.watch(observer, hub)
        history = History(service.conninfo)
        site = Site(
            observer=observer,
            metrics=metrics,
            hub=hub,
            history=history,
            spool_count=SpoolCount(service.settings.buffer_path),
            access=self._access,
            files=self._files,
        )
        observer.watch()
        log.info("status page", url=self.url)
        try:
            serving = partial(self._serve, site)
            await keep_going("the status endpoint", serving, service.outlet.emit)
        finally:
            observer.unwatch()
            history.close()

    async def _serve(self, site: Site) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_status, site)
            nursery.start_soon(serve, build_app(site), self._listeners)


async def _send_status(site: Site) -> None:
    """Send the status to the live streams when something has changed, and every now and then."""
    before: object = None
    sent_s = trio.current_time()
    while True:
        await trio.sleep(SEND_EVERY_S)
        if not site.hub.listeners:
            continue
        status = await site.status_json()
        gateway, storage = status["gateway"], status["storage"]
        essence = (
            status["not_ready_because"],
            (status["verdict"], [one.contract for one in status["defects"]]),
            (gateway.state, gateway.reason),
            (storage.breaker, storage.waiting > 1, storage.quarantined, storage.dropped),
            (storage.spool_bytes > 0, status["ticker"].skipped),
        )
        now = trio.current_time()
        if essence != before or now - sent_s >= STATUS_EVERY_S:
            before, sent_s = essence, now
            site.hub.send("status", orjson.dumps(status))


def url_of(settings: Settings) -> str:
    """Where a browser finds the page."""
    host = settings.status_host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.status_port}/"


@asynccontextmanager
async def open_endpoint(settings: Settings) -> AsyncIterator[Endpoint]:
    """Take the port that the settings name.

    Raises:
        ConfigError: the port or the address are not available.
    """
    assert settings.status_port is not None
    listeners = await _listen(settings.status_host, settings.status_port)
    try:
        yield Endpoint(settings, listeners)
    finally:
        for listener in listeners:
            listener.socket.close()


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as error:
        # An address may come with its network; the port's owner is unlikely to leave.
        lasting = error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EPERM)
        raise (ConfigError if lasting else StartError)(_explain(error, host, port)) from error
    for listener in listeners:
        prepare(listener)
    return listeners


def _explain(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"BRIDGE_STATUS_PORT={port}: another program uses this port on {host}; "
                "end it, or choose another port"
            )
        case errno.EACCES | errno.EPERM:
            return f"BRIDGE_STATUS_PORT={port}: this user may not use it; choose one from 1024 on"
        case _:
            reason = error.strerror or error
            return f"BRIDGE_STATUS_HOST={host}: not an address of this machine ({reason})"
