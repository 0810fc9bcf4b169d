"""The bill of materials of a small file system with the image's layout."""

import email
import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
from cyclonedx.model.license import LicenseExpression
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from docker.sbom import bill, identity, licences

pytestmark = pytest.mark.skipif(not shutil.which("dpkg-query"), reason="no dpkg-query here: the bill is not tested")
STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u10

Package: vim
Status: deinstall ok config-files
Architecture: amd64
Version: 9
"""


def _jar(path: Path, *poms: tuple[str, str, str]) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as jar:
        for group, name, version in poms:
            text = f"# written by Maven\nversion={version}\ngroupId={group}\nartifactId={name}\n"
            jar.writestr(f"META-INF/maven/{group}/{name}/pom.properties", text)
    return path.read_bytes()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    _jar(root / "opt/spark/jars/outer-1.2.jar", ("org.inner", "inner", "9"), ("org.outer", "outer", "1.2"))
    _jar(root / "opt/spark/jars/nameless_2.12-3.0.jar")
    _jar(root / "opt/sparklet/jars/delta-3.3.jar")
    installed = root / "opt/sparklet/python/Some_Thing-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: Some_Thing\nVersion: 1.0\nLicense: MIT\n")
    for name, text in {
        "etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
        "var/lib/dpkg/status": STATUS,
        "opt/java/release": 'JAVA_VERSION="17.0.15"\nMODULES="java.base java.sql"\n',
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def stack_file(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.toml"
    file.write_text('name = "tiny"\n[[jar]]\ncoordinate = "io.delta:delta:3.3"\n')
    return file


def test_everything_in_the_image_is_in_the_bill(root: Path, stack_file: Path) -> None:
    found = {component["name"]: component for component in json.loads(bill(stack_file, root))["components"]}

    assert {name: component.get("purl") for name, component in found.items()} == {
        "outer": "pkg:maven/org.outer/outer@1.2",
        "nameless_2.12": None,
        "delta": "pkg:maven/io.delta/delta@3.3",
        "some-thing": "pkg:pypi/some-thing@1.0",
        "openjdk": "pkg:generic/openjdk@17.0.15",
        "debian": None,
        "libc6": "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64&distro=debian-12",
    }
    jar = (root / "opt/sparklet/jars/delta-3.3.jar").read_bytes()
    assert found["some-thing"]["licenses"][0]["license"]["name"] == "MIT"
    assert found["delta"]["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(jar).hexdigest()}]


def test_the_bill_is_valid_cyclonedx(root: Path, stack_file: Path) -> None:
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill(stack_file, root))

    assert fault is None, str(fault)[:300]


def test_the_bill_depends_on_the_image_alone(root: Path, stack_file: Path) -> None:
    first, second = bill(stack_file, root), bill(stack_file, root)
    _jar(root / "opt/sparklet/jars/delta-3.3.jar", ("io.delta", "delta", "3.3"))

    assert first == second
    assert json.loads(bill(stack_file, root))["serialNumber"] != json.loads(first)["serialNumber"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("License-Expression: MIT AND PSF-2.0\nLicense: x", ["MIT AND PSF-2.0"]),
        ("Classifier: License :: OSI Approved\nClassifier: License :: OSI Approved :: BSD License", ["BSD License"]),
        ("License: Apache 2\n        and its whole text", ["Apache 2"]),
        ("Name: x", []),
    ],
)
def test_a_licence_is_found_in_old_and_new_metadata(lines: str, expected: list[str]) -> None:
    told = licences(email.message_from_string(lines))

    assert [each.value if isinstance(each, LicenseExpression) else each.name for each in told] == expected


@pytest.mark.parametrize(
    ("file", "coordinate", "expected"),
    [
        ("a-1.jar", "org.real:a:1", ("org.real", "a", "1")),  # the stack file has the coordinate
        ("a-1.jar", "", ("org.shaded", "a", "1")),
        ("sparklet-java-0123456789abcdef.jar", "", ("", "sparklet-java", "0123456789abcdef")),
        ("sparklet-java-fedcba9876543210.jar", "", ("", "sparklet-java", "fedcba9876543210")),
    ],
)
def test_a_jar_is_known_by_stack_file_pom_or_name(
    tmp_path: Path, file: str, coordinate: str, expected: tuple[str, str, str]
) -> None:
    jar = tmp_path / file
    _jar(jar, *([("org.shaded", "a", "1")] if file == "a-1.jar" else []))

    assert identity(jar, coordinate) == expected
