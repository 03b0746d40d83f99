"""Does the gateway let us in, with which accounts, and does market data come?

It must not disturb: beside a running service the TWS API is asked under another client id and on
one market-data line; the Client Portal, whose pace is shared by all and enforced by a ten-minute
penalty, is not asked at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_bridge.commands.checks.finding import failed, ok, report_with_rest, skipped, warning
from trio_bridge.errors import ConfigError, GatewayError
from trio_bridge.events.portal import CertificatePinned
from trio_bridge.gateways.factory import build_bridge
from trio_bridge.gateways.readiness import NotReadyError
from trio_bridge.model import ApiMode, Severity
from trio_bridge.text import count, duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_bridge.commands.checks.finding import Finding, Report
    from trio_bridge.config import Settings
    from trio_bridge.events.event import Event
    from trio_bridge.gateways.base import IBridgeBase
    from trio_bridge.model import Snapshot
    from trio_bridge.status import BridgeStatus
    from trio_bridge.stores.spool.look import Holder

READY_TIMEOUT_S = 25.0
"""For the first Greeks; the bridge itself waits 10 s for them, and a portal is slower."""

TROUBLE_TIMEOUT_S = 3.0
"""The same while the bridge itself says that something is wrong."""

READY_POLL_S = 0.1
LARGEST_CLIENT_ID = 2**31 - 1

NAMES = ("gateway", "accounts", "market data")
REMEDIES = {
    ApiMode.SOCKET: "is that TWS or IB Gateway? IB_SOCKET_HOST and IB_SOCKET_PORT say where it is",
    ApiMode.PORTAL: "is the Client Portal Gateway running? IBKR_GATEWAY_URL says where",
}
"""For an error that knows none."""


async def check_gateway(settings: Settings, holder: Holder | None, report: Report) -> None:
    """Three findings: gateway, accounts, market data. `holder` is the service that is running."""
    if holder is not None and settings.ib_api_mode is ApiMode.PORTAL:
        why = f"{holder} uses it, and a second client would be counted against it"
        text = f"{settings.ibkr_gateway_url}: {why}; see `trio-bridge status`"
        report_with_rest(skipped(NAMES[0], text), NAMES, report)
        return
    if holder is not None:
        settings = beside_the_service(settings)
    events: list[Event] = []
    bridge = build_bridge(settings, emit=events.append)
    async with bridge:
        try:
            reported = await _look(bridge, holder, events, report)
        finally:
            await bridge.disconnect()  # bounded by itself
    for event in events:
        if event is not reported and event.severity is not Severity.INFO:
            report(warning(NAMES[0], event.text, event.remedy))


def beside_the_service(settings: Settings) -> Settings:
    """The settings of a visitor: another client id (never the owner's 0), and one line only."""
    client_id = settings.ib_client_id
    other = client_id + 1 if client_id < LARGEST_CLIENT_ID else client_id - 1
    return settings.model_copy(update={"ib_client_id": other, "ib_market_data_lines": 1})


def is_at_the_gateway(status: BridgeStatus, settings: Settings) -> bool:
    """Whether the service uses the gateway that is set: the settings may be newer than it."""
    set_now = build_bridge(settings)
    return (status.api_mode, status.gateway.endpoint) == (settings.ib_api_mode, set_now.endpoint)


def unrecorded_accounts(status: BridgeStatus, settings: Settings) -> str:
    """Those in IB_ACCOUNT that the running service does not record: the login may not have them."""
    recorded = status.ticker.accounts
    return ", ".join(one for one in settings.ib_account if one not in recorded)


def check_by_status(status: BridgeStatus, unknown: str, report: Report) -> None:
    """The same findings, from the status of the running service; `unknown`: see
    `unrecorded_accounts`."""
    gateway, ticker = status.gateway, status.ticker
    where = f"{gateway.endpoint}: the service (process {status.pid}) is {gateway.state}"
    last = ticker.last
    if ticker.silent_because is not None or last is None:
        reason = gateway.reason or ticker.silent_because or "no row yet"
        report_with_rest(failed(NAMES[0], where, reason), NAMES, report)
        return
    report(ok(NAMES[0], where))
    if unknown:
        text = f"the service records {last.account}; whether the login has {unknown} too is unknown"
        remedy = (
            "correct IB_ACCOUNT, or stop the service and check again: the gateway is not asked "
        )
        report(failed(NAMES[1], text, f"{remedy}beside it"))
    else:
        report(ok(NAMES[1], f"{last.account}: {count(last.positions or 0, 'position')}"))
    _judge_prices(last.positions or 0, last.priced or 0, last.data_type, last.greeks_age_s, report)


async def _look(
    bridge: IBridgeBase, holder: Holder | None, events: Sequence[Event], report: Report
) -> Event | None:
    """Report the findings; return which of the events is among them."""
    try:
        await bridge.connect()
    except (GatewayError, ConfigError) as error:
        report_with_rest(_refusal(bridge, error, report), NAMES, report)
        return None
    if holder is not None:
        visitor = f"as client {bridge.settings.ib_client_id}, beside the service ({holder})"
        report(ok(NAMES[0], f"{bridge.endpoint}: connected {visitor}"))
        _report_accounts(bridge, report)
        report(skipped(NAMES[2], "the service needs the lines; see `trio-bridge status`"))
        return None
    snapshot, reason = await _first_row(bridge, events)
    if snapshot is None:
        cause = _cause(events)
        text = f"{bridge.endpoint}: connected, but no rows: {reason}"
        found = failed(NAMES[0], text, "" if cause is None else cause.remedy)
        report_with_rest(found, NAMES, report)
        return cause
    pinned = any(isinstance(event, CertificatePinned) for event in events)
    how = ", its certificate is the one in IBKR_CA_FILE" if pinned else ""
    report(ok(NAMES[0], f"{bridge.endpoint}: connected{how}"))
    _report_accounts(bridge, report)
    data_type = None if snapshot.data_type is None else snapshot.data_type.label
    _judge_prices(snapshot.positions, snapshot.priced, data_type, snapshot.greeks_age_s, report)
    return None


def _cause(events: Sequence[Event]) -> Event | None:
    """Why there are no rows now, if the bridge has reported it."""
    last = next((event for event in reversed(events) if event.stops_rows is not None), None)
    return last if last is not None and last.stops_rows else None


async def _first_row(bridge: IBridgeBase, events: Sequence[Event]) -> tuple[Snapshot | None, str]:
    """The first row, else why there is none."""
    reason = ""
    began_s = trio.current_time()
    while (waited_s := trio.current_time() - began_s) < READY_TIMEOUT_S:
        try:
            return bridge.get_portfolio_greeks(), ""
        except NotReadyError as error:
            reason = str(error)
        if waited_s > TROUBLE_TIMEOUT_S and _cause(events) is not None:
            break  # a person has to act, and waits for this
        await trio.sleep(READY_POLL_S)
    return None, reason


def _report_accounts(bridge: IBridgeBase, report: Report) -> None:
    inputs = bridge.inputs()
    accounts = ", ".join(inputs.accounts) or "no account"
    report(ok(NAMES[1], f"{accounts}: {count(len(inputs.positions), 'position')}"))


def _judge_prices(
    positions: int, priced: int, data_type: str | None, age_s: float | None, report: Report
) -> None:
    kind = "" if data_type is None else f", {data_type}"
    age = f", {duration(age_s)} old" if age_s else ""
    text = f"{priced} of {count(positions, 'position')} priced{kind}{age}"
    if priced < positions:
        report(
            warning(
                NAMES[2],
                text,
                "the others add nothing to the row: see the market-data subscriptions of the "
                "login, IB_MARKET_DATA_TYPE and IB_MARKET_DATA_LINES",
            )
        )
    else:
        report(ok(NAMES[2], text))


def _refusal(bridge: IBridgeBase, error: GatewayError | ConfigError, report: Report) -> Finding:
    """Why it could not be connected."""
    if error.setting == "IB_ACCOUNT":  # everything else went well
        report(ok(NAMES[0], f"{bridge.endpoint}: connected"))
        return failed(NAMES[1], error.text, error.remedy)
    known = error.setting or error.remedy
    # Name the place only once.
    text = error.text if bridge.endpoint in error.text else f"{bridge.endpoint}: {error.text}"
    return failed(NAMES[0], text, error.remedy if known else REMEDIES[bridge.mode])
