"""Which bridge the settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_bridge.config import Settings, load_settings
from trio_bridge.gateways.base import EventSink, IBridgeBase, discard_event
from trio_bridge.model import ApiMode, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime


def build_bridge(
    settings: Settings,
    *,
    emit: EventSink = discard_event,
    now: Callable[[], datetime] = utc_now,
) -> IBridgeBase:
    """The bridge for `settings.ib_api_mode`; imports that mode's libraries only."""
    if settings.ib_api_mode is ApiMode.PORTAL:
        from trio_bridge.gateways.portal.bridge import PortalBridge
        from trio_bridge.gateways.portal.wire.pace_file import pace_file_of

        pace_file = pace_file_of(settings.ibkr_gateway_url)
        return PortalBridge(settings, emit=emit, now=now, pace_file=pace_file)
    from trio_bridge.gateways.socket.bridge import SocketBridge

    return SocketBridge(settings, emit=emit, now=now)


def build_bridge_from_env() -> IBridgeBase:
    """The bridge that the environment and `.env` ask for.

    Raises:
        ConfigError: (a ValueError) `IB_API_MODE` or another setting is invalid.
    """
    return build_bridge(load_settings())
