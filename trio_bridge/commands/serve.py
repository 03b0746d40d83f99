"""The service, with its service manager informed, a person alerted, and a page to look at."""

from __future__ import annotations

import gc
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import trio

from trio_bridge.service import run_service
from trio_bridge.tasks.notify import Notifier, keep_informed
from trio_bridge.text import count, size

if TYPE_CHECKING:
    from trio_bridge.config import Settings
    from trio_bridge.service import Service, Stopper
    from trio_bridge.web.endpoint import Endpoint


async def serve(settings: Settings) -> int:
    """Run until a signal comes; return how many it took (see `run_service`)."""
    notifier = Notifier.from_environment()
    endpoint: Endpoint | None = None

    async def accompany(service: Service, stopper: Stopper) -> None:
        _spare_the_collector()
        ticker = service.ticker.status
        inform = partial(
            keep_informed,
            notifier,
            ticker,
            interval_s=settings.poll_interval_s,
            describe=partial(in_one_line, service),
            stopping=stopper.stopping,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inform)
            if endpoint is not None:
                nursery.start_soon(endpoint.run, service)
            if settings.alert_url is not None:
                from trio_bridge.tasks.alerts import Alerts

                alerts = Alerts(
                    settings.alert_url,
                    after_s=settings.alert_after_s,
                    interval_s=settings.poll_interval_s,
                )
                service.watchers.append(alerts.notice)
                alert = partial(
                    alerts.run,
                    ticker,
                    service.supervisor.status,
                    emit=service.outlet.emit,
                    asked_s=lambda: stopper.asked_s,
                    stands_by=lambda: service.bridge.stands_by,
                )
                nursery.start_soon(alert)

    async with AsyncExitStack() as stack:
        stack.callback(notifier.close)
        if settings.status_port is not None:
            from trio_bridge.web.endpoint import open_endpoint

            endpoint = await stack.enter_async_context(open_endpoint(settings))
        return await run_service(settings, accompany)


def _spare_the_collector() -> None:
    """What the modules hold stays until the end: Python need not search it for garbage again.

    Otherwise each full collection, such as the one between two connections, stops everything for
    40 ms instead of 3 ms (with 100 options).
    """
    gc.collect()
    gc.freeze()


def in_one_line(service: Service) -> str:
    """The state of the whole, for a place with little room."""
    ticker, delivery = service.ticker.status, service.delivery
    parts = [str(service.supervisor.status.state), count(ticker.rows, "row")]
    if ticker.last is not None and ticker.silent_because is None:
        parts.append(f"the last one {ticker.last.verdict}")
    if ticker.silent_because is not None:
        none_now = "" if service.bridge.stands_by else "none now: "
        parts.append(f"{none_now}{ticker.silent_because}")
    parts.append(f"database circuit {delivery.breaker_state}")
    if delivery.backlog_bytes:
        parts.append(f"{size(delivery.backlog_bytes)} in the spool")
    return ", ".join(parts)
