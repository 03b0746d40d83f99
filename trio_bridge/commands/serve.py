"""The service, with the service manager told, a person alerted, and a page to look at."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import trio

from trio_bridge.service import run_service
from trio_bridge.tasks.notify import Notifier, keep_informed
from trio_bridge.text import count, size

if TYPE_CHECKING:
    from trio_bridge.config import Settings
    from trio_bridge.service import Service, Stopper
    from trio_bridge.tasks.alerts import Alerts
    from trio_bridge.web.endpoint import Endpoint


async def serve(settings: Settings) -> int:
    """Run until a signal comes; return how many it took (see `run_service`)."""
    if settings.status_port is None:
        return await _serve(settings, None)
    from trio_bridge.web.endpoint import open_endpoint

    async with open_endpoint(settings) as endpoint:
        return await _serve(settings, endpoint)


async def _serve(settings: Settings, endpoint: Endpoint | None) -> int:
    notifier = Notifier.from_environment()

    async def accompany(service: Service, stopper: Stopper) -> None:
        _spare_the_collector()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_inform, notifier, service, stopper)
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
                nursery.start_soon(_alert, alerts, service, stopper)

    try:
        return await run_service(settings, accompany)
    finally:
        notifier.close()


def _spare_the_collector() -> None:
    """What the modules hold stays until the end, so Python need not search it for garbage again.

    Otherwise each full collection, such as the one between two connections, stops everything for
    40 ms; so it is 3 ms (with 100 options).
    """
    gc.collect()
    gc.freeze()


async def _inform(notifier: Notifier, service: Service, stopper: Stopper) -> None:
    await keep_informed(
        notifier,
        service.ticker.status,
        interval_s=service.settings.poll_interval_s,
        describe=lambda: in_one_line(service),
        stopping=stopper.stopping,
    )


async def _alert(alerts: Alerts, service: Service, stopper: Stopper) -> None:
    await alerts.run(
        service.ticker.status,
        service.supervisor.status,
        emit=service.outlet.emit,
        ended=lambda: not stopper.stopping.is_set(),
    )


def in_one_line(service: Service) -> str:
    """The state of the whole, for a place with little room."""
    ticker, delivery = service.ticker.status, service.delivery
    parts = [str(service.supervisor.status.state), count(ticker.rows, "row")]
    if ticker.silent_because is not None:
        parts.append(f"none now: {ticker.silent_because}")
    parts.append(f"database circuit {delivery.breaker_state}")
    if delivery.backlog_bytes:
        parts.append(f"{size(delivery.backlog_bytes)} in the spool")
    return ", ".join(parts)
