"""Known vulnerabilities among the Python distributions of the image and of the local mode: ``make audit``.

pip-audit asks PyPI, then OSV. PyPI's answer "not found", which is also what a mirror without its JSON interface gives,
counts for pip-audit as fine; here it counts as not audited. What is found is a failure (exit code 1). What could not be
audited is a warning, so that a build without that access goes on, and a failure where ``REQUIRE_AUDIT`` is set.
"""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from docker.requirements_of import groups_of, requirements

PROJECT = Path(__file__).parents[1]
AUDITOR = PROJECT / ".venv-audit" / "bin" / "python"
SERVICES = ("pypi", "osv")
LIMIT_S = 300


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit found out about one list of distributions."""

    vulnerable: tuple[str, ...]  # a line each
    unaudited: tuple[str, ...]  # names
    cause: str = ""  # why there are such


def verdict_of(report: str) -> Verdict:
    """Read pip-audit's JSON; ValueError if it is none."""
    vulnerable, unaudited, causes = [], [], []
    for entry in json.loads(report)["dependencies"]:
        if "skip_reason" in entry:
            unaudited.append(entry["name"])
            causes.append(entry["skip_reason"])
        for found in entry.get("vulns", ()):
            names = ", ".join((found["id"], *found.get("aliases", ())))
            fixed = " or ".join(found.get("fix_versions", ())) or "nothing yet"
            vulnerable.append(f"{entry['name']} {entry['version']}: {names}; fixed by {fixed}")
    return Verdict(tuple(vulnerable), tuple(unaudited), causes[0] if causes else "")


def audit(requirements_file: Path, options: Sequence[str]) -> Verdict:
    """Ask one service after the other until one has audited everything; else the answer that says most."""
    verdicts: list[Verdict] = []
    for service in SERVICES:
        verdicts.append(_ask(requirements_file, service, options))
        if not verdicts[-1].unaudited:
            break
    return max(verdicts, key=lambda verdict: (len(verdict.vulnerable), not verdict.unaudited))


def _ask(requirements_file: Path, service: str, options: Sequence[str]) -> Verdict:
    command = [str(AUDITOR), "-m", "pip_audit", "--disable-pip", "--require-hashes"]
    command += ["--requirement", str(requirements_file)]
    command += ["--vulnerability-service", service, "--format", "json", "--progress-spinner", "off", *options]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return Verdict((), ("everything",), f"{service} did not answer within {LIMIT_S} s")
    try:
        return verdict_of(answer.stdout)
    except (ValueError, KeyError):
        lines = answer.stderr.strip().splitlines() or ["pip-audit ended without a word"]
        return Verdict((), ("everything",), f"{service}: {lines[-1][:300]}")


def lists(folder: Path) -> Iterator[tuple[str, Path]]:
    """What is audited, by name: every distribution of each stack, and what each local mode installs."""
    for stack_file in sorted((PROJECT / "docker" / "stacks").glob("*.toml")):
        stack = tomllib.loads(stack_file.read_text())
        file = folder / f"{stack_file.stem}.txt"
        file.write_text("".join(f"{line}\n" for line in requirements(stack, groups_of(stack))))
        yield f"image {stack_file.stem}", file
    for lock in [*sorted(PROJECT.glob("requirements/local*.lock")), PROJECT / "requirements" / "emulator.lock"]:
        yield lock.name, lock


def main(options: Sequence[str]) -> int:
    """Audit everything; the exit code. Options go to pip-audit (--ignore-vuln ID)."""
    if not AUDITOR.exists():
        print("there is no .venv-audit: run make audit", file=sys.stderr)
        return 2
    with TemporaryDirectory(prefix="sparklet-audit-") as folder, ThreadPoolExecutor() as threads:
        names, files = zip(*lists(Path(folder)), strict=True)
        verdicts = list(threads.map(lambda file: audit(file, options), files))
    for name, verdict in zip(names, verdicts, strict=True):
        print(told(name, verdict), file=sys.stderr if verdict.vulnerable or verdict.unaudited else sys.stdout)
    unaudited = any(verdict.unaudited for verdict in verdicts) and bool(os.environ.get("REQUIRE_AUDIT"))
    return int(unaudited or any(verdict.vulnerable for verdict in verdicts))


def told(name: str, verdict: Verdict) -> str:
    """A verdict in words."""
    lines = [f"VULNERABLE  {name}: {line}" for line in verdict.vulnerable]
    if verdict.unaudited:
        which = ", ".join(verdict.unaudited)
        lines.append(f"WARNING  {name}: NOT AUDITED: {which}\n         because: {verdict.cause}")
    return "\n".join(lines) or f"{name}: no known vulnerability"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
