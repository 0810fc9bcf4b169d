"""Prepare jars on this machine, so that Java can load their classes from a class-data archive.

- The worker's own Java is compiled once: see ``spark.java_classes``.
- Signed jars are copied without signatures, since Java archives no class of a signed jar. Two of Spark's jars are
  signed, those of janino, which every query needs. Their sha256 is verified instead.
- Jars get hard links, or copies, on plain paths, since Java 17 silently ignores an archive for a jar whose URL has
  escapes, such as ``%20`` for a space.

At import this module needs only the standard library: the image's builder uses it alone.
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
FALLBACK = Path("/var/tmp")  # noqa: S108 - only a private folder in it is used


def compiled_jar(java: Path, jars: Iterable[Path], folder: Path) -> Path:
    """The jar of the worker's Java; compiled into ``folder`` if it does not exist. Its date is always the same.

    ``jars`` are Spark's and S3A's jars, or folders of jars. Several processes may compile at once: the jars are equal.
    """
    from sparklet.spark.java_classes import files, mark

    jar = folder / f"{mark()}.jar"
    if jar.is_file():
        return jar
    from py4j.java_gateway import JavaGateway

    folder.mkdir(parents=True, exist_ok=True)
    class_path = os.pathsep.join(f"{path}{os.sep}*" if path.is_dir() else str(path) for path in jars)
    # Without a token any user of this machine could run code in this JVM.
    gateway = JavaGateway.launch_gateway(classpath=class_path, java_path=str(java), die_on_exit=True, enable_auth=True)
    try:
        content = list(files(gateway.jvm))
    finally:
        gateway.shutdown()
    with tempfile.TemporaryDirectory(dir=folder) as draft_folder:
        draft = Path(draft_folder, jar.name)
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in content:
                archive.writestr(zipfile.ZipInfo(name), data)
        # Java compares the dates of jars with those in the class-data archive.
        os.utime(draft, (0, 0))
        draft.replace(jar)
    return jar


def unsigned_copies(jars: Path, folder: Path) -> list[Path]:
    """Copies without signatures of the signed jars in Spark's folder ``jars``; ``folder`` keeps them.

    In ``SPARKLET_JARS`` they replace Spark's own jars. Their date is always the same, so that the archive stays valid.
    Returns [] if they cannot be written: then Spark's own jars are used.
    """
    signed_jars = sorted(jar for pattern in SIGNED for jar in jars.glob(pattern))
    copies = [folder / jar.name for jar in signed_jars]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for jar, copy in zip(signed_jars, copies, strict=True):
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
    with zipfile.ZipFile(jar) as signed_zip, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as unsigned_zip:
        for entry in signed_zip.infolist():
            if not (entry.filename.startswith("META-INF/") and entry.filename.endswith(SIGNATURES)):
                content = signed_zip.read(entry)
                if entry.filename == MANIFEST:
                    content = b"".join(_main_section(content.splitlines(keepends=True)))
                unsigned_zip.writestr(entry, content, zipfile.ZIP_DEFLATED)


def _main_section(lines: Iterable[bytes]) -> Iterable[bytes]:
    """The lines of a manifest up to its first blank line; the later sections have the digests of the jar's entries."""
    for line in lines:
        yield line
        if not line.strip():
            return


def is_plain(path: Path) -> bool:
    """Whether the path has only characters that a URL does not escape."""
    return quote(str(path), safe="/@+,=~") == str(path)


def linked_jars(jars: Sequence[Path | str], folder: Path, fallback: Path = FALLBACK) -> list[Path]:
    """The paths of the jars; a jar whose path is not plain is replaced by a link to it below ``folder``.

    If the path of ``folder`` itself is not plain, the links are made below ``fallback``, to which every user may write.
    Links to jars that were deleted are deleted. All jars keep their paths if a link cannot be made.
    """
    try:
        folder = folder if is_plain(folder) else _private_folder(fallback / f"sparklet-{os.getuid()}")
        # A hard link would keep the bytes of a deleted jar, so links of deleted jars are deleted, too.
        for source in (link_folder / "source" for link_folder in folder.glob("sparklet-*")):
            if source.is_symlink() and not source.exists():
                shutil.rmtree(source.parent, ignore_errors=True)  # noqa: TID251 - this file is used alone
        return [jar if is_plain(jar) else _link_to(jar, folder) for jar in (Path(jar).resolve() for jar in jars)]
    except OSError:
        return list(map(Path, jars))


def _private_folder(folder: Path) -> Path:
    """Create the folder if need be, and return it; PermissionError unless only this user may write to it."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    # Its parent is open to all users: another user may have put a link there, or a folder with other jars.
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o170022 != 0o040000:
        raise PermissionError(f"{folder} is not a folder that only this user may write to")
    return folder


def _link_to(jar: Path, folder: Path) -> Path:
    """The path of the link to a jar; made if it does not exist yet."""
    status = jar.stat()
    # The name depends on size and date, so that a jar that was replaced gets another link.
    name = sha256(os.fsencode(f"{jar}\0{status.st_size}\0{status.st_mtime_ns}")).hexdigest()[:16]
    link = folder / f"sparklet-{name}" / jar.name
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        # By this symbolic link the next call sees whether the jar was deleted.
        with contextlib.suppress(FileExistsError):
            (link.parent / "source").symlink_to(jar)
        draft = link.with_name(f".{os.getpid()}")
        try:
            os.link(jar, draft)
        except OSError:  # the jar is on another file system, or belongs to another user
            if shutil.disk_usage(folder).free < MIN_FREE_BYTES:
                raise
            shutil.copy2(jar, draft)
        draft.replace(link)
    return link
