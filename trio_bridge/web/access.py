"""Decides from the head of a request alone whether to answer it.

Two ways lead from a foreign web page to a port on this machine. A page may send requests to
`http://localhost:8650`; the browser marks them as cross-site and does not show the page the answer.
Or it may have its own name resolve to 127.0.0.1 (DNS rebinding): then the browser takes us for that
page's server, but still sends its name in the Host header. The first is refused by the mark, the
second by the name. Where a token is required, neither way has it, so any name will do.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from trio_bridge.config import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr

COOKIE_DAYS = 90
COOKIE_LABEL = b"trio_bridge status page"


class Access:
    """The rules of one endpoint. Headers are given with lower-case names."""

    def __init__(self, token: SecretStr | None, port: int) -> None:
        self._token = None if token is None else token.get_secret_value().encode()
        # Browsers share a host's cookies between its ports: two bridges must not share one name.
        self.cookie_name = f"trio_bridge_{port}"

    @property
    def needs_token(self) -> bool:
        return self._token is not None

    def host_is_ours(self, headers: Mapping[str, str]) -> bool:
        """Whether the Host header names this machine; any name will do where a token is required.

        (Other machines may reach this one by names that only its network knows.)
        """
        host = headers.get("host", "")
        return self.needs_token or is_loopback(_without_port(host))

    def is_foreign(self, headers: Mapping[str, str]) -> bool:
        """Whether another site's page sends this. A click on a link to us does not count.

        https://developer.mozilla.org/docs/Web/HTTP/Headers/Sec-Fetch-Site
        """
        foreign = headers.get("sec-fetch-site", "none") in {"cross-site", "same-site"}
        return foreign and headers.get("sec-fetch-mode") != "navigate"

    def knows_token(self, headers: Mapping[str, str]) -> bool:
        """Whether the request carries the token, or the cookie that was given for it."""
        if self._token is None:
            return True
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(value.strip()):
            return True
        return hmac.compare_digest(self._cookie(headers).encode(), self.cookie_value.encode())

    def is_token(self, text: str) -> bool:
        """Compares in a time that does not depend on where they differ."""
        return self._token is not None and hmac.compare_digest(text.encode(), self._token)

    @property
    def cookie_value(self) -> str:
        """Proves the token without containing it: a stolen cookie does not reveal it."""
        return hmac.new(self._token or b"", COOKIE_LABEL, "sha256").hexdigest()

    @property
    def set_cookie(self) -> str:
        """The header's value. Not `Secure`: that would keep it from plain http, which this is."""
        return (
            f"{self.cookie_name}={self.cookie_value}; Path=/; HttpOnly; SameSite=Strict; "
            f"Max-Age={COOKIE_DAYS * 86_400}"
        )

    def _cookie(self, headers: Mapping[str, str]) -> str:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie_name)
        except CookieError:
            return ""
        return "" if morsel is None else morsel.value


def _without_port(host: str) -> str:
    """`localhost` from `localhost:8650`, `::1` from `[::1]:8650`."""
    if host.startswith("["):
        address, closed, _ = host[1:].partition("]")
        return address if closed else ""
    return host.partition(":")[0]
