"""Unpacks inputs that Spark does not read by their names: files compressed in other ways, and archives of files.

What a file is, its first bytes tell. Spark reads each member at the address ``s3://bucket/a.zip#member``.
"""

import bz2
import codecs
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

from sparklet.errors import EventError, SparkletError, TooLargeError
from sparklet.model import COMPRESSED, FIRST_BYTES, MIB, PACKED, is_misnamed

CHUNK_BYTES = 4 * MIB
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
UTF_16, UTF_32 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def unpacked(path: Path, name: str, min_free_bytes: int, *, looks: bool = False) -> list[tuple[str, Path]]:
    """Name and file of each member of a file ``name``; none if it is not packed in a way that is known here.

    Spark reads such a file by itself, or fails loudly: lz4 as Hadoop writes it is one. Any other ``path`` is deleted.
    If it ``looks``, the first bytes decide, too: what is not packed stays, and UTF-16 and UTF-32 become UTF-8, with the
    file as it was beside it (``.raw``).

    Raises
    ------
    EventError
        If it cannot be unpacked, or holds what one job over the unpacked files would not read as it is meant.
    TooLargeError
        If less than ``min_free_bytes`` would stay free.
    """
    try:
        is_packed = PACKED.search(name) or is_misnamed(name, _head(path))
        members = list(_members(path, name, min_free_bytes)) if is_packed else []
        for member, file in (members or [(name, path)]) if looks else []:
            _make_readable(member, file, min_free_bytes)
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
    head = _head(path)
    opener = next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)
    if opener:
        inner, place = _without_suffix(name), path.with_name(f"{path.name}.0{_suffix(_without_suffix(name))}")
        with opener(path) as packed:
            _copy(packed.read, place, min_free_bytes)
        path.unlink()
        if _head(place)[TAR_AT:].startswith(TAR):
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


def _make_readable(name: str, path: Path, min_free_bytes: int) -> None:
    """Write a text as UTF-8, with the file as it was beside it; EventError if Spark reads neither."""
    if not is_misnamed(name, head := _head(path)):
        return
    if not head.startswith(UTF_16 + UTF_32):
        raise EventError(f"{name} is not what its name says, by its first bytes, and nothing known here: unpack it")
    raw = path.rename(path.with_name(f"{path.name}.raw"))
    with raw.open(encoding="utf-32" if head.startswith(UTF_32) else "utf-16", newline="") as text:
        _copy(lambda size: text.read(size).encode(), path, min_free_bytes)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(FIRST_BYTES)


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
        _copy(content.read, place, min_free_bytes)
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
        if "[Content_Types].xml" in archive.namelist():
            raise EventError("it is an Office document: save it as CSV")
        for member in archive.infolist():
            if member.is_dir():
                continue
            if member.flag_bits & 1:
                raise EventError(f"{member.filename} in it has a password: unpack it")
            with archive.open(member) as content:
                yield member.filename, content


def _copy(read: Callable[[int], bytes], place: Path, min_free_bytes: int) -> None:
    """Write a file, while there is space; a few bytes may become any number."""
    with place.open("xb") as file:
        while chunk := read(CHUNK_BYTES):
            if shutil.disk_usage(place.parent).free < min_free_bytes + len(chunk):
                raise TooLargeError(
                    "there is no space left for what it holds: give the function more ephemeral storage, make shards "
                    "smaller, have an engine do it (--too-large engine) or leave it out (--exclude)"
                )
            file.write(chunk)


def _without_suffix(name: str) -> str:
    stem = name.rpartition(".")[0] if PACKED.search(name) or name.endswith(COMPRESSED) else ""
    return TAR_SUFFIX.sub(".tar", name) if TAR_SUFFIX.search(name) else stem or name


def _suffix(name: str) -> str:
    found = re.search(r"(\.[A-Za-z0-9]{1,12}){1,2}$", name.rpartition("/")[2])
    return found[0] if found else ""
