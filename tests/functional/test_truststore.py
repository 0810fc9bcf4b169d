"""Java's own keytool reads the trust store that Python writes."""

import os
import ssl
import subprocess
from pathlib import Path

import pytest

from sparklet.local.java import STORE_PASSWORD, find_java, jks, machine_certificates

DEBIANS = Path("/etc/ssl/certs/ca-certificates.crt")


def certificates_of_this_machine() -> list[bytes]:
    certificates = machine_certificates()
    if not certificates and not DEBIANS.is_file():
        pytest.skip("this machine keeps its certificates in an unknown place")
    assert certificates
    return certificates


def test_java_reads_every_certificate_of_the_machine(tmp_path: Path) -> None:
    certificates = certificates_of_this_machine()
    store = tmp_path / "trust.jks"
    store.write_bytes(jks(certificates))

    keytool = find_java().with_name("keytool")
    command = [str(keytool), "-list", "-storetype", "JKS", "-keystore", str(store), "-storepass", STORE_PASSWORD]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})

    assert answer.returncode == 0, answer.stdout
    assert answer.stdout.count("trustedCertEntry") == len(certificates)


def test_a_users_own_bundle_replaces_the_machines_certificates(tmp_path: Path) -> None:
    everything = certificates_of_this_machine()
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(ssl.DER_cert_to_PEM_cert(everything[0]))

    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        assert machine_certificates({name: str(bundle)}) == [everything[0]]
