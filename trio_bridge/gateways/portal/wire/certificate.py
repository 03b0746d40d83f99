"""Whether the gateway is the one that the user means: how its certificate is checked.

The certificate that the gateway comes with fits no host name and expired in 2019, so it cannot be
verified as a browser would. IBKR_CA_FILE may therefore be that certificate itself: then it, and no
other, is accepted, whatever its name and dates (a pin).
"""

from __future__ import annotations

import hashlib
import re
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import trio

from trio_bridge.config import is_loopback
from trio_bridge.errors import ConfigError, GatewayError
from trio_bridge.events.portal import CertificatePinned, CertificateUnchecked

if TYPE_CHECKING:
    from pathlib import Path

    from trio_bridge.events.event import Event

FETCH_TIMEOUT_S: Final = 5.0
DEFAULT_PORT: Final = 443

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


async def trust(url: str, ca_file: Path | None) -> ssl.SSLContext:
    """How the certificate of the gateway at this URL is to be checked.

    Asks the gateway for its certificate, by a handshake and no request, where a file is given: only
    that tells whether the file holds the certificate or the CA that signed it.

    Raises:
        ConfigError: IBKR_CA_FILE cannot be used.
        GatewayError: the file holds certificates of servers only, and this gateway's is another.
    """
    context = tls_context(url, ca_file)
    if ca_file is None or not url.startswith("https:"):
        return context
    shown = await _shown_by(url)
    if shown is None:
        return context  # the connection itself will say why
    given = _certificates_in(ca_file)
    if shown in given:
        return PinnedContext(shown)
    if given and context.cert_store_stats()["x509_ca"] == 0:
        raise GatewayError(
            _another(shown, given[0]),
            setting="IBKR_CA_FILE",
            remedy="if it was renewed, put the new one there",
        )
    return context


def tls_context(url: str, ca_file: Path | None) -> ssl.SSLContext:
    """The usual check.

    The gateway ships with a self-signed certificate, so on a loopback host any certificate is
    accepted unless a CA file is given. Everywhere else it must be valid for the host.

    Raises:
        ConfigError: IBKR_CA_FILE cannot be used.
    """
    if ca_file is None and is_loopback(urlsplit(url).hostname or ""):
        # Without the system's certificates: reading them blocks all rows for 20 ms.
        return _accept_any(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"IBKR_CA_FILE={ca_file}: no usable PEM certificates ({error})", setting="IBKR_CA_FILE"
        ) from None


def remark_on(context: ssl.SSLContext, url: str) -> Event | None:
    """What a user should know of a check that is not the usual one."""
    if isinstance(context, PinnedContext):
        return CertificatePinned(url, fingerprint(context.pin))
    if url.startswith("https:") and context.verify_mode is ssl.CERT_NONE:
        return CertificateUnchecked(url)
    return None


def fingerprint(certificate: bytes) -> str:
    """The SHA-256 fingerprint of a certificate (DER), as `openssl x509 -fingerprint` writes it."""
    return hashlib.sha256(certificate).digest().hex(":").upper()


class _PinnedObject(ssl.SSLObject):
    """One connection of a `PinnedContext`."""

    def do_handshake(self) -> None:
        super().do_handshake()
        shown = self.getpeercert(binary_form=True) or b""
        assert isinstance(self.context, PinnedContext)
        if shown != self.context.pin:
            error = ssl.SSLCertVerificationError(1, _another(shown, self.context.pin))
            error.verify_message = _another(shown, self.context.pin)
            raise error


class PinnedContext(ssl.SSLContext):
    """Accepts one certificate (DER), whatever it says, and no other."""

    sslobject_class = _PinnedObject
    pin: bytes

    def __new__(cls, pin: bytes) -> PinnedContext:
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context.pin = pin
        _accept_any(context)
        return context


def _accept_any(context: ssl.SSLContext) -> ssl.SSLContext:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _certificates_in(file: Path) -> list[bytes]:
    """As DER; the file has been found usable."""
    return [
        ssl.PEM_cert_to_DER_cert(pem) for pem in _PEM.findall(file.read_text("utf-8", "replace"))
    ]


def _another(shown: bytes, given: bytes) -> str:
    return (
        "the gateway's certificate is not the one in IBKR_CA_FILE: its SHA-256 is "
        f"{fingerprint(shown)}, the file's {fingerprint(given)}"
    )


async def _shown_by(url: str) -> bytes | None:
    """The certificate (DER) that the gateway shows; None if there is none to be had now."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or DEFAULT_PORT
    context = _accept_any(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    with trio.move_on_after(FETCH_TIMEOUT_S):
        try:
            stream = await trio.open_ssl_over_tcp_stream(host, port, ssl_context=context)
            try:
                await stream.do_handshake()
                shown = stream.getpeercert(binary_form=True)
            finally:
                await trio.aclose_forcefully(stream)
        except (OSError, UnicodeError, trio.BrokenResourceError):
            return None
        return shown if isinstance(shown, bytes) else None
    return None
