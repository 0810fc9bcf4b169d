"""Unpacks inputs that Spark does not read by their names: files compressed in other ways, and archives of files.

A file's first bytes decide what it is. Spark reads each member at the address ``s3://bucket/a.zip#member``.
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
ZIP_END = struct.Struct("<4s6xH10x")  # the end record's mark and number of files
ZIP64 = 0xFFFF  # stands in place of a number of files that is too large for the end record
DAMAGED = "it is damaged, cut off or several archives in one: pack it anew, unpack it or leave it out (--exclude)"
TAR_SUFFIX = re.compile(r"(?i)\.(tgz|tbz2?|txz|tzst)$")

Opener = Callable[[Path], Iterator[bytes]]
Member = tuple[str, Path | EventError]  # the name of a file in an archive; the unpacked file, or why it cannot be read
OpenMember = Callable[[], AbstractContextManager[IO[bytes]]]


def _chunks(content: Any) -> Iterator[bytes]:
    with content:
        yield from iter(partial(content.read, CHUNK_BYTES), b"")


def _arrow_chunks(codec: str, path: Path) -> Iterator[bytes]:
    import pyarrow  # since the package zstandard reads a file that is cut off without an error

    return _chunks(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), codec))


def _stream_chunks(new_decoder: Callable[[], Any], path: Path) -> Iterator[bytes]:
    """The content of all streams of a file. Python's own readers would end at a damaged stream without an error."""
    with path.open("rb") as file:
        decoder = new_decoder()
        for data in iter(partial(file.read, BUFFER_BYTES), b""):
            # A decoder may have more output than fits into one chunk; it returns the rest without new bytes.
            while data or not (decoder.eof or decoder.needs_input):
                if decoder.eof and not (data := data.lstrip(b"\0")):  # zeros behind a stream are padding
                    break
                decoder = new_decoder() if decoder.eof else decoder
                yield decoder.decompress(data, CHUNK_BYTES)
                data = decoder.unused_data
        if not decoder.eof:
            raise EOFError("its last stream does not end")


LZMA = partial(_stream_chunks, partial(lzma.LZMADecompressor, lzma.FORMAT_ALONE))
OPENERS: dict[bytes, Opener] = {
    b"\x1f\x8b": lambda path: _chunks(gzip.GzipFile(path)),
    b"BZh": partial(_stream_chunks, bz2.BZ2Decompressor),
    b"\xfd7zXZ\x00": partial(_stream_chunks, partial(lzma.LZMADecompressor, lzma.FORMAT_XZ)),
    b"\x5d\x00\x00": LZMA,
    b"\x28\xb5\x2f\xfd": partial(_arrow_chunks, "zstd"),
    b"\x04\x22\x4d\x18": partial(_arrow_chunks, "lz4"),
}
"""Functions that read a compressed file, by the file's first bytes."""
BROKEN = (
    *(EventError, ImportError, EOFError, OSError, RuntimeError, ValueError),
    *(lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error),
)
"""Errors that can be raised while a file of an archive is read."""
UTF_16, UTF_32 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def unpack(
    path: Path, name: str, min_free_bytes: int, *, checks_first_bytes: bool = False, only: Collection[str] = ()
) -> list[Member]:
    """Unpack ``path``, an object's copy, and delete it. Return the name and file of each member.

    ``name`` is the object's file name. The list is empty, and ``path`` stays, if the file is not packed, or in an
    unknown way: Spark reads such a file itself (Hadoop's lz4), or fails loudly. With ``checks_first_bytes`` text in
    UTF-16 or UTF-32 is rewritten as UTF-8, and the original kept beside it (``.raw``). With ``only`` no other members
    of an archive are unpacked. A member that cannot be read, or would be misread in a job over all unpacked files, has
    its error in place of its file.

    Raises
    ------
    EventError
        If the file cannot be unpacked, or has one member and that cannot be read.
    TooLargeError
        If less than ``min_free_bytes`` would stay free.
    """
    try:
        is_packed = PACKED.search(name) or is_misnamed(name, _head(path))
        members = list(_members(path, name, min_free_bytes, only)) if is_packed else []
        if checks_first_bytes and not members:
            _make_readable(name, path, min_free_bytes)
        for index, (member_name, file) in enumerate(members if checks_first_bytes else ()):
            if isinstance(file, Path):
                make_readable = partial(_make_readable, member_name, file, min_free_bytes)
                members[index] = member_name, _file_or_error(make_readable)
    # After a MemoryError a larger worker may succeed. Any other exception of a library means that the file is broken.
    except (SparkletError, MemoryError):
        raise
    except Exception as error:
        raise _event_error(error) from error
    counts = Counter(member for member, _ in members)
    # ``/`` in a member's name becomes ``+``, so two members may get the same name.
    if duplicate := next((member for member, count in counts.items() if count > 1), ""):
        raise EventError(f"two of its files would be {duplicate}: unpack it, and give them names of their own")
    members += [(missing, EventError("it is no longer in the archive")) for missing in only if missing not in counts]
    if len(members) == 1 and isinstance(members[0][1], EventError):
        raise members[0][1]
    return members


def _file_or_error(make_file: Callable[[], Path]) -> Path | EventError:
    try:
        return make_file()
    except BROKEN as error:
        return _event_error(error)


def _event_error(error: Exception) -> EventError:
    """The error that says why a file cannot be unpacked; libraries raise many classes of errors for a broken file."""
    if isinstance(error, EventError):
        return error
    if isinstance(error, ImportError):
        return EventError(f"it needs the Python package {error.name}: put it into the image, or pack it otherwise")
    return EventError(f"it cannot be unpacked: {type(error).__name__}: {error}; replace it or leave it out (--exclude)")


def _members(path: Path, name: str, min_free_bytes: int, only: Collection[str]) -> Iterator[Member]:
    """Unpack a file and yield its members; none if it is not packed in a known way. See ``unpack``."""
    head, suffix = _head(path), name.lower().rpartition(".")[2]
    if head.startswith(b"\x02\x21\x4c\x18"):
        raise EventError("it is in lz4's legacy format, which is not unpacked here: pack it without -l, or unpack it")
    opener = next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)
    # The name counts as well: a file of lzma begins with 5d 00 00 only if it was made with the usual settings.
    if not opener and suffix == "lzma":
        opener = LZMA
    elif not opener and re.match(rb"[\x50-\x5f]\x2a\x4d\x18", head):  # a frame that both zstd and lz4 skip
        opener = partial(_arrow_chunks, "lz4" if suffix == "lz4" else "zstd")
    if opener:
        inner_name, target = _without_suffix(name), path.with_name(f"{path.name}.0{_suffix(_without_suffix(name))}")
        _copy(opener(path), target, min_free_bytes)
        path.unlink()
        path, name, head = target, inner_name, _head(target)
    is_zip = head.startswith((b"PK\x03\x04", b"PK\x05\x06"))
    files = _tar_files if _is_tar(head) else _zip_files if is_zip else None
    if files:
        yield from _archive_members(files(path), path, min_free_bytes, only)
    elif PACKED.search(name) and (is_misnamed(name, head) or not name.endswith(".lz4")):
        raise EventError("it is packed twice or in an unknown format: unpack it, rename it or leave it out (--exclude)")
    elif opener:
        yield name, path


def _make_readable(name: str, path: Path, min_free_bytes: int) -> Path:
    """Rewrite a text of UTF-16 or UTF-32 as UTF-8, and keep the original beside it (``.raw``).

    A file that is what its name says stays unchanged. EventError if it is neither that nor such a text.
    """
    if not is_misnamed(name, head := _head(path)):
        return path
    if not head.startswith(UTF_16 + UTF_32):
        raise EventError(
            f"the first bytes of {name} fit neither its name nor a known format: is it damaged? else unpack it"
        )
    # Readers of bytes, or with an option for the encoding, get the original.
    raw = path.rename(path.with_name(f"{path.name}.raw"))
    # Without ``newline`` Python would change line ends, also within quotes.
    with raw.open(encoding="utf-32" if head.startswith(UTF_32) else "utf-16", newline="") as text:
        _copy((part.encode() for part in iter(partial(text.read, CHUNK_BYTES), "")), path, min_free_bytes)
    return path


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(FIRST_BYTES)


def _is_tar(head: bytes) -> bool:
    """Whether the file is a tar: its first header has a valid checksum or, if that is damaged, the mark ``ustar``."""
    # The checksum comes first, since format v7 has no mark.
    with suppress(tarfile.HeaderError):
        return bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape"))
    return head[257:].startswith(b"ustar")


def _archive_members(
    files: Iterator[tuple[str, OpenMember]], path: Path, min_free_bytes: int, only: Collection[str]
) -> Iterator[Member]:
    """Unpack the files of an archive that Spark would read in a folder: not those with a hidden name or folder.

    Yields each with its path in the archive, in which ``+`` replaces ``/``. Deletes the archive at the end.
    """
    count = 0
    for name, open_member in files:
        parts = [part for part in name.split("/") if part]
        if _is_hidden(parts):
            continue
        count += 1
        if count > MAX_MEMBERS:
            raise EventError(f"it holds more than {MAX_MEMBERS:,} files: unpack it")
        flat_name = "+".join(parts)
        if not only or flat_name in only:
            target = path.with_name(f"{path.name}.{count}{_suffix(name)}")
            yield flat_name, _file_or_error(partial(_write, name, open_member, target, min_free_bytes))
    if not count:
        raise EventError("it holds no file that Spark would read")
    path.unlink()


def _is_hidden(parts: Collection[str]) -> bool:
    # A path with ``..`` is not hidden, although this begins with a dot: ``_check_name`` raises an error for it.
    return ".." not in parts and any(part.startswith(("_", ".")) for part in parts)


def _write(name: str, open_member: OpenMember, target: Path, min_free_bytes: int) -> Path:
    _check_name(name)
    _copy(_chunks(open_member()), target, min_free_bytes)
    return target


def _check_name(name: str) -> None:
    """Raise EventError if a member's path is unsafe, or if Spark could not read the member with the others."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name:
        raise EventError(f"one of its files has a path that leads out of the archive: {name!r}")
    if PACKED.search(name):
        raise EventError(f"its file {name} is packed, too: unpack the archive")
    if any("=" in part for part in parts[:-1]):
        raise EventError(
            f"its file {name} is in a folder of partitions, whose columns would be lost: unpack the archive"
        )


def _tar_files(path: Path) -> Iterator[tuple[str, OpenMember]]:
    """Yield the names of an archive's files and functions that open them; EventError at the end if it is damaged."""
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if not member.isdir():
                yield member.name.removeprefix("./"), partial(_open_in_tar, archive, member)
        with path.open("rb") as file:
            # tarfile stops at a header that is missing, damaged or cut off. A whole archive ends here with zeros only.
            file.seek(archive.offset)
            blocks = iter(partial(file.read, 2 * tarfile.BLOCKSIZE), b"")
            if next(blocks, b"") != bytes(2 * tarfile.BLOCKSIZE) or any(block.strip(b"\0") for block in blocks):
                raise EventError(DAMAGED)


def _open_in_tar(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member) if member.isreg() else None
    if content is None:
        raise EventError(f"its file {member.name} is a link or a device: unpack the archive")
    return content


def _zip_files(path: Path) -> Iterator[tuple[str, OpenMember]]:
    """Yield the names of an archive's files and functions that open them; EventError first if it is damaged."""
    with zipfile.ZipFile(path) as archive:
        if "[Content_Types].xml" in archive.namelist():
            raise EventError("it is an Office document: save it as CSV")
        members = archive.infolist()
        with path.open("rb") as file:
            file.seek(path.stat().st_size - ZIP_END.size - len(archive.comment))
            end = ZIP_END.unpack(file.read(ZIP_END.size))
        start = min((member.header_offset for member in members), default=archive.start_dir)
        # zipfile does not check two things: a damaged length in the directory hides the next entry, so the number of
        # files must be the end record's; and bytes in front of the first file are ignored, so it must begin at 0.
        if start or end not in [(b"PK\x05\x06", count) for count in (len(members), ZIP64)]:
            raise EventError(DAMAGED)
        for member in members:
            if member.is_dir() or _is_hidden(member.filename.split("/")):
                archive.open(member).close()  # fails if the name here is not the one in front of the member's content
            if not member.is_dir():
                yield member.filename, partial(_open_in_zip, archive, member)


def _open_in_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> IO[bytes]:
    if member.flag_bits & 1:
        raise EventError(f"its file {member.filename} has a password: unpack the archive")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise EventError(f"its file {member.filename} is a link: unpack the archive")
    return archive.open(member)


def _copy(chunks: Iterable[bytes], target: Path, min_free_bytes: int) -> None:
    """Write the chunks to a file; TooLargeError if the disk is too full, since a small packed file may become huge."""
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
