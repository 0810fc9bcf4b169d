"""Java itself reads the store that Python writes."""

import os
import ssl
import subprocess
from pathlib import Path

import pytest

from sparklet.local.java import STORE_PASSWORD, find_java, jks, machine_certificates

DEBIANS = Path("/etc/ssl/certs/ca-certificates.crt")


def of_this_machine() -> list[bytes]:
    found = machine_certificates()
    if not found and not DEBIANS.is_file():
        pytest.skip("this machine keeps its certificates where nobody looks")
    assert found
    return found


def test_java_reads_every_certificate_of_the_machine(tmp_path: Path) -> None:
    certificates = of_this_machine()
    store = tmp_path / "trust.jks"
    store.write_bytes(jks(certificates))

    keytool = find_java().with_name("keytool")
    command = [str(keytool), "-list", "-storetype", "JKS", "-keystore", str(store), "-storepass", STORE_PASSWORD]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})

    assert answer.returncode == 0, answer.stdout
    assert answer.stdout.count("trustedCertEntry") == len(certificates)


def test_a_bundle_of_the_users_own_comes_first(tmp_path: Path) -> None:
    everything = of_this_machine()
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(ssl.DER_cert_to_PEM_cert(everything[0]))

    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        assert machine_certificates({name: str(bundle)}) == [everything[0]]
