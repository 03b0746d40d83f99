"""Posts alerts as JSON to a webhook: Slack, Discord, Google Chat, ntfy, or whatever takes JSON.

The URL is a secret (whoever knows it can post): no message of this module contains it, only its
host.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import trio

from trio_bridge.errors import ConfigError
from trio_bridge.model import Severity
from trio_bridge.version import __version__

if TYPE_CHECKING:
    from pydantic import SecretStr

    from trio_bridge.policy.digest import Bulletin, DigestLine

POST_TIMEOUT_S = 10.0
LONGEST_PAUSE_S = 3600.0
"""The most that is believed of a receiver's Retry-After."""

TEXT_LIMIT = 1_900
"""Discord takes 2,000 characters, ntfy 4,096 bytes."""

TRY_LATER = frozenset({408, 425, 429})
"""Refusals that pass, besides all of 500 and above."""

GRAVITY = {Severity.INFO: 0, Severity.WARNING: 1, Severity.ERROR: 2}


class NotNowError(Exception):
    """The receiver took nothing, but may later; `after_s` is how long it wants to be left alone."""

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class RefusedError(Exception):
    """The receiver will never take this; the text says why, without the URL."""


class Webhook:
    """One receiver; a context manager that holds the connections to it."""

    def __init__(self, url: SecretStr) -> None:
        """Raises ConfigError: the way there, which the environment says, can't be used."""
        self._url = url
        self.host = urlsplit(url.get_secret_value()).hostname or ""
        try:
            self._client = httpx.AsyncClient(
                timeout=None,  # a post has one deadline over all of it
                follow_redirects=False,
                headers={"User-Agent": f"trio_bridge/{__version__}"},
            )
        except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
            # Its text may quote a part of the proxy's password.
            raise ConfigError(
                "BRIDGE_ALERT_URL can't be reached with the proxies or certificates that the "
                "environment names (ALL_PROXY and its kin, without SOCKS; SSL_CERT_FILE)",
                setting="BRIDGE_ALERT_URL",
            ) from error

    async def aclose(self) -> None:
        await self._client.aclose()

    async def post(self, bulletin: Bulletin) -> None:
        """Raises NotNowError, RefusedError."""
        payload = payload_for(self.host, bulletin, sender=socket.gethostname())
        try:
            with trio.fail_after(POST_TIMEOUT_S):
                # The body is not waited for: at a wrong address it may have no end.
                async with self._client.stream(
                    "POST", self._url.get_secret_value(), json=payload
                ) as answer:
                    pass
        except trio.TooSlowError:
            raise NotNowError(f"no answer within {POST_TIMEOUT_S:g} s") from None
        except (httpx.HTTPError, OSError) as error:
            raise NotNowError(str(error) or type(error).__name__) from error
        except (httpx.InvalidURL, UnicodeError) as error:
            # The name cannot be looked up; the error may quote it, but no more of the URL.
            raise RefusedError(str(error)) from error
        if answer.is_success:
            return
        reason = f"HTTP {answer.status_code} {answer.reason_phrase}".strip()
        if answer.status_code in TRY_LATER or answer.is_server_error:
            raise NotNowError(reason, _pause_s(answer.headers.get("Retry-After", "")))
        raise RefusedError(reason)


def payload_for(host: str, bulletin: Bulletin, *, sender: str) -> dict[str, Any]:
    """The JSON for a receiver. Some refuse fields that they do not know, so they get their own;
    all others get everything, with the same text as `text` and `content`."""
    title, text = _title(bulletin, sender), _text(bulletin)
    both = f"{title}\n{text}"
    match host.lower():
        case "hooks.slack.com":
            # https://docs.slack.dev/messaging/formatting-message-text#escaping
            for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
                both = both.replace(plain, escaped)
            return {"text": both}
        case "chat.googleapis.com":
            return {"text": both}
        case "discord.com" | "discordapp.com":
            # An "@everyone" in a gateway's text must not notify anyone.
            return {"content": both, "allowed_mentions": {"parse": []}}
    return {
        "title": title,
        "text": text,
        "content": both,
        "source": "trio_bridge",
        "host": sender,
        "status": _worst(bulletin),
        "events": [
            {
                "timestamp": line.at.isoformat(),
                "kind": line.kind,
                "status": line.status,
                "message": line.message,
                "count": line.times,
            }
            for line in bulletin.lines
        ],
        "left_out": bulletin.left_out,
    }


def _title(bulletin: Bulletin, sender: str) -> str:
    return f"trio_bridge on {sender}: {_worst(bulletin)}"


def _text(bulletin: Bulletin) -> str:
    lines = [_line(one) for one in bulletin.lines]
    if bulletin.left_out:
        lines.append(f"… and {bulletin.left_out} more")
    text = "\n".join(lines)
    return text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}…"


def _line(line: DigestLine) -> str:
    times = f" (×{line.times})" if line.times > 1 else ""
    return f"{line.at:%H:%M:%S} UTC {line.status}: {line.message}{times}"


def _worst(bulletin: Bulletin) -> Severity:
    return max((line.status for line in bulletin.lines), key=GRAVITY.__getitem__)


def _pause_s(retry_after: str) -> float:
    """Seconds only: the other form, a date, is a matter of clocks, and the backoff will do."""
    try:
        return min(max(0.0, float(retry_after)), LONGEST_PAUSE_S)
    except ValueError:
        return 0.0
