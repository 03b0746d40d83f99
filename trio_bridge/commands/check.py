"""`check`: would the service run with these settings, and if not, what has to be done?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from trio_bridge.commands.checks.database import check_database
from trio_bridge.commands.checks.finding import (
    Grade,
    failed,
    ok,
    report_with_rest,
    skipped,
    warning,
)
from trio_bridge.commands.checks.gateway import (
    NAMES,
    check_by_status,
    check_gateway,
    is_at_the_gateway,
    unrecorded_accounts,
)
from trio_bridge.commands.checks.spool import check_spool
from trio_bridge.commands.console import Console
from trio_bridge.commands.endpoint import NoStatusError, ask_service
from trio_bridge.config import load_settings, settings_remarks
from trio_bridge.errors import BridgeError, ConfigError
from trio_bridge.events.service import AlertTried
from trio_bridge.gateways.portal.wire.certificate import tls_context
from trio_bridge.model import ApiMode, utc_now
from trio_bridge.policy.digest import Bulletin, DigestLine
from trio_bridge.tasks.webhook import NotNowError, RefusedError, Webhook

if TYPE_CHECKING:
    from pydantic import SecretStr

    from trio_bridge.commands.checks.finding import Finding
    from trio_bridge.config import Settings
    from trio_bridge.status import BridgeStatus
    from trio_bridge.stores.spool.look import Holder


class Report:
    """Shows findings as they come, or all of them as JSON at the end."""

    def __init__(self, *, as_json: bool) -> None:
        self.findings: list[Finding] = []
        self._as_json = as_json
        self._console = Console(highlight=False)

    def __call__(self, finding: Finding) -> None:
        self.findings.append(finding)
        if self._as_json:
            return
        if self._console.is_terminal:
            self._console.print(finding)
        else:
            print(finding, flush=True)

    @property
    def is_well(self) -> bool:
        return all(finding.verdict is not Grade.FAILED for finding in self.findings)

    def close(self) -> None:
        if self._as_json:
            found = [
                {"name": one.name, "verdict": one.verdict.lower(), "text": one.text}
                | {"remedy": one.remedy}
                for one in self.findings
            ]
            print(json.dumps({"ok": self.is_well, "findings": found}, indent=2))


async def run_check(*, as_json: bool, try_alert: bool) -> bool:
    """Check everything, one after the other; whether nothing failed."""
    report = Report(as_json=as_json)
    try:
        settings = load_settings()
    except ConfigError as error:
        report(failed("settings", error.text, error.remedy))
    else:
        report(ok("settings", _in_short(settings)))
        for text, remedy in settings_remarks():
            report(warning("settings", text, remedy))
        await _look(settings, report, try_alert=try_alert)
    report.close()
    return report.is_well


async def _look(settings: Settings, report: Report, *, try_alert: bool) -> None:
    finding, look = await trio.to_thread.run_sync(check_spool, settings.buffer_path)
    report(finding)
    await check_database(settings, report)
    holder = None if look is None else look.holder
    status = None if holder is None else await _status_of_the_service(settings, holder)
    await _check_gateway(settings, holder, status, report)
    if settings.status_port is not None:
        report(await _check_page(settings, answered=status is not None))
    if settings.alert_url is not None:
        report(await _check_alerts(settings.alert_url, wanted=try_alert))
    elif try_alert:
        report(failed("alerts", "BRIDGE_ALERT_URL is not set", "name the webhook of a receiver"))


async def _status_of_the_service(settings: Settings, holder: Holder) -> BridgeStatus | None:
    try:
        status = await ask_service(settings)
    except NoStatusError:
        return None  # an older service may run without the endpoint that is set now
    # Another bridge may answer there.
    return status if status is None or holder.pid in (None, status.pid) else None


async def _check_gateway(
    settings: Settings, holder: Holder | None, status: BridgeStatus | None, report: Report
) -> None:
    if settings.ib_api_mode is ApiMode.PORTAL:
        try:
            tls_context(settings.ibkr_gateway_url, settings.ibkr_ca_file)
        except ConfigError as error:
            report_with_rest(failed("gateway", error.text, error.remedy), NAMES, report)
            return
    if status is not None and is_at_the_gateway(status, settings):
        unknown = unrecorded_accounts(status, settings)
        if not unknown or settings.ib_api_mode is ApiMode.PORTAL:
            check_by_status(status, unknown, report)
            return
    if status is not None and settings.ib_api_mode is ApiMode.PORTAL:
        holder = None  # it uses another gateway, so we do not disturb it
    await check_gateway(settings, holder, report)


async def _check_page(settings: Settings, *, answered: bool) -> Finding:
    from trio_bridge.web.endpoint import open_endpoint, url_of

    if answered:
        return ok("page", f"{url_of(settings)}: the service answers")
    try:
        async with open_endpoint(settings):
            return ok("page", f"{url_of(settings)}: starts with the service")
    except BridgeError as error:
        return failed("page", error.text, error.remedy)


async def _check_alerts(url: SecretStr, *, wanted: bool) -> Finding:
    receiver = urlsplit(url.get_secret_value()).hostname
    try:
        webhook = Webhook(url)
    except ConfigError as error:
        return failed("alerts", error.text, error.remedy)
    try:
        if not wanted:
            return skipped(
                "alerts", f"go to {receiver}; `check --alert` posts one to see it arrive"
            )
        test = AlertTried()
        line = DigestLine(utc_now(), test.kind, test.severity, test.message, 1)
        await webhook.post(Bulletin((line,)))
    except (NotNowError, RefusedError) as error:
        return failed("alerts", f"{receiver}: {error}", "check BRIDGE_ALERT_URL")
    finally:
        await webhook.aclose()
    return ok("alerts", f"{receiver} took a test alert: see whether it has arrived")


def _in_short(settings: Settings) -> str:
    accounts = ",".join(settings.ib_account) or "all accounts"
    if settings.ib_api_mode is ApiMode.PORTAL:
        gateway = f"PORTAL at {settings.ibkr_gateway_url}"
    else:
        gateway = (
            f"SOCKET at {settings.ib_socket_host}:{settings.ib_socket_port}, "
            f"client {settings.ib_client_id}"
        )
    return f"{gateway}, {accounts}, a row every {settings.poll_interval_s:g} s"
