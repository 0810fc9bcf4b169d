"""Fetches inputs that Spark cannot read by their names into the task's folder.

Such inputs are slices of lines, old versions, objects that need another role or payer, packed ones, and names that
Hadoop or Spark misread.
Spark reads the copies at the objects' addresses, or by ``file://``, so a script needs no change and no Sparklet.
It reads all other inputs itself.
"""

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from sparklet.errors import (
    DeadlineExceededError,
    ObjectChangedError,
    ObjectStoreError,
    PlanError,
    ScratchFullError,
    SparkletError,
    TooLargeError,
)
from sparklet.job.event_objects import GLOB, misread
from sparklet.model import FIRST_BYTES, MIB, PACKED, SCHEME, Access, InputObject, Slice, SliceKind, is_misnamed
from sparklet.planning.routes import FOR_ROOM
from sparklet.ports import ObjectStore
from sparklet.spark.runner import Deadline

FOLDER, LOCAL = "copies", "file://"
PATTERNS = {False: GLOB, True: "*?"}  # what makes a name one; True: for our S3A, which takes others as they are
CHUNK_BYTES = 8 * MIB
BLOCK_BYTES = MIB // 2
AT_A_TIME = 4
MAX_STEM = 80

_SUFFIX = re.compile(r"(?:\.[A-Za-z0-9]{1,12}){1,3}$")
_MISREAD = re.compile(r"[\x00-\x1f\x7f-\x9f\\{}\[\]*?]")
_ESCAPED = re.compile(rb'\\[\\"]')


@contextmanager
def uploaded(uris: Sequence[str], store: ObjectStore, folder: str) -> Iterator[list[str]]:
    """The addresses while the fetched inputs among them lie in a folder of S3, not here."""
    places = {uri: f"{folder}/{uri.rpartition('/')[2]}" for uri in uris if uri.startswith(LOCAL)}
    try:
        for uri, target in places.items():
            store.upload(path := Path(uri.removeprefix(LOCAL)), target)
            path.unlink()
        yield [places.get(uri, uri) for uri in uris]
    finally:
        store.delete_all(places.values(), folder)


def staged_name(number: int, uri: str) -> str:
    """A plain, unique file name that begins and ends as the object's own, since readers filter by these."""
    name = uri.rstrip("/").rpartition("/")[2]
    match = _SUFFIX.search(name)
    suffix = match[0] if match and match.start() else ""
    stem = re.sub(r"[^A-Za-z0-9=._-]+", "-", name.removesuffix(suffix))[:MAX_STEM].lstrip("._-").rstrip("-")
    return f"{stem}-{number:05d}{suffix}" if stem else f"{number:05d}{suffix}"


@dataclass(frozen=True, slots=True)
class Staging:
    """A shard's inputs; some of them must be fetched."""

    items: tuple[InputObject, ...]
    access: Access
    store: ObjectStore  # reads with the run's access
    origins: Mapping[str, InputObject] = field(default_factory=dict)  # by the address of a file of a packed input: what
    # is an input, the packed one, or this file, if it lies in an archive of several
    max_bytes: int = 0  # that packed inputs and those beside them may have, unpacked; 0: any
    in_view: bool = False  # whether Spark has our S3A, which shows copies at the objects' addresses
    looks: bool = False  # at first bytes, too: Spark has met some that are not what a name says
    tell: Callable[[Sequence[InputObject]], None] = lambda _: None  # of the inputs, once archives are unpacked

    def fetch(
        self, folder: Path, deadline: Deadline, min_free_bytes: int, *, unpack: bool = True
    ) -> tuple["Staging", dict[int, Path]]:
        """Fetch inputs, several at a time; returns the inputs with their members instead, and files by their places.

        Raises ScratchFullError, before anything is fetched, if less than ``min_free_bytes`` would stay free; the
        store's errors if an object is not the planned one; PlanError if a split CSV file has rows over several lines,
        but not in our S3A: there only who asks for such rows is refused.
        """
        from concurrent.futures import ThreadPoolExecutor  # here, to keep cold starts fast

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            needed = compress(enumerate(self.items), pool.map(self.is_fetched, self.items))
            together = self._together()
            paths = {
                number: folder / FOLDER / staged_name(number, item.object_uri)
                for number, item in needed
                if together[number][0] is item
            }
        items = [self.items[number] for number in paths]
        needed_bytes = sum(item.size_bytes + (item.slice.header_bytes if item.slice else 0) for item in items)
        _check_space(folder, needed_bytes, min_free_bytes)
        (folder / FOLDER).mkdir()
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            readers = [_Reader(self.store, item, deadline, checks_rows=not self.in_view) for item in items]
            fetched = [pool.submit(_fetch, *pair) for pair in zip(readers, paths.values(), strict=True)]
            try:
                for number, future in zip(paths, fetched, strict=True):
                    try:
                        future.result()
                    except SparkletError as error:
                        error.files = tuple(map(described, together[number]))
                        raise
            finally:
                # The block's end waits for the pool, which else would fetch everything first.
                pool.shutdown(cancel_futures=True)
        # Some of these are read by ``file://``, where no S3A of ours compares first bytes with names: that is done
        # here.
        local = {item.uri for item in items if misread(item.object_uri, PATTERNS[True])} if self.in_view else ()
        is_planned = any(item.member for item in items)
        work, copies = self, paths
        if self.looks or is_planned or (unpack and (local or any(item.is_packed for item in items))):
            work, copies = self._unpacked(paths, together, min_free_bytes, local)
        for number, path in copies.items():
            if time_s := work.items[number].modified_s:  # by which readers filter, too
                os.utime(path, (time_s, time_s))
        return work, copies

    def _together(self) -> list[list[InputObject]]:
        """Of each input those that are fetched as one: the planned files of its archive."""
        archives, groups = dict[tuple[str, str], list[InputObject]](), list[list[InputObject]]()
        for item in self.items:
            groups.append(archives.setdefault((item.object_uri, item.version_id), []) if item.member else [])
            groups[-1].append(item)
        return groups

    def is_fetched(self, item: InputObject) -> bool:
        """Whether Spark cannot read just this input by its object's name."""
        if item.item:
            return False
        is_cut = item.slice and item.slice.kind is SliceKind.LINES  # our S3A shows a part of Parquet
        # Spark reads with the worker's own role and pays for nothing; the store does as the run's access says.
        differs = is_cut or item.member or item.version_id or self.access.requester_pays or self.access.role_arn
        if differs or misread(item.uri, PATTERNS[self.in_view]) or PACKED.search(item.uri):
            return True
        return self.looks and is_misnamed(item.uri, self.store.get(item.uri, 0, FIRST_BYTES))

    def _unpacked(
        self,
        paths: Mapping[int, Path],
        planned_together: Sequence[Sequence[InputObject]],
        min_free_bytes: int,
        local: Collection[str],
    ) -> tuple["Staging", dict[int, Path]]:
        from sparklet.worker.unpacking import Member, unpacked  # imported by who has packed inputs

        items, copies, origins = list[InputObject](), dict[int, Path](), dict[str, InputObject]()
        inputs, bad = list[InputObject](), dict[str, SparkletError]()
        for number, (item, together) in enumerate(zip(self.items, planned_together, strict=True)):
            path, members = paths.get(number), list[Member]()
            looks = not item.slice and (self.looks or item.uri in local)
            if path and (item.is_packed or looks):
                name, only = item.object_uri.rpartition("/")[2], {entry.member for entry in together if entry.member}
                try:
                    members = unpacked(path, name, min_free_bytes, looks=looks, only=only)
                except SparkletError as error:
                    named = item if len(together) == 1 else replace(item, uri=item.object_uri)
                    error.args, error.files = (f"{described(named)}: {error}",), tuple(map(described, together))
                    raise
            for name, file in members:
                size_bytes = file.stat().st_size if isinstance(file, Path) else 0
                read = replace(item, uri=f"{item.object_uri}#{name}", size_bytes=size_bytes, member="")
                inputs.append(replace(read, member=name) if item.member or len(members) > 1 else item)
                if isinstance(file, Path):
                    copies[len(items)], origins[read.uri] = file, inputs[-1]
                    items.append(read)
                else:
                    bad[described(inputs[-1])] = file
            if not members and together[0] is item:
                copies |= {len(items): path} if path else {}
                items.append(item)
                inputs.append(item)
        # Before a bad file is raised: its shard is split by the files of archives, which the claim must know by then.
        self.tell(inputs)
        for input_name, cause in bad.items():
            # All bad files are named, so that one split takes them all out.
            cause.args, cause.files = (f"{input_name}: {cause}",), tuple(bad)
            raise cause
        needed_bytes = sum(item.estimated_bytes for item in items)
        if origins and 0 < self.max_bytes < needed_bytes:
            raise TooLargeError(
                f"the shard's inputs have {needed_bytes / MIB:,.0f} MiB unpacked, and a function takes "
                f"{self.max_bytes / MIB:,.0f} MiB: make shards smaller, "
                f"{FOR_ROOM}, or have a function try it (--too-large fail)"
            )
        return replace(self, items=tuple(items), origins=origins), copies

    def shown(self, copies: Mapping[int, Path], in_folders: Collection[str]) -> list[str]:
        """The addresses at which Spark reads the inputs: their own, but for names that it misreads or that come again.

        Such a one has a name in the same folder that nothing else there has, if it is a slice or one of ``in_folders``;
        else that of the local copy, which anything can read.
        """
        uris: list[str] = []
        for number, item in enumerate(self.items):
            is_own = number not in copies or not (misread(item.uri, PATTERNS[self.in_view]) or item.uri in uris)
            # With ``.raw`` beside it only our S3A can give it: as text, or unchanged to a reader of bytes.
            by_view = item.slice or item.uri in in_folders or Path(f"{copies.get(number)}.raw").exists()
            if not is_own and not by_view:
                uris.append(f"{LOCAL}{copies[number]}")
                continue
            folders = [_plain(part) for part in item.uri.removeprefix(SCHEME).split("/")[:-1]]
            folder = "/".join(part for part in folders if part not in ("", ".", ".."))
            uris.append(item.uri if is_own else f"{SCHEME}{folder}/{staged_name(number, item.uri)}")
        return uris

    def with_origins(self, text: str, uris: Sequence[str]) -> str:
        """The script's text with the names of the objects instead of those under which Spark reads them."""
        for item, uri in zip(self.items, uris, strict=True):
            if uri != item.uri or item.slice or item.uri in self.origins:
                # Spark's messages have addresses as they are or URL-encoded.
                path = "|".join(map(re.escape, {address := uri.partition("://")[2], quote(address)}))
                text = described(self.origins.get(item.uri, item)).join(
                    re.split(rf"(?:file:(?://)?|s3[an]?://)(?:{path})", text)
                )
        return text


def _plain(folder: str) -> str:
    """A folder's name without what Spark misreads; the value of a partition stays what it is."""
    return _MISREAD.sub(lambda match: quote(match[0]) if "=" in folder else "-", folder)


def _check_space(folder: Path, needed_bytes: int, min_free_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + min_free_bytes:
        raise ScratchFullError(
            f"{folder.parent} has {free / MIB:.0f} MiB free, the shard's inputs that must be fetched have "
            f"{needed_bytes / MIB:.0f} MiB and {min_free_bytes / MIB:.0f} MiB must stay free: "
            "give the function more ephemeral storage or make shards smaller"
        )


def described(item: InputObject) -> str:
    """An input in an error: the object, its version and its slice."""
    version = f" version {item.version_id}" if item.version_id else ""
    if item.slice is None:
        return f"{item.uri}{version}"
    return f"{item.uri}{version} (bytes {item.slice.start} to {item.slice.end - 1})"


def _fetch(reader: "_Reader", path: Path) -> None:
    item = reader.item
    try:
        if item.slice is None:
            _check_time(item, reader.deadline)
            reader.store.download(item.object_uri, path, item.etag, item.version_id)
            return
        with path.open("xb") as file:
            _write_lines(reader, item.slice, file)
    except ObjectChangedError as error:
        raise ObjectChangedError(
            f"{described(item)} was replaced after it was planned; start a new run for its new content"
        ) from error
    except OSError as error:
        raise ObjectStoreError(f"{item.uri} could not be written to {path}: {error}") from error


def _check_time(item: InputObject, deadline: Deadline) -> None:
    if deadline.remaining_s() <= 0:
        raise DeadlineExceededError(f"the deadline passed while {described(item)} was fetched: make shards smaller")


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads ranges of an object while it is the planned one and before the deadline."""

    store: ObjectStore
    item: InputObject
    deadline: Deadline
    checks_rows: bool

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        for offset in range(start, end, CHUNK_BYTES):
            length = min(CHUNK_BYTES, end - offset)
            _check_time(self.item, self.deadline)
            chunk = self.store.get(self.item.uri, offset, length, self.item.etag, self.item.version_id)
            # A short answer would cut a row off in silence.
            if len(chunk) != length:
                raise ObjectStoreError(f"{self.item.uri}: asked for {length} bytes at {offset}, got {len(chunk)}")
            yield chunk


def _write_lines(reader: _Reader, part: Slice, file: BinaryIO) -> None:
    """Write header and lines; in CSV, the only format with a header, rows of several lines are looked for."""
    file.writelines(reader.chunks(0, part.header_bytes))
    quotes, closed = _Quotes(), True
    for chunk in reader.chunks(part.start, part.end):
        file.write(chunk)
        if part.header_bytes and reader.checks_rows:
            # In blocks, because the objects of all short lines of a chunk could have 300 MB.
            blocks = (chunk[offset : offset + BLOCK_BYTES] for offset in range(0, len(chunk), BLOCK_BYTES))
            closed = all(map(quotes.closed_in, blocks))
        if not closed:
            break
    if not closed or quotes.open:
        raise PlanError(
            f"{described(reader.item)} has a line with an odd number of quotes, so rows over several lines: "
            "plan without --split csv"
        )


class _Quotes:
    """Counts the quotes of each line, without those after a backslash."""

    def __init__(self) -> None:
        self.open = False  # whether the line so far has an odd number
        self._held = b""

    def closed_in(self, chunk: bytes) -> bool:
        """Whether every line that ends in this chunk has an even number."""
        chunk = self._held + chunk
        behind = len(chunk) - len(chunk.rstrip(b"\\"))
        self._held = b"\\" * (behind % 2)  # the escaped character is in the next chunk
        chunk = chunk.removesuffix(self._held)
        if b"\\" in chunk:
            chunk = _ESCAPED.sub(b"", chunk)
        if b'"' not in chunk:
            return not (self.open and b"\n" in chunk)
        *ended, last = chunk.split(b"\n")
        if ended:
            if (ended[0].count(b'"') + self.open) % 2 or any(line.count(b'"') % 2 for line in ended[1:]):
                return False
            self.open = False
        self.open ^= bool(last.count(b'"') % 2)
        return True
