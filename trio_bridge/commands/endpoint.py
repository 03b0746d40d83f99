"""Asks a running service how it is, over its own status endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import trio

from trio_bridge.errors import BridgeError
from trio_bridge.status import from_json

if TYPE_CHECKING:
    from trio_bridge.config import Settings
    from trio_bridge.status import BridgeStatus

ANSWER_TIMEOUT_S = 5.0

REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""A service that listens on every address is asked on this machine's own."""


class NoStatusError(BridgeError):
    """The service gave no status; the text says why."""


async def ask_service(settings: Settings) -> BridgeStatus | None:
    """The status of the service; None when it has no endpoint (BRIDGE_STATUS_PORT is not set).

    Raises:
        NoStatusError: there is no answer, or not a bridge's.
    """
    if settings.status_port is None:
        return None
    host = REACHED_AT.get(settings.status_host, settings.status_host)
    place = f"[{host}]" if ":" in host else host
    url = f"http://{place}:{settings.status_port}/api/status"
    headers = {}
    if settings.status_token is not None:
        headers["Authorization"] = f"Bearer {settings.status_token.get_secret_value()}"
    try:
        with trio.fail_after(ANSWER_TIMEOUT_S):
            # No proxy between a machine and itself.
            async with httpx.AsyncClient(timeout=None, trust_env=False) as client:
                answer = await client.get(url, headers=headers)
    except trio.TooSlowError:
        raise NoStatusError(f"{url} does not answer within {ANSWER_TIMEOUT_S:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise NoStatusError(f"no answer from {url}: {error}") from error
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise NoStatusError(f"{url} wants another BRIDGE_STATUS_TOKEN")
    try:
        answer.raise_for_status()
        return from_json(answer.content)
    except (httpx.HTTPError, ValueError) as error:
        reason = f"HTTP {answer.status_code}" if answer.is_error else "not a status of this version"
        raise NoStatusError(f"{url} is not this bridge's: {reason}") from error
