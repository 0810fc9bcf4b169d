"""The jars that pyspark lacks: fetched once, verified, kept in the user's cache.

A stack file (``docker/stacks``), from which the image is built, too, has their sha256 and sizes. The
cache has each jar beside a marker with its verified sha256.
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
from sparklet.local.lock import Lock, incoming


@dataclass(frozen=True)
class PinnedJar:
    """One jar of a stack, and what its bytes must be."""

    group: str
    coordinate: ivy.Coordinate
    sha256: str
    size_bytes: int

    @property
    def file_name(self) -> str:
        """The jar's name in the cache and on the class path."""
        return self.coordinate.file_name

    def is_verified(self, cache_dir: Path) -> bool:
        """Whether the size is right, and a marker says that these bytes were verified."""
        try:
            # By size and marker alone: a sha256 would have every start read all jars.
            size_bytes = (cache_dir / self.file_name).stat().st_size
            return size_bytes == self.size_bytes and self.marker(cache_dir).read_text() == self.sha256
        except (FileNotFoundError, NotADirectoryError):
            return False

    def marker(self, cache_dir: Path) -> Path:
        """The file with the sha256 that was verified."""
        return cache_dir / f"{self.file_name}.sha256"


@dataclass(frozen=True)
class PinnedJars:
    """One Spark line and its jars, in the order of the class path."""

    name: str
    jars: tuple[PinnedJar, ...]
    local: tuple[str, ...]  # the groups that local workers have

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups there are, in order."""
        return tuple(dict.fromkeys(jar.group for jar in self.jars))


def load_stack(stack_file: Path) -> PinnedJars:
    """Read a stack file; LocalStackError naming file and fault if it is not one."""
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
    """Paths of the jars of ``groups`` in class-path order, fetched into ``cache_dir`` where they are not there yet.

    Of several processes one fetches, and the others wait. LocalStackError, with jar, cause and remedy, if a jar cannot
    be fetched (``offline``: is not there) or has another sha256.
    """
    stack = load_stack(stack_file)
    if unknown := sorted(set(groups) - set(stack.groups)):
        raise LocalStackError(f"stack {stack.name} has no group {', '.join(unknown)}; it has {', '.join(stack.groups)}")
    chosen = [jar for jar in stack.jars if jar.group in groups]
    # Without the lock, so that a cache that may only be read serves if all is there.
    if missing := _missing(chosen, cache_dir):
        if offline:
            raise _unavailable(missing, cache_dir, "this is offline mode. Run once with network")
        with _cache_lock(cache_dir) as lock:
            lock.exclusive(math.inf, lambda: progress("another process is fetching jars; waiting for it"))
            if missing := _missing(chosen, cache_dir):  # else another process was faster
                _fetch(missing, cache_dir, progress)
    return [cache_dir / jar.file_name for jar in chosen]


def _missing(jars: Collection[PinnedJar], cache_dir: Path) -> list[PinnedJar]:
    return [jar for jar in jars if not jar.is_verified(cache_dir)]


def _cache_lock(cache_dir: Path) -> Lock:
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        return Lock(cache_dir / ".lock")
    except OSError as error:
        raise LocalStackError(
            f"the jar cache {cache_dir} cannot be written: {error.strerror}. Make it writable"
        ) from error


def _fetch(missing: list[PinnedJar], cache_dir: Path, progress: Progress) -> None:
    total_mb = sum(jar.size_bytes for jar in missing) / 1e6
    source = ivy.MIRROR_VARIABLE if ivy.mirror() else "Maven Central"
    progress(f"fetching {total_mb:.1f} MB of jars from {source} into {cache_dir} (first use only)")
    with incoming(cache_dir) as folder:
        cause = ivy.fetch([jar.coordinate for jar in missing], folder, progress)
        # What has arrived is kept even if others have not, so the next run fetches less.
        for jar in missing:
            arrived = folder / "out" / jar.file_name
            if arrived.exists():
                _accept(jar, arrived, cache_dir)
    if missing := _missing(missing, cache_dir):
        raise _unavailable(missing, cache_dir, f"{cause}. {ivy.REMEDY}")


def _accept(jar: PinnedJar, arrived: Path, cache_dir: Path) -> None:
    """Move a fetched jar into the cache, if its sha256 is right."""
    with arrived.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    if sha256 != jar.sha256:
        raise LocalStackError(
            f"{jar.file_name} is not the file it should be: sha256 {sha256}, expected {jar.sha256}. It was not kept. "
            f"Something between here and the repository changed it: see your proxy or {ivy.MIRROR_VARIABLE}"
        )
    # The jar first: a kill before the marker leaves a jar that counts as missing, and is fetched again.
    arrived.replace(cache_dir / jar.file_name)
    jar.marker(cache_dir).write_text(jar.sha256)  # half written, it verifies nothing


def _unavailable(missing: list[PinnedJar], cache_dir: Path, why: str) -> LocalStackError:
    others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return LocalStackError(f"{missing[0].file_name}{others} is not available: not in {cache_dir}, and {why}")
