"""A software bill of materials as CycloneDX JSON: ``python sbom.py --stack STACK_FILE [--root /]`` writes the image's,
``python sbom.py --python FOLDER`` that of Sparklet's wheel and all that was installed with it into a folder.

The first runs in the image's build against the assembled file system, with cyclonedx-python-lib on the path, which the
image does not hold. The same content gives the same bytes: no time, no random number.
"""

import argparse
import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

JAR_FOLDERS = ("opt/spark/jars", "opt/sparklet/jars", "opt/sparklet/extra-jars")
PYTHON = "opt/sparklet/python"
JAVA = "opt/java"
_NAMED = re.compile(r"(.+?)-(\d.*|[0-9a-f]{16})\.jar")  # Sparklet's own jar has a digest for its version


def jars(root: Path, coordinates: Mapping[str, str]) -> Iterator[Component]:
    """Every jar with its sha256.

    Parameters
    ----------
    coordinates
        By file name: what the stack file says; others are asked for their Maven metadata.
    """
    for path in (path for folder in JAR_FOLDERS for path in sorted((root / folder).glob("*.jar"))):
        with path.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        group, name, version = identity(path, coordinates.get(path.name, ""))
        yield Component(
            name=name,
            group=group or None,
            version=version or None,
            bom_ref=str(path.relative_to(root)),
            purl=PackageURL("maven", group, name, version) if group else None,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
        )


def identity(jar: Path, coordinate: str = "") -> tuple[str, str, str]:
    """Group, artifact and version of a jar; the group is empty where neither stack file nor jar tells it."""
    if coordinate:
        group, name, version = coordinate.split(":")
        return group, name, version
    for found in _maven_properties(jar):
        if jar.name.startswith(f"{found.get('artifactId')}-{found.get('version')}"):
            return found["groupId"], found["artifactId"], found["version"]
    named = _NAMED.fullmatch(jar.name)
    return ("", named[1], named[2]) if named else ("", jar.stem, "")


def _maven_properties(jar: Path) -> Iterator[dict[str, str]]:
    """What Maven put into the jar; a jar that holds others has several."""
    try:
        with zipfile.ZipFile(jar) as content:
            for name in content.namelist():
                if re.fullmatch(r"META-INF/maven/[^/]+/[^/]+/pom\.properties", name):
                    lines = content.read(name).decode("utf-8", "replace").splitlines()
                    yield dict(line.strip().split("=", 1) for line in lines if "=" in line and line[0] != "#")
    except zipfile.BadZipFile as error:
        sys.exit(f"sbom.py: {jar} is no jar: {error}")


def python_distributions(folder: Path) -> Iterator[Component]:
    """What is installed in a folder, with its licences."""
    for found in importlib.metadata.distributions(path=[str(folder)]):
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        url = PackageURL("pypi", None, name, found.version)
        told = licences(found.metadata)  # type: ignore[arg-type]  # a Message it is
        yield Component(name=name, version=found.version, purl=url, bom_ref=str(url), licenses=told)


def licences(metadata: Message) -> list[LicenseExpression | DisjunctiveLicense]:
    """As a distribution tells them, by its age: an SPDX expression, classifiers, or a text's first line."""
    if expression := metadata.get("License-Expression"):
        return [LicenseExpression(expression)]
    classifiers = [each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier", []) if "License ::" in each]
    names = [name for name in classifiers if name != "OSI Approved"] or metadata.get("License", "").splitlines()[:1]
    return [DisjunctiveLicense(name=name) for name in names if name]


def java(root: Path) -> Iterator[Component]:
    """The Java runtime, as its own release file names it."""
    release = _settings(root / JAVA / "release")
    if version := release.get("JAVA_VERSION"):
        url = PackageURL("generic", None, "openjdk", version)
        yield Component(
            name="openjdk", version=version, type=ComponentType.PLATFORM, purl=url, bom_ref=str(url),
            properties=[Property(name="sparklet:modules", value=release.get("MODULES", ""))],
        )  # fmt: skip


def system(root: Path) -> Iterator[Component]:
    """The distribution and its packages, by its own package manager."""
    release = _settings(root / "etc" / "os-release")
    distribution, version = release.get("ID", "linux"), release.get("VERSION_ID", "")
    yield Component(
        name=distribution, version=version or None, type=ComponentType.OPERATING_SYSTEM, bom_ref=f"os:{distribution}"
    )
    kind = "deb" if (root / "var/lib/dpkg/status").is_file() else "rpm"
    for name, its_version, architecture in _debs(root) if kind == "deb" else _rpms(root):
        qualifiers = {"arch": architecture, "distro": f"{distribution}-{version}"}
        url = PackageURL(kind, distribution, name, its_version, qualifiers)
        yield Component(name=name, version=its_version, purl=url, bom_ref=str(url))


def _debs(root: Path) -> Iterator[tuple[str, str, str]]:
    admin = root / "var" / "lib" / "dpkg"
    form = "${db:Status-Abbrev}\t${Package}\t${Version}\t${Architecture}\n"
    for line in _lines("dpkg-query", f"--admindir={admin}", "--show", f"--showformat={form}"):
        status, name, version, architecture = line.split("\t")
        if status.startswith("ii"):
            yield name, version, architecture


def _rpms(root: Path) -> Iterator[tuple[str, str, str]]:
    for line in _lines("rpm", f"--root={root}", "-qa", "--qf", "%{NAME}\t%{VERSION}-%{RELEASE}\t%{ARCH}\n"):
        name, version, architecture = line.split("\t")
        yield name, version, architecture


def _lines(*command: str) -> list[str]:
    if not shutil.which(command[0]):
        sys.exit(f"sbom.py: there is no {command[0]} here to list the distribution's packages with")
    answer = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"}
    )
    return sorted(answer.stdout.splitlines())


def _settings(file: Path) -> dict[str, str]:
    """KEY="value" lines; none if there is no such file."""
    lines = file.read_text().splitlines() if file.is_file() else []
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}


def bill(stack_file: Path, root: Path) -> str:
    """The image's whole bill as JSON."""
    stack = tomllib.loads(stack_file.read_text())
    named = [jar["coordinate"] for jar in stack["jar"]]
    coordinates = {f"{name}-{version}.jar": whole for whole in named for _, name, version in [whole.split(":")]}
    components = [*jars(root, coordinates), *python_distributions(root / PYTHON), *java(root), *system(root)]
    image = Component(name="sparklet", version=stack["name"], type=ComponentType.CONTAINER, bom_ref="image")
    return _written(image, components)


def wheel_bill(folder: Path) -> str:
    """The wheel's, of what was installed with it."""
    installed = sorted(python_distributions(folder), key=lambda each: each.name)
    (sparklet,) = [each for each in installed if each.name == "sparklet"]
    return _written(sparklet, [each for each in installed if each is not sparklet])


def _written(subject: Component, components: Sequence[Component]) -> str:
    content = "\n".join(sorted(f"{c.bom_ref} {c.version} {[h.content for h in c.hashes]}" for c in components))
    bom = Bom(
        components=components,
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, content),
        metadata=BomMetaData(component=subject, timestamp=datetime.fromtimestamp(0, UTC)),
    )
    bom.register_dependency(subject, components)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1) + "\n"


def main() -> None:
    """Write the bill to standard output."""
    arguments = argparse.ArgumentParser(description=__doc__)
    of = arguments.add_mutually_exclusive_group(required=True)
    of.add_argument("--stack", type=Path)
    of.add_argument("--python", type=Path)
    arguments.add_argument("--root", type=Path, default=Path("/"))
    asked = arguments.parse_args()
    sys.stdout.write(wheel_bill(asked.python) if asked.python else bill(asked.stack, asked.root))


if __name__ == "__main__":
    main()
