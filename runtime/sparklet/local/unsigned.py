"""Jars without their signatures, so that their classes can be in a class-data archive.

Java archives no class of a signed jar, and checks the signature anew in every JVM. Spark brings two such: its compiler
of generated code, janino, which every query of a cold start waits for. Nobody verifies jars by these signatures here:
what is fetched is verified by its sha256 before.

Only the standard library: the image's builder loads this file alone.
"""

import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

PATTERNS = ("janino-*.jar", "commons-compiler-*.jar")
SUFFIXES = (".SF", ".RSA", ".DSA", ".EC")
MANIFEST = "META-INF/MANIFEST.MF"


def unsigned_copies(jars: Path, folder: Path) -> list[Path]:
    """Copies of the signed jars in Spark's folder ``jars``, made in ``folder`` where they are not there yet.

    As jars of ``SPARKLET_JARS`` they take the places of Spark's own. Their date is always the same, so that they are no
    reason for another archive. None where they cannot be written: Spark's own do as well.
    """
    signed = sorted(jar for pattern in PATTERNS for jar in jars.glob(pattern))
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
    """Write a jar anew without signatures, and without the digests that they sign."""
    with zipfile.ZipFile(jar) as signed, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bare:
        for entry in signed.infolist():
            if not (entry.filename.startswith("META-INF/") and entry.filename.endswith(SUFFIXES)):
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
