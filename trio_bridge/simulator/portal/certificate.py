"""The certificate that the real gateway comes with: no host name fits it, and it has expired."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from trustme import LeafCert

COMMON_NAME: Final = "Client Portal Web API"
BEGIN: Final = datetime(2018, 4, 18, tzinfo=UTC)
END: Final = datetime(2019, 4, 18, tzinfo=UTC)


def vendor_certificate() -> LeafCert:
    """A self-signed certificate like the real gateway's: a common name, no alternative names."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGIN)
        .not_valid_after(END)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    return LeafCert(key_pem, certificate.public_bytes(serialization.Encoding.PEM), [])
