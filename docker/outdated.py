"""What of the stack files is not the newest, and how long their Spark is supported: ``make outdated``.

It changes nothing. Revisions come from Ivy's own listing and from pip, so that no registry's address stands here.
Pre-releases are passed over, and a version with a suffix (``2.1.0-spark-3.5``) is compared with those of the same
suffix only.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from docker.ivy_revisions import revisions
from sparklet.errors import LocalStackError
from sparklet.local import ivy

STACKS = Path(__file__).parent / "stacks"
_PRE_RELEASE = re.compile(r"alpha|beta|preview|snapshot|dev|-?(m|rc|cr|a|b)\d", re.IGNORECASE)
_VERSION = re.compile(r"(\d+(?:\.\d+)*)(.*)")


@dataclass(frozen=True, slots=True)
class Newer:
    """An entry of a stack file, and what there is instead."""

    name: str
    version: str
    in_line: str  # the newest of the same major and minor version; "" if that is what the stack has
    newest: str  # "" if that is what the stack has


def newer(name: str, version: str, available: Iterable[str]) -> Newer | None:
    """What is newer than ``version``; None if nothing is."""
    number, suffix = _parts(version)
    others = [_parts(other) for other in available if not _PRE_RELEASE.search(_parts(other)[1])]
    later = sorted(found for found, its_suffix in others if its_suffix == suffix and found > number)
    in_line = [found for found in later if found[:2] == number[:2]]
    if not later:
        return None
    return Newer(name, version, _text(in_line, suffix), _text(later, suffix))


def _parts(version: str) -> tuple[tuple[int, ...], str]:
    match = _VERSION.match(version)
    return (tuple(map(int, match[1].split("."))), match[2]) if match else ((), version)


def _text(found: Sequence[tuple[int, ...]], suffix: str) -> str:
    return ".".join(map(str, found[-1])) + suffix if found else ""


def newer_jars(stack: Mapping[str, Any], folder: Path) -> Iterator[Newer]:
    """The jars of a stack for which there is something newer."""
    jars = [ivy.Coordinate.parse(entry["coordinate"]) for entry in stack["jar"]]
    for jar, found in zip(jars, revisions(jars, folder), strict=True):
        if later := newer(f"{jar.organisation}:{jar.artifact}", jar.version, found):
            yield later


def newer_distributions(stack: Mapping[str, Any]) -> Iterator[Newer]:
    """The distributions of a stack for which there is something newer."""
    entries = stack.get("distribution", ())
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda entry: _pip_versions(entry["name"], stack["python"]), entries)
        for entry, available in zip(entries, found, strict=True):
            if later := newer(entry["name"], entry["version"], available):
                yield later


def _pip_versions(name: str, python: str) -> list[str]:
    """The versions that pip would take for a Python, newest first."""
    command = [sys.executable, "-m", "pip", "index", "versions", name, "--python-version", python]
    answer = subprocess.run(
        [*command, "--only-binary", ":none:", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=False,
    )
    listed = re.search(r"^Available versions: (.+)$", answer.stdout, re.MULTILINE)
    if not listed:
        lines = answer.stderr.strip().splitlines() or ["pip said nothing"]
        raise LocalStackError(f"pip lists no versions of {name}: {lines[-1]}. Check the name and the network")
    return listed[1].split(", ")


def table(rows: Sequence[Newer]) -> str:
    """Rows as aligned text."""
    lines = [("", "has", "same line", "newest"), *((r.name, r.version, r.in_line or "–", r.newest) for r in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def supported(stack: Mapping[str, Any], today: date) -> Iterator[str]:
    """How long the stack's Spark is maintained and by whom, a line each with its source."""
    for entry in stack.get("support", ()):
        ends = "ended on" if entry["until"] < today else "ends on"
        yield f"  support of {entry['of']}, {ends} {entry['until']} ({entry['source']})"


def main(arguments: Sequence[str]) -> int:
    """Print what is newer for the named stack files, all if none is named; the exit code is not 0 only on errors."""
    for stack_file in [Path(argument) for argument in arguments] or sorted(STACKS.glob("*.toml")):
        stack = tomllib.loads(stack_file.read_text())
        try:
            with TemporaryDirectory(prefix="sparklet-outdated-") as folder:
                rows = [*newer_jars(stack, Path(folder)), *newer_distributions(stack)]
        except (LocalStackError, ValueError) as error:
            print(f"{stack_file.name}: {error}", file=sys.stderr)
            return 1
        print(f"{stack_file.name}:\n{table(rows)}" if rows else f"{stack_file.name}: nothing is newer")
        print("\n".join(supported(stack, date.today())), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
