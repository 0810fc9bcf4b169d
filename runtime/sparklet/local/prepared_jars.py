"""Jars that are prepared on this machine, so that Java loads their classes from a class-data archive.

- The worker's own Java, compiled once: see ``spark.java_classes``.
- Copies without signatures: Java archives no class of a signed jar. Two of Spark's jars are signed, those of janino,
  which every query needs. Their sha256 is verified instead.
- Hard links, or copies, on plain paths: Java 17 silently ignores an archive for a jar whose URL has escapes, such as
  ``%20`` for a space.

Only the standard library at import: the image's builder uses this file alone.
"""

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

SIGNED = ("janino-*.jar", "commons-compiler-*.jar")
SIGNATURES = (".SF", ".RSA", ".DSA", ".EC")
MANIFEST = "META-INF/MANIFEST.MF"
MIN_FREE_BYTES = 2 * 2**30
OTHERWISE = Path("/var/tmp")  # noqa: S108 - a folder of the user's own in it


def compiled_jar(java: Path, jars: Iterable[Path], folder: Path) -> Path:
    """A jar of the worker's Java, made in ``folder`` if it is not there; its date is always the same.

    ``jars``: Spark's and S3A's, or folders of them. Several processes may make it at once: the results are equal.
    """
    from sparklet.spark.java_classes import files, mark

    jar = folder / f"{mark()}.jar"
    if jar.is_file():
        return jar
    from py4j.java_gateway import JavaGateway

    folder.mkdir(parents=True, exist_ok=True)
    class_path = os.pathsep.join(f"{path}{os.sep}*" if path.is_dir() else str(path) for path in jars)
    # With a token, or any user of this machine could run code in this JVM.
    gateway = JavaGateway.launch_gateway(classpath=class_path, java_path=str(java), die_on_exit=True, enable_auth=True)
    try:
        content = list(files(gateway.jvm))
    finally:
        gateway.shutdown()
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        made = Path(draft, jar.name)
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content:
                archive.writestr(zipfile.ZipInfo(name), data)
        # Java compares the dates of jars with those that it has in the class-data archive.
        os.utime(made, (0, 0))
        made.replace(jar)
    return jar


def unsigned_copies(jars: Path, folder: Path) -> list[Path]:
    """Copies of the signed jars in Spark's folder ``jars``, made in ``folder`` where they are not there yet.

    In ``SPARKLET_JARS`` they replace Spark's own. Their date is always the same, so that the archive stays valid. None
    if they cannot be written: then Spark's own are used.
    """
    signed = sorted(jar for pattern in SIGNED for jar in jars.glob(pattern))
    copies = [folder / jar.name for jar in signed]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for jar, copy in zip(signed, copies, strict=True):
            if not copy.exists():
                draft = folder / f".{jar.name}.{os.getpid()}"
                strip(jar, draft)
                os.utime(draft, (0, 0))
                draft.replace(copy)
    except OSError:
        return []
    return copies


def strip(jar: Path, target: Path) -> None:
    """Copy a jar without signatures and signed digests."""
    with zipfile.ZipFile(jar) as signed, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bare:
        for entry in signed.infolist():
            if not (entry.filename.startswith("META-INF/") and entry.filename.endswith(SIGNATURES)):
                content = signed.read(entry)
                if entry.filename == MANIFEST:
                    content = b"".join(_main_section(content.splitlines(keepends=True)))
                bare.writestr(entry, content, zipfile.ZIP_DEFLATED)


def _main_section(lines: Iterable[bytes]) -> Iterable[bytes]:
    """A manifest up to its first blank line; each section that follows is an entry's digests."""
    for line in lines:
        yield line
        if not line.strip():
            return


def is_plain(path: Path) -> bool:
    """Whether a URL spells the path without escapes."""
    return quote(str(path), safe="/@+,=~") == str(path)


def linked_jars(jars: Sequence[Path | str], folder: Path, otherwise: Path = OTHERWISE) -> list[Path]:
    """The jars, with links below ``folder`` for those on paths with escapes; unchanged if no link can be made.

    ``otherwise``: a folder that every user may write to, for links if ``folder`` itself has such a path.
    """
    try:
        folder = folder if is_plain(folder) else _own(otherwise / f"sparklet-{os.getuid()}")
        for source in (link_folder / "source" for link_folder in folder.glob("sparklet-*")):
            if source.is_symlink() and not source.exists():  # else links would keep deleted jars
                shutil.rmtree(source.parent, ignore_errors=True)  # noqa: TID251 - this file is used alone
        return [jar if is_plain(jar) else _linked(jar, folder) for jar in (Path(jar).resolve() for jar in jars)]
    except OSError:
        return list(map(Path, jars))


def _own(folder: Path) -> Path:
    """The folder, if only this user may write to it; else OSError."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    # In a folder that all may write to, another user may have put a link, or a folder of theirs with jars in it.
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o170022 != 0o040000:
        raise PermissionError(f"{folder} is not a folder that only this user may write to")
    return folder


def _linked(jar: Path, folder: Path) -> Path:
    status = jar.stat()
    # With size and date: a jar that was replaced gets another link.
    name = sha256(os.fsencode(f"{jar}\0{status.st_size}\0{status.st_mtime_ns}")).hexdigest()[:16]
    link = folder / f"sparklet-{name}" / jar.name
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        # A hard link keeps the bytes of a deleted jar; this soft one tells the next start that it is gone.
        with contextlib.suppress(FileExistsError):
            (link.parent / "source").symlink_to(jar)
        draft = link.with_name(f".{os.getpid()}")
        try:
            os.link(jar, draft)
        except OSError:  # another file system, or a jar of another user's
            if shutil.disk_usage(folder).free < MIN_FREE_BYTES:
                raise
            shutil.copy2(jar, draft)
        draft.replace(link)
    return link
