"""The class-data archive: classes that Java maps instead of parsing, which halves the CPU time of a JVM's start.

The image has one (``docker/archive.py``). Elsewhere it is made once for each Java and class path, in the background and
at the lowest priority, and kept beside the jars. Java ignores an archive that does not fit, so no start waits for one
or fails without one.

Only the standard library and ``local.lock``: the image's builder loads the two alone. As a program it makes an archive:
``python -m sparklet.local.class_data ARCHIVE CLASSES JAVA CLASS_PATH``.
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

from sparklet.local.lock import Lock, incoming

MAX_ARCHIVES = 4  # of 260 MB each; of more, those not used for longest are deleted
MIN_FREE_BYTES = 2 * 2**30
CHECK_LIMIT_S = 60.0
CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
LOCK = ".lock"  # held by the maker of an archive


@dataclass(frozen=True, slots=True)
class ClassArchive:
    """An archive, made or not, of a Java and a class path."""

    path: Path
    classes: Path  # the stack's list, gzipped
    java: Path
    jars: tuple[str, ...]  # the class path

    @classmethod
    def of(cls, folder: Path, classes: Path, java: Path, jars: Sequence[str]) -> Self:
        """The archive of this Java and class path.

        Its name is a digest of all that Java compares (its build; each jar's path, size and date) and the class list.
        Dates are whole seconds, as Java compares them: a layer of an image keeps no others.
        """
        home = java.resolve().parent.parent
        digest = hashlib.sha256()
        for path in (classes, home / "lib/server/libjvm.so", home / "lib/modules", *map(Path, jars)):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                digest.update(f"{path}\0{status.st_size}\0{int(status.st_mtime)}\n".encode())
        return cls(folder / f"{digest.hexdigest()[:32]}.jsa", classes, java, tuple(jars))

    def begin(self, env: Mapping[str, str]) -> bool:
        """Begin to make it, unless it is there or being made; return whether it was begun.

        The maker outlives this process. It stays in the terminal's session, since priorities count within a session,
        but in a process group of its own, which Ctrl-C does not reach.
        """
        try:
            if not self._is_wanted():
                return False
            self._start_maker(env)
        except OSError:  # a cache that may only be read, for example
            return False
        return True

    def _is_wanted(self) -> bool:
        folder = self.path.parent
        if self.path.exists():
            os.utime(self.path)  # used
            return False
        if self.failure():
            return False  # it would fail again
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < MIN_FREE_BYTES:
            return False
        # Only a look: the maker takes the lock itself, and of two that begin at once the second ends.
        with Lock(folder / LOCK) as lock:
            return lock.exclusive()

    def _start_maker(self, env: Mapping[str, str]) -> None:
        described = [*map(str, (self.path, self.classes, self.java)), os.pathsep.join(self.jars)]
        nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "sparklet.local.class_data", *described],
            env,
            file_actions=[nothing, (os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)],
            setpgroup=0,
        )

    def make(self) -> None:
        """Make it, atomically, in one process at a time; see ``failure``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with Lock(self.path.with_name(LOCK)) as lock:
            if not lock.exclusive() or self.path.exists():
                return
            with incoming(self.path.parent) as folder:
                made = folder / "archive"
                java = [str(self.java), "-Xmx1g", "-XX:+UseSerialGC", "-cp", os.pathsep.join(self.jars)]
                names = read_names(self.classes, folder, map(Path, self.jars), lambdas=self._is_java_17)
                command = dump_command(java, names, made)
                # Java holds the lock as well: if this process is killed, no second maker begins meanwhile.
                ended = subprocess.run(command, capture_output=True, text=True, pass_fds=[lock.descriptor], check=False)
                # Java would fail or crash in the same way again; any other signal says nothing about the archive.
                if ended.returncode > 0 or -ended.returncode in CRASHES:
                    self._failure_file.write_text((ended.stderr + ended.stdout)[-2000:] or f"code {ended.returncode}")
                if ended.returncode:  # below 0: killed, the next try may do better
                    return
                made.replace(self.path)
            made_so_far = sorted(self.path.parent.glob("*.jsa"), key=lambda path: path.stat().st_mtime, reverse=True)
            for outdated in made_so_far[MAX_ARCHIVES:]:  # a JVM that has one of them mapped keeps it
                outdated.unlink(missing_ok=True)

    def refusal(self, name: str) -> str:
        """Why Java would silently ignore it, or its class of this name; "" if Java uses it."""
        # -Xshare:on makes an error of what Java would otherwise not mention.
        options = ["-Xshare:on", f"-XX:SharedArchiveFile={self.path}", "-Xlog:class+load", "--dry-run"]
        try:
            answer = subprocess.run(
                [str(self.java), *options, "-cp", os.pathsep.join(self.jars), name],
                capture_output=True,
                text=True,
                timeout=CHECK_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if not answer.returncode:
            used = f" {name} source: shared objects file" in answer.stdout
            return "" if used else f"Java takes {name} from its jar, not from {self.path}"
        lines = (answer.stdout + answer.stderr).strip().splitlines() or [f"Java ended with code {answer.returncode}"]
        return " ".join(lines[:2])

    def failure(self) -> str:
        """Why it could not be made; "" if no try has failed."""
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
    """Java's command, which ends with the class path, changed to write an archive of the classes in ``names``.

    Missing classes, such as those of a format left out, are ignored. None: Java's own list.
    """
    chosen = ["-Xshare:dump", f"-XX:SharedArchiveFile={archive}", "-Xlog:cds=error", "-Xlog:class+path=error"]
    if names is not None:
        chosen.append(f"-XX:SharedClassListFile={names}")
    return [*command[:-2], *chosen, *command[-2:]]


def read_names(classes: Path, folder: Path, jars: Iterable[Path], *, lambdas: bool = True) -> Path:
    """The stack's list of classes as Java reads it, unpacked into ``folder``, with all of the worker's own Java.

    ``lambdas``: with those of lambdas, which are Java 17's own; Java 21 crashes as it reads them.
    """
    listed = gzip.decompress(classes.read_bytes()).decode().split("\n")
    # The list is a training run's (``docker/build.py --train``), which may be older than the worker's own Java.
    for jar in jars:
        if jar.name.startswith("sparklet-java-"):
            with zipfile.ZipFile(jar) as archive:
                class_names = [name.removesuffix(".class") for name in archive.namelist() if name.endswith(".class")]
            listed += sorted(set(class_names).difference(listed))
    if not lambdas:
        listed = [line for line in listed if not line.startswith("@lambda-")]
    names = folder / "classes"
    names.write_text("\n".join(filter(None, listed)) + "\n")
    return names


def main(path: str, classes: str, java: str, class_path: str) -> None:
    """Make it at the lowest priority."""
    os.nice(19)
    ClassArchive(Path(path), Path(classes), Path(java), tuple(class_path.split(os.pathsep))).make()


if __name__ == "__main__":
    main(*sys.argv[1:])
