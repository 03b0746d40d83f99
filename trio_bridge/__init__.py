"""Records the risk of an Interactive Brokers portfolio, without a gap.

The public names are loaded when they are first used, so that each command, and each of the two API
modes, imports only the libraries it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trio_bridge.config import Settings, load_settings
    from trio_bridge.gateways.base import IBridgeBase
    from trio_bridge.gateways.factory import build_bridge_from_env
    from trio_bridge.gateways.portal import PortalBridge
    from trio_bridge.gateways.socket import SocketBridge
    from trio_bridge.model import ApiEvent, ApiMode, Greeks, Position, Snapshot
    from trio_bridge.stores.breaker import DBCircuitBreaker
    from trio_bridge.stores.postgres import log_api_event, write_portfolio_snapshot
    from trio_bridge.stores.schema import ensure_bridge_schema

__version__ = "0.1.0"

_HOMES = {
    "ApiEvent": "model",
    "ApiMode": "model",
    "DBCircuitBreaker": "stores.breaker",
    "Greeks": "model",
    "IBridgeBase": "gateways.base",
    "PortalBridge": "gateways.portal",
    "Position": "model",
    "Settings": "config",
    "Snapshot": "model",
    "SocketBridge": "gateways.socket",
    "build_bridge_from_env": "gateways.factory",
    "ensure_bridge_schema": "stores.schema",
    "load_settings": "config",
    "log_api_event": "stores.postgres",
    "write_portfolio_snapshot": "stores.postgres",
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
