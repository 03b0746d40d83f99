"""Records the risk of an Interactive Brokers portfolio, without a gap.

The public names are loaded on first use, so that each command, and each of the two API modes,
imports only the libraries it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trio_bridge.version import __version__

if TYPE_CHECKING:
    from trio_bridge.config import Settings, load_settings
    from trio_bridge.delivery.breaker import DBCircuitBreaker
    from trio_bridge.gateways.base import IBridgeBase
    from trio_bridge.gateways.factory import build_bridge_from_env
    from trio_bridge.gateways.portal.bridge import PortalBridge
    from trio_bridge.gateways.socket.bridge import SocketBridge
    from trio_bridge.model import ApiEvent, ApiMode, Greeks, Position, Snapshot
    from trio_bridge.stores.database.postgres import log_api_event, write_portfolio_snapshot
    from trio_bridge.stores.database.schema import ensure_bridge_schema

_HOMES = {
    "ApiEvent": "model",
    "ApiMode": "model",
    "DBCircuitBreaker": "delivery.breaker",
    "Greeks": "model",
    "IBridgeBase": "gateways.base",
    "PortalBridge": "gateways.portal.bridge",
    "Position": "model",
    "Settings": "config",
    "Snapshot": "model",
    "SocketBridge": "gateways.socket.bridge",
    "build_bridge_from_env": "gateways.factory",
    "ensure_bridge_schema": "stores.database.schema",
    "load_settings": "config",
    "log_api_event": "stores.database.postgres",
    "write_portfolio_snapshot": "stores.database.postgres",
}

__all__ = [
    "ApiEvent",
    "ApiMode",
    "DBCircuitBreaker",
    "Greeks",
    "IBridgeBase",
    "PortalBridge",
    "Position",
    "Settings",
    "Snapshot",
    "SocketBridge",
    "__version__",
    "build_bridge_from_env",
    "ensure_bridge_schema",
    "load_settings",
    "log_api_event",
    "write_portfolio_snapshot",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
