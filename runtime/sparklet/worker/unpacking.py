"""Unpacks inputs that Spark does not read by their names: files compressed in other ways, and archives of files.

What a file is, its first bytes tell. Spark reads each member at the address ``s3://bucket/a.zip#member``.
"""

import bz2
import codecs
import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from sparklet.errors import EventError, SparkletError, TooLargeError
from sparklet.model import COMPRESSED, FIRST_BYTES, MIB, PACKED, is_misnamed
from sparklet.planning.routes import FOR_ROOM

CHUNK_BYTES, BUFFER_BYTES = 4 * MIB, MIB // 16
MAX_MEMBERS = 10_000
ZIP_END, ZIP64 = struct.Struct("<4s6xH10x"), 0xFFFF  # the end record's mark and number of files; where that is not it
DAMAGED = "it is damaged, cut off or several archives in one: pack it anew, unpack it or leave it out (--exclude)"
TAR_SUFFIX = re.compile(r"(?i)\.(tgz|tbz2?|txz|tzst)$")

Opener = Callable[[Path], Iterator[bytes]]
Member = tuple[str, Path | EventError]  # the name of a file in an archive; the file, or why it cannot be read
Opened = Callable[[], AbstractContextManager[IO[bytes]]]


def _chunks(content: Any) -> Iterator[bytes]:
    with content:
        yield from iter(partial(content.read, CHUNK_BYTES), b"")


def _by_arrow(kind: str, path: Path) -> Iterator[bytes]:
    import pyarrow  # zstandard takes a file that is cut off for a whole one

    return _chunks(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), kind))


def _streams(new_decoder: Callable[[], Any], path: Path) -> Iterator[bytes]:
    """The content of all streams of a file; to Python's own readers one that is damaged is the end, without a word."""
    with path.open("rb") as file:
        decoder = new_decoder()
        for data in iter(partial(file.read, BUFFER_BYTES), b""):
            # A decoder that holds more output than one chunk takes is asked again without new bytes.
            while data or not (decoder.eof or decoder.needs_input):
                if decoder.eof and not (data := data.lstrip(b"\0")):  # zeros behind a stream are padding
                    break
                decoder = new_decoder() if decoder.eof else decoder
                yield decoder.decompress(data, CHUNK_BYTES)
                data = decoder.unused_data
        if not decoder.eof:
            raise EOFError("its last stream does not end")


LZMA = partial(_streams, partial(lzma.LZMADecompressor, lzma.FORMAT_ALONE))
OPENERS: dict[bytes, Opener] = {
    b"\x1f\x8b": lambda path: _chunks(gzip.GzipFile(path)),
    b"BZh": partial(_streams, bz2.BZ2Decompressor),
    b"\xfd7zXZ\x00": partial(_streams, partial(lzma.LZMADecompressor, lzma.FORMAT_XZ)),
    b"\x5d\x00\x00": LZMA,
    b"\x28\xb5\x2f\xfd": partial(_by_arrow, "zstd"),
    b"\x04\x22\x4d\x18": partial(_by_arrow, "lz4"),
}
"""By a file's first bytes."""
BROKEN = (
    *(EventError, ImportError, EOFError, OSError, RuntimeError, ValueError),
    *(lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error),
)
"""What reading one file of an archive may raise."""
UTF_16, UTF_32 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def unpacked(
    path: Path, name: str, min_free_bytes: int, *, looks: bool = False, only: Collection[str] = ()
) -> list[Member]:
    """Name and file of each member of a file ``name``; none if it is not packed in a way that is known here.

    Spark reads such a file by itself, or fails loudly: lz4 as Hadoop writes it is one. Any other ``path`` is deleted.
    If it ``looks``, the first bytes decide, too: what is not packed stays, and UTF-16 and UTF-32 become UTF-8, with the
    file as it was beside it (``.raw``). With ``only`` other files of an archive are passed over. A file of an archive
    that cannot be read, or not as it is meant in one job over the unpacked files, has its cause here instead.

    Raises
    ------
    EventError
        If it cannot be unpacked, or its one file cannot be read.
    TooLargeError
        If less than ``min_free_bytes`` would stay free.
    """
    try:
        is_packed = PACKED.search(name) or is_misnamed(name, _head(path))
        members = list(_members(path, name, min_free_bytes, only)) if is_packed else []
        if looks and not members:
            _make_readable(name, path, min_free_bytes)
        for index, (member_name, file) in enumerate(members if looks else ()):
            if isinstance(file, Path):
                members[index] = member_name, _tried(partial(_make_readable, member_name, file, min_free_bytes))
    # A larger worker may do what memory was too little for; whatever else libraries raise tells of a broken file.
    except (SparkletError, MemoryError):
        raise
    except Exception as error:
        raise _told(error) from error
    counts = Counter(member for member, _ in members)
    # ``/`` within an archive becomes ``+``, so two of its names may become one.
    if twice := next((member for member, count in counts.items() if count > 1), ""):
        raise EventError(f"two of its files would be {twice}: unpack it, and give them names of their own")
    members += [(missing, EventError("its archive has it no longer")) for missing in only if missing not in counts]
    if len(members) == 1 and isinstance(members[0][1], EventError):
        raise members[0][1]
    return members


def _tried(work: Callable[[], Path]) -> Path | EventError:
    try:
        return work()
    except BROKEN as error:
        return _told(error)


def _told(error: Exception) -> EventError:
    """Why a file cannot be unpacked; the libraries have many classes of errors for a broken one."""
    if isinstance(error, EventError):
        return error
    if isinstance(error, ImportError):
        return EventError(f"it needs the Python package {error.name}: put it into the image, or pack it otherwise")
    return EventError(f"it cannot be unpacked: {type(error).__name__}: {error}; replace it or leave it out (--exclude)")


def _members(path: Path, name: str, min_free_bytes: int, only: Collection[str]) -> Iterator[Member]:
    head, suffix = _head(path), name.lower().rpartition(".")[2]
    if head.startswith(b"\x02\x21\x4c\x18"):
        raise EventError("it is in lz4's legacy format, which is not unpacked here: pack it without -l, or unpack it")
    opener = next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)
    # Only with usual settings does a file of lzma begin with 5d 00 00, so its name counts, too.
    if suffix == "lzma" or re.match(rb"[\x50-\x5f]\x2a\x4d\x18", head):  # a frame that zstd and lz4 skip
        opener = opener or (LZMA if suffix == "lzma" else partial(_by_arrow, "lz4" if suffix == "lz4" else "zstd"))
    if opener:
        inner, target = _without_suffix(name), path.with_name(f"{path.name}.0{_suffix(_without_suffix(name))}")
        _copy(opener(path), target, min_free_bytes)
        path.unlink()
        path, name, head = target, inner, _head(target)
    files = _tar_files if _is_tar(head) else _zip_files if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) else None
    if files:
        yield from _of_archive(files(path), path, min_free_bytes, only)
    elif PACKED.search(name) and (is_misnamed(name, head) or not name.endswith(".lz4")):
        raise EventError("it is packed twice or in an unknown format: unpack it, rename it or leave it out (--exclude)")
    elif opener:
        yield name, path


def _make_readable(name: str, path: Path, min_free_bytes: int) -> Path:
    """Write a text as UTF-8, with the file as it was beside it; EventError if Spark reads neither."""
    if not is_misnamed(name, head := _head(path)):
        return path
    if not head.startswith(UTF_16 + UTF_32):
        raise EventError(f"{name} is not what its name says, by its first bytes, and nothing known here: unpack it")
    # Whoever reads bytes, or names an encoding, is given the file as it was.
    raw = path.rename(path.with_name(f"{path.name}.raw"))
    # Without ``newline`` Python would change line ends, also within quotes.
    with raw.open(encoding="utf-32" if head.startswith(UTF_32) else "utf-16", newline="") as text:
        _copy((part.encode() for part in iter(partial(text.read, CHUNK_BYTES), "")), path, min_free_bytes)
    return path


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(FIRST_BYTES)


def _is_tar(head: bytes) -> bool:
    """By its first header's checksum, which format v7 has, too; if that is damaged by its mark."""
    with suppress(tarfile.HeaderError):
        return bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape"))
    return head[257:].startswith(b"ustar")


def _of_archive(
    files: Iterator[tuple[str, Opened]], path: Path, min_free_bytes: int, only: Collection[str]
) -> Iterator[Member]:
    """The files of an archive that Spark would read in a folder: not those in hidden folders, or hidden themselves."""
    count = 0
    for name, opened in files:
        parts = [part for part in name.split("/") if part]
        if _is_hidden(parts):
            continue
        count += 1
        if count > MAX_MEMBERS:
            raise EventError(f"it holds more than {MAX_MEMBERS:,} files: unpack it")
        if not only or "+".join(parts) in only:
            target = path.with_name(f"{path.name}.{count}{_suffix(name)}")
            yield "+".join(parts), _tried(partial(_write, name, opened, target, min_free_bytes))
    if not count:
        raise EventError("it holds no file that Spark would read")
    path.unlink()


def _is_hidden(parts: Collection[str]) -> bool:
    # ``..`` begins with a dot, too, and is refused by name instead of passed over.
    return ".." not in parts and any(part.startswith(("_", ".")) for part in parts)


def _write(name: str, opened: Opened, target: Path, min_free_bytes: int) -> Path:
    _refuse(name)
    _copy(_chunks(opened()), target, min_free_bytes)
    return target


def _refuse(name: str) -> None:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name:
        raise EventError(f"a file in it lies outside of it: {name!r}")
    if PACKED.search(name):
        raise EventError(f"{name} in it is packed, too: unpack it")
    if any("=" in part for part in parts[:-1]):
        raise EventError(f"{name} in it lies in a folder of partitions, whose columns would be lost: unpack it")


def _tar_files(path: Path) -> Iterator[tuple[str, Opened]]:
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if not member.isdir():
                yield member.name.removeprefix("./"), partial(_in_tar, archive, member)
        with path.open("rb") as file:
            file.seek(archive.offset)  # where tarfile has found no header, or one that is damaged or cut off
            blocks = iter(partial(file.read, 2 * tarfile.BLOCKSIZE), b"")
            if next(blocks, b"") != bytes(2 * tarfile.BLOCKSIZE) or any(block.strip(b"\0") for block in blocks):
                raise EventError(DAMAGED)


def _in_tar(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member) if member.isreg() else None
    if content is None:
        raise EventError(f"{member.name} in it is a link or a device: unpack it")
    return content


def _zip_files(path: Path) -> Iterator[tuple[str, Opened]]:
    with zipfile.ZipFile(path) as archive:
        if "[Content_Types].xml" in archive.namelist():
            raise EventError("it is an Office document: save it as CSV")
        members = archive.infolist()
        with path.open("rb") as file:
            file.seek(path.stat().st_size - ZIP_END.size - len(archive.comment))
            end = ZIP_END.unpack(file.read(ZIP_END.size))
        start = min((member.header_offset for member in members), default=archive.start_dir)
        # zipfile believes the directory, where a damaged length hides the next entry, and passes over bytes in front of
        # the first file. The end record's count tells of the former, the first file's place of the latter.
        if start or end not in [(b"PK\x05\x06", count) for count in (len(members), ZIP64)]:
            raise EventError(DAMAGED)
        for member in members:
            if member.is_dir() or _is_hidden(member.filename.split("/")):
                archive.open(member).close()  # fails if its name is damaged, which is also in front of its content
            if not member.is_dir():
                yield member.filename, partial(_in_zip, archive, member)


def _in_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    if member.flag_bits & 1:
        raise EventError(f"{member.filename} in it has a password: unpack it")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise EventError(f"{member.filename} in it is a link: unpack it")
    return archive.open(member)


def _copy(chunks: Iterable[bytes], target: Path, min_free_bytes: int) -> None:
    """Write a file, while there is space; a few bytes may become any number."""
    with target.open("xb") as file:
        for chunk in chunks:
            if shutil.disk_usage(target.parent).free < min_free_bytes + len(chunk):
                raise TooLargeError(
                    "there is no space left for what it holds: give the function more ephemeral storage, make shards "
                    f"smaller, {FOR_ROOM}, or leave it out (--exclude)"
                )
            file.write(chunk)


def _without_suffix(name: str) -> str:
    stem = name.rpartition(".")[0] if PACKED.search(name) or name.endswith(COMPRESSED) else ""
    return TAR_SUFFIX.sub(".tar", name) if TAR_SUFFIX.search(name) else stem or name


def _suffix(name: str) -> str:
    match = re.search(r"(\.[A-Za-z0-9]{1,12}){1,2}$", name.rpartition("/")[2])
    return match[0] if match else ""
