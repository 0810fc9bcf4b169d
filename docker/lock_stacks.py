"""Fetch everything the stack files name and note file names, sha256 and sizes in them: ``make lock-stacks``.

Jars come through Ivy, distributions through pip, as in the image's build; so no registry's address stands here. The
files are edited in place: comments, order and what is written by hand stay. One of them: ``ARGS=docker/stacks/x.toml``.
"""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

from sparklet.errors import LocalStackError
from sparklet.local import ivy

STACKS = Path(__file__).parent / "stacks"
GLIBCS = (
    "manylinux_2_28",
    "manylinux_2_24",
    "manylinux_2_17",
    "manylinux2014",
)  # what Amazon Linux 2023 (2.34) and Debian 12 can load


@dataclass(frozen=True, order=True, slots=True)
class Locked:
    """A file as it came."""

    name: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> "Locked":
        """Name, hash and size of a file."""
        with path.open("rb") as content:
            return cls(path.name, hashlib.file_digest(content, "sha256").hexdigest(), path.stat().st_size)


def lock_document(text: str, jars: Mapping[str, Locked], distributions: Mapping[str, Collection[Locked]]) -> str:
    """A stack file with what was found written into it.

    Parameters
    ----------
    jars
        By coordinate.
    distributions
        By requirement, ``name==version``; each with all the files it may come as.
    """
    document: Any = tomlkit.parse(text)
    for entry in document["jar"]:
        found = jars[entry["coordinate"]]
        entry["sha256"] = found.sha256
        entry["size_bytes"] = _grouped(found.size_bytes)
    for entry in document.get("distribution", ()):
        entry["files"] = _files(distributions[f"{entry['name']}=={entry['version']}"])
    return tomlkit.dumps(document)


def _grouped(number: int) -> Any:
    """An integer for a TOML file, its digits in groups."""
    return tomlkit.value(f"{number:_}")


def _files(found: Collection[Locked]) -> Any:
    lines = (
        f'    {{ name = "{file.name}", sha256 = "{file.sha256}", size_bytes = {file.size_bytes:_} }},\n'
        for file in sorted(found)
    )
    return tomlkit.parse("files = [\n" + "".join(lines) + "]\n")["files"]


def requirement_of(file_name: str) -> str:
    """The requirement, ``name==version``, that a wheel or a source distribution answers."""
    if file_name.endswith(".whl"):
        name, version, *_ = parse_wheel_filename(file_name)
    else:
        name, version = parse_sdist_filename(file_name)
    return f"{name}=={version}"


def fetch_jars(coordinates: Iterable[str], folder: Path) -> dict[str, Locked]:
    """Fetch jars with Ivy; by coordinate. LocalStackError for the first that cannot be had."""
    wanted = {text: ivy.Coordinate.parse(text) for text in coordinates}
    if cause := ivy.fetch(wanted.values(), folder, print):
        missing = [text for text, jar in wanted.items() if not (folder / "out" / jar.file_name).exists()]
        raise LocalStackError(f"{missing[0]} cannot be had: {cause}. Check its coordinates. {ivy.REMEDY}")
    return {text: Locked.of(folder / "out" / jar.file_name) for text, jar in wanted.items()}


def fetch_distributions(stack: Mapping[str, Any], folder: Path) -> dict[str, list[Locked]]:
    """Fetch distributions with pip, for each machine what it would install; by requirement."""
    entries = stack.get("distribution", ())
    wheels = [f"{entry['name']}=={entry['version']}" for entry in entries if not entry.get("sdist")]
    sources = [f"{entry['name']}=={entry['version']}" for entry in entries if entry.get("sdist")]
    for machine in stack["machines"]:
        print(f"  {len(wheels)} wheels for {machine}")
        _pip_download(folder, [*_for_machine(stack["python"], machine), *wheels])
    if sources:
        print(f"  {', '.join(sources)} as source")
        _pip_download(folder, ["--no-build-isolation", "--no-binary", ":all:", *sources])
    found: dict[str, list[Locked]] = {}
    for path in folder.iterdir():
        found.setdefault(requirement_of(path.name), []).append(Locked.of(path))
    return {
        requirement: found[f"{canonicalize_name(name)}=={version}"]
        for requirement in (*wheels, *sources)
        for name, _, version in [requirement.partition("==")]
    }


def _for_machine(python: str, machine: str) -> list[str]:
    """Options of pip for wheels of a Python on a machine."""
    platforms = [option for glibc in GLIBCS for option in ("--platform", f"{glibc}_{machine}")]
    return ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python, *platforms]


def _pip_download(folder: Path, arguments: Sequence[str]) -> None:
    if not arguments:
        return
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
    answer = subprocess.run([*pip, "--dest", str(folder), *arguments], text=True, capture_output=True, check=False)
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or ["pip ended without a word"]
        raise LocalStackError(f"pip download failed: {lines[-1]}. Check names, versions and the network")


def lock(stack_file: Path) -> list[str]:
    """Regenerate one stack file; what changed in it, a line each."""
    text = stack_file.read_text()
    stack = tomlkit.parse(text).unwrap()
    with tempfile.TemporaryDirectory(prefix="sparklet-lock-") as work:
        folders = [Path(work, name) for name in ("jars", "distributions")]
        for folder in folders:
            folder.mkdir()
        jars = fetch_jars((entry["coordinate"] for entry in stack["jar"]), folders[0])
        distributions = fetch_distributions(stack, folders[1])
    locked = lock_document(text, jars, distributions)
    if locked != text:
        stack_file.write_text(locked)
    return differences(stack, tomlkit.parse(locked).unwrap())


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names of the entries that are not what they were."""
    return [
        str(new.get("coordinate") or f"{new['name']}=={new['version']}")
        for kind in ("jar", "distribution")
        for old, new in zip(before.get(kind, ()), after.get(kind, ()), strict=True)
        if old != new
    ]


def main(arguments: Sequence[str]) -> int:
    """Lock the named stack files, all if none is named; the exit code."""
    for stack_file in [Path(argument) for argument in arguments] or sorted(STACKS.glob("*.toml")):
        print(f"{stack_file.name}:")
        try:
            changed = lock(stack_file)
        except (LocalStackError, ValueError) as error:
            print(f"{stack_file.name} stays as it was: {error}", file=sys.stderr)
            return 1
        print("".join(f"  changed: {name}\n" for name in changed) or "  nothing changed\n", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
