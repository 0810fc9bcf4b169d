"""Unpacks inputs that Spark does not read by their names: files compressed in other ways, and archives of files.

What a file is, its first bytes tell. Spark reads each member at the address ``s3://bucket/a.zip#member``.
"""

import bz2
import gzip
import lzma
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from sparklet.errors import EventError, ScratchFullError, SparkletError
from sparklet.model import MIB, PACKED

CHUNK_BYTES = 4 * MIB
HEAD_BYTES = 512
MAX_MEMBERS = 10_000
TAR_AT, TAR = 257, b"ustar"
UNKNOWN = re.compile(r"(?i)\.(7z|rar|z|br|lzo)$")
TAR_SUFFIX = re.compile(r"(?i)\.(tgz|tbz2?|txz|tzst)$")

Opener = Callable[[Path], Any]


def _by_arrow(kind: str, path: Path) -> Any:
    import pyarrow  # zstandard takes a file that is cut off for a whole one

    return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), kind)


OPENERS: dict[bytes, Opener] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x5d\x00\x00": partial(lzma.LZMAFile, format=lzma.FORMAT_ALONE),
    b"\x28\xb5\x2f\xfd": partial(_by_arrow, "zstd"),
    b"\x04\x22\x4d\x18": partial(_by_arrow, "lz4"),
}
"""By a file's first bytes."""


def unpacked(path: Path, name: str, min_free_bytes: int) -> list[tuple[str, Path]]:
    """Name and file of each member of a file ``name``; none if it is not packed in a way that is known here.

    Spark reads such a file by itself, or fails loudly: lz4 as Hadoop writes it is one. Any other ``path`` is deleted.

    Raises
    ------
    EventError
        If it cannot be unpacked, or holds what one job over the unpacked files would not read as it is meant.
    ScratchFullError
        If less than ``min_free_bytes`` would stay free.
    """
    try:
        members = list(_members(path, name, min_free_bytes))
    except ImportError as error:
        raise EventError(
            f"it needs the Python package {error.name}: put it into the image, or pack it otherwise"
        ) from error
    except (SparkletError, MemoryError):
        raise
    except Exception as error:  # the libraries have many classes of errors for a broken file
        raise EventError(f"it cannot be unpacked: {type(error).__name__}: {error}") from error
    names = [member for member, _ in members]
    if twice := next((member for member in names if names.count(member) > 1), ""):
        raise EventError(f"two of its files would be {twice}: unpack it, and give them names of their own")
    return members


def _members(path: Path, name: str, min_free_bytes: int) -> Iterator[tuple[str, Path]]:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    opener = next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)
    if opener:
        inner, place = _without_suffix(name), path.with_name(f"{path.name}.0{_suffix(_without_suffix(name))}")
        with opener(path) as packed:
            _copy(packed, place, min_free_bytes)
        path.unlink()
        with place.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if head[TAR_AT:].startswith(TAR):
            yield from _of_archive(_tar_files(place), place, min_free_bytes)
        else:
            yield inner, place
    elif head[TAR_AT:].startswith(TAR):
        yield from _of_archive(_tar_files(path), path, min_free_bytes)
    elif head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        yield from _of_archive(_zip_files(path), path, min_free_bytes)
    elif UNKNOWN.search(name):
        raise EventError(
            "Spark reads no such files, and they cannot be unpacked here: unpack it, or leave it out (--exclude)"
        )


def _of_archive(files: Iterator[tuple[str, IO[bytes]]], path: Path, min_free_bytes: int) -> Iterator[tuple[str, Path]]:
    """The files of an archive that Spark would read in a folder: not those in hidden folders, or hidden themselves."""
    count = 0
    for name, content in files:
        _refuse(name)
        parts = [part for part in name.split("/") if part]
        if any(part.startswith(("_", ".")) for part in parts):
            continue
        count += 1
        if count > MAX_MEMBERS:
            raise EventError(f"it holds more than {MAX_MEMBERS:,} files: unpack it")
        place = path.with_name(f"{path.name}.{count}{_suffix(name)}")
        _copy(content, place, min_free_bytes)
        yield "+".join(parts), place
    if not count:
        raise EventError("it holds no file that Spark would read")
    path.unlink()


def _refuse(name: str) -> None:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name:
        raise EventError(f"a file in it lies outside of it: {name!r}")
    if PACKED.search(name):
        raise EventError(f"{name} in it is packed, too: unpack it")
    if any("=" in part for part in parts[:-1]):
        raise EventError(f"{name} in it lies in a folder of partitions, whose columns would be lost: unpack it")


def _tar_files(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if member.isdir():
                continue
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                raise EventError(f"{member.name} in it is a link or a device: unpack it")
            yield member.name.removeprefix("./"), content


def _zip_files(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if member.flag_bits & 1:
                raise EventError(f"{member.filename} in it has a password: unpack it")
            with archive.open(member) as content:
                yield member.filename, content


def _copy(content: IO[bytes], place: Path, min_free_bytes: int) -> None:
    """Write a file, while there is space; a few bytes may become any number."""
    with place.open("xb") as file:
        while chunk := content.read(CHUNK_BYTES):
            if shutil.disk_usage(place.parent).free < min_free_bytes + len(chunk):
                raise ScratchFullError(
                    "there is no space left for what it holds: give the function more ephemeral storage, make shards "
                    "smaller or leave it out (--exclude)"
                )
            file.write(chunk)


def _without_suffix(name: str) -> str:
    return TAR_SUFFIX.sub(".tar", name) if TAR_SUFFIX.search(name) else name.rpartition(".")[0] or name


def _suffix(name: str) -> str:
    found = re.search(r"(\.[A-Za-z0-9]{1,12}){1,2}$", name.rpartition("/")[2])
    return found[0] if found else ""
