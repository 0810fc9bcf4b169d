"""The class-data archive: classes that Java maps instead of parsing, which halves the CPU time of a JVM's start.

The image has one (``docker/archive.py``). On a user's machine one is made once for each Java and class path, in the
background and at the lowest priority, and kept beside the jars. Java ignores an archive that does not fit, so no start
waits for an archive or fails without one.

This module imports only the standard library and ``local.lock``: the image's builder loads the two alone. As a program
it makes an archive: ``python -m sparklet.local.class_data ARCHIVE CLASSES JAVA CLASS_PATH``.
"""

import contextlib
import gzip
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sparklet.local.lock import Lock, incoming_folder

MAX_ARCHIVES = 4  # of 260 MB each; beyond that the least recently used ones are deleted
MIN_FREE_BYTES = 2 * 2**30
CHECK_LIMIT_S = 60.0
CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
LOCK = ".lock"  # held by the maker of an archive


@dataclass(frozen=True, slots=True)
class ClassArchive:
    """The archive for a Java and a class path, whether it exists yet or not."""

    path: Path
    classes: Path  # the stack's list of classes, gzipped
    java: Path
    jars: tuple[str, ...]  # the class path

    @classmethod
    def of(cls, folder: Path, classes: Path, java: Path, jars: Sequence[str]) -> Self:
        """The archive for this Java and class path.

        Its name is a digest of the class list and of all that Java compares: Java's build, each jar's path, size and
        date. Dates are whole seconds, as Java compares them, and as an image's layers keep them.
        """
        home = java.resolve().parent.parent
        digest = hashlib.sha256()
        for path in (classes, home / "lib/server/libjvm.so", home / "lib/modules", *map(Path, jars)):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                digest.update(f"{path}\0{status.st_size}\0{int(status.st_mtime)}\n".encode())
        return cls(folder / f"{digest.hexdigest()[:32]}.jsa", classes, java, tuple(jars))

    def begin(self, env: Mapping[str, str]) -> bool:
        """Start a process that makes the archive, unless it exists or is being made; return whether one was started.

        The process outlives this one. It stays in the terminal's session, since priorities count within a session, but
        in a process group of its own, which Ctrl-C does not reach.
        """
        try:
            if not self._should_be_made():
                return False
            self._start_maker(env)
        except OSError:  # for example, the cache is read-only
            return False
        return True

    def _should_be_made(self) -> bool:
        """Whether to start a maker. Creates the folder; marks an archive that exists as used now."""
        folder = self.path.parent
        if self.path.exists():
            os.utime(self.path)
            return False
        if self.failure():
            return False  # it would fail again
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < MIN_FREE_BYTES:
            return False
        # Only a check: each maker takes the lock itself, and of two that start at the same time one ends at once.
        with Lock(folder / LOCK) as lock:
            return lock.exclusive()

    def _start_maker(self, env: Mapping[str, str]) -> None:
        arguments = [*map(str, (self.path, self.classes, self.java)), os.pathsep.join(self.jars)]
        no_input = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "sparklet.local.class_data", *arguments],
            env,
            file_actions=[no_input, (os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)],
            setpgroup=0,
        )

    def make(self) -> None:
        """Make the archive, unless it exists or another process makes one, and delete the least recently used archives.

        If Java fails for good, ``failure`` returns why.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with Lock(self.path.with_name(LOCK)) as lock:
            if not lock.exclusive() or self.path.exists():
                return
            with incoming_folder(self.path.parent) as folder:
                draft = folder / "archive"
                java = [str(self.java), "-Xmx1g", "-XX:+UseSerialGC", "-cp", os.pathsep.join(self.jars)]
                names = read_names(self.classes, folder, map(Path, self.jars), lambdas=self._is_java_17)
                command = dump_command(java, names, draft)
                # Java holds the lock as well: if this process is killed, no second maker begins meanwhile.
                result = subprocess.run(
                    command, capture_output=True, text=True, pass_fds=[lock.descriptor], check=False
                )
                # After an exit code or a crash Java would fail again. After any other signal the next try may succeed.
                if result.returncode > 0 or -result.returncode in CRASHES:
                    self._failure_file.write_text(
                        (result.stderr + result.stdout)[-2000:] or f"code {result.returncode}"
                    )
                if result.returncode:
                    return
                draft.replace(self.path)
            archives = sorted(self.path.parent.glob("*.jsa"), key=lambda path: path.stat().st_mtime, reverse=True)
            for outdated_archive in archives[MAX_ARCHIVES:]:  # a JVM that has mapped a deleted archive can go on
                outdated_archive.unlink(missing_ok=True)

    def refusal(self, name: str) -> str:
        """Why Java would silently ignore the archive, or would not load the class ``name`` from it; "" if it does."""
        # -Xshare:on makes Java fail where it would otherwise silently ignore the archive.
        options = ["-Xshare:on", f"-XX:SharedArchiveFile={self.path}", "-Xlog:class+load", "--dry-run"]
        try:
            java = subprocess.run(
                [str(self.java), *options, "-cp", os.pathsep.join(self.jars), name],
                capture_output=True,
                text=True,
                timeout=CHECK_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if java.returncode == 0:
            is_used = f" {name} source: shared objects file" in java.stdout
            return "" if is_used else f"Java loads {name} from its jar, not from {self.path}"
        lines = (java.stdout + java.stderr).strip().splitlines() or [f"Java ended with code {java.returncode}"]
        return " ".join(lines[:2])

    def failure(self) -> str:
        """Why the archive could not be made; "" if no try has failed."""
        try:
            return self._failure_file.read_text()
        except FileNotFoundError:
            return ""

    @property
    def _is_java_17(self) -> bool:
        release = self.java.resolve().parents[1] / "release"
        return release.is_file() and 'JAVA_VERSION="17' in release.read_text()

    @property
    def _failure_file(self) -> Path:
        return self.path.with_suffix(".failed")


def dump_command(command: Sequence[str], names: Path | None, archive: Path) -> list[str]:
    """A Java command, which ends with ``-cp`` and a class path, changed to write an archive of the listed ``names``.

    Java ignores missing classes, such as those of a table format that is left out. If ``names`` is None, Java's own
    list is used.
    """
    options = ["-Xshare:dump", f"-XX:SharedArchiveFile={archive}", "-Xlog:cds=error", "-Xlog:class+path=error"]
    if names is not None:
        options.append(f"-XX:SharedClassListFile={names}")
    return [*command[:-2], *options, *command[-2:]]


def read_names(classes: Path, folder: Path, jars: Iterable[Path], *, lambdas: bool = True) -> Path:
    """Write the stack's list of classes into ``folder``, with all classes of the worker's own Java; return its path.

    Without ``lambdas`` the lines of lambda expressions are left out: Java 17 made them, and Java 21 crashes on them.
    """
    lines = gzip.decompress(classes.read_bytes()).decode().split("\n")
    # A training run (``docker/build.py --train``) made the list, perhaps before the worker's own Java was changed.
    for jar in jars:
        if jar.name.startswith("sparklet-java-"):
            with zipfile.ZipFile(jar) as archive:
                class_names = [name.removesuffix(".class") for name in archive.namelist() if name.endswith(".class")]
            lines += sorted(set(class_names).difference(lines))
    if not lambdas:
        lines = [line for line in lines if not line.startswith("@lambda-")]
    names = folder / "classes"
    names.write_text("\n".join(filter(None, lines)) + "\n")
    return names


def main(path: str, classes: str, java: str, class_path: str) -> None:
    """Make the archive at the lowest priority."""
    os.nice(19)
    ClassArchive(Path(path), Path(classes), Path(java), tuple(class_path.split(os.pathsep))).make()


if __name__ == "__main__":
    main(*sys.argv[1:])
