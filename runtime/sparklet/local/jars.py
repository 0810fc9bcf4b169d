"""The jars that pyspark lacks: fetched once, verified, and kept in the user's cache.

A stack file (``docker/stacks``) has their sha256 and sizes; the image is built from it, too. The cache has, beside each
jar, a marker file with the sha256 that was verified.
"""

import hashlib
import math
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparklet.errors import LocalStackError
from sparklet.local import ivy
from sparklet.local.ivy import Progress
from sparklet.local.lock import Lock, incoming_folder


@dataclass(frozen=True)
class PinnedJar:
    """One jar of a stack, with the sha256 and the size that its file must have."""

    group: str
    coordinate: ivy.Coordinate
    sha256: str
    size_bytes: int

    @property
    def file_name(self) -> str:
        """The name of the jar's file in the cache and on the class path."""
        return self.coordinate.file_name

    def is_verified(self, cache_dir: Path) -> bool:
        """Whether the cache has the jar with the right size, and a marker with the right sha256."""
        try:
            # The jar's own sha256 is not computed: every start would read all jars.
            size_bytes = (cache_dir / self.file_name).stat().st_size
            return size_bytes == self.size_bytes and self.marker(cache_dir).read_text() == self.sha256
        except (FileNotFoundError, NotADirectoryError):
            return False

    def marker(self, cache_dir: Path) -> Path:
        """The path of the file with the sha256 that was verified."""
        return cache_dir / f"{self.file_name}.sha256"


@dataclass(frozen=True)
class PinnedJars:
    """A stack: one Spark line and its jars, in the order of the class path."""

    name: str
    jars: tuple[PinnedJar, ...]
    local: tuple[str, ...]  # the groups that local workers have

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of all groups, in the order of their first jars."""
        return tuple(dict.fromkeys(jar.group for jar in self.jars))


def load_stack(stack_file: Path) -> PinnedJars:
    """Read a stack file; LocalStackError, which names the file and the mistake, if it is missing or malformed."""
    try:
        document = tomllib.loads(stack_file.read_text())
        return PinnedJars(document["name"], tuple(map(_jar, document["jar"])), tuple(document.get("local", ())))
    except FileNotFoundError as error:
        raise LocalStackError(f"stack file {stack_file} is not there") from error
    except (KeyError, TypeError, ValueError) as error:
        raise LocalStackError(f"stack file {stack_file} is not well-formed: {type(error).__name__}: {error}") from error


def _jar(entry: dict[str, Any]) -> PinnedJar:
    sha256 = entry["sha256"]
    if len(sha256) != 64 or int(sha256, 16) < 0:
        raise ValueError(f"sha256 of {entry['coordinate']} is not 64 hexadecimal digits")
    return PinnedJar(entry["group"], ivy.Coordinate.parse(entry["coordinate"]), sha256, int(entry["size_bytes"]))


def ensure_jars(
    stack_file: Path,
    cache_dir: Path,
    groups: Collection[str],
    progress: Progress,
    offline: bool = False,
) -> list[Path]:
    """Fetch the jars of ``groups`` that ``cache_dir`` lacks; return the paths of all, in the order of the class path.

    If several processes call this, one fetches, and the others wait. LocalStackError, with jar, cause and remedy, if a
    jar cannot be fetched, is missing in ``offline`` mode, or has another sha256.
    """
    stack = load_stack(stack_file)
    if unknown_groups := sorted(set(groups) - set(stack.groups)):
        raise LocalStackError(
            f"stack {stack.name} has no group {', '.join(unknown_groups)}; it has {', '.join(stack.groups)}"
        )
    group_jars = [jar for jar in stack.jars if jar.group in groups]
    # First without the lock, so that a complete cache can be read-only.
    if missing_jars := _unverified_jars(group_jars, cache_dir):
        if offline:
            raise _unavailable_error(
                missing_jars, cache_dir, "offline mode forbids to fetch it: run once with a network"
            )
        with _cache_lock(cache_dir) as lock:
            lock.exclusive(math.inf, lambda: progress("another process is fetching jars; waiting for it"))
            if missing_jars := _unverified_jars(group_jars, cache_dir):  # else another process was faster
                _fetch(missing_jars, cache_dir, progress)
    return [cache_dir / jar.file_name for jar in group_jars]


def _unverified_jars(jars: Collection[PinnedJar], cache_dir: Path) -> list[PinnedJar]:
    return [jar for jar in jars if not jar.is_verified(cache_dir)]


def _cache_lock(cache_dir: Path) -> Lock:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        return Lock(cache_dir / ".lock")
    except OSError as error:
        raise LocalStackError(
            f"the jar cache {cache_dir} cannot be written: {error.strerror}. Make it writable"
        ) from error


def _fetch(missing_jars: list[PinnedJar], cache_dir: Path, progress: Progress) -> None:
    total_mb = sum(jar.size_bytes for jar in missing_jars) / 1e6
    source = ivy.MIRROR_VARIABLE if ivy.mirror() else "Maven Central"
    progress(f"fetching {total_mb:.1f} MB of jars from {source} into {cache_dir} (first use only)")
    with incoming_folder(cache_dir) as folder:
        cause = ivy.fetch([jar.coordinate for jar in missing_jars], folder, progress)
        # Fetched jars are kept even if others are still missing, so that the next run fetches less.
        for jar in missing_jars:
            jar_file = folder / "out" / jar.file_name
            if jar_file.exists():
                _accept(jar, jar_file, cache_dir)
    if missing_jars := _unverified_jars(missing_jars, cache_dir):
        raise _unavailable_error(missing_jars, cache_dir, f"{cause}. {ivy.REMEDY}")


def _accept(jar: PinnedJar, jar_file: Path, cache_dir: Path) -> None:
    """Move a fetched jar into the cache; LocalStackError if its sha256 is wrong."""
    with jar_file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    if sha256 != jar.sha256:
        raise LocalStackError(
            f"{jar.file_name} is not the file it should be: sha256 {sha256}, expected {jar.sha256}. It was not kept. "
            f"Something between here and the repository changed it: see your proxy or {ivy.MIRROR_VARIABLE}"
        )
    # The jar before the marker: if a kill leaves no complete marker, the jar counts as missing and is fetched again.
    jar_file.replace(cache_dir / jar.file_name)
    jar.marker(cache_dir).write_text(jar.sha256)


def _unavailable_error(missing_jars: list[PinnedJar], cache_dir: Path, why: str) -> LocalStackError:
    others_text = f" and {len(missing_jars) - 1} more" if len(missing_jars) > 1 else ""
    return LocalStackError(f"{missing_jars[0].file_name}{others_text} is not available: not in {cache_dir}, and {why}")
