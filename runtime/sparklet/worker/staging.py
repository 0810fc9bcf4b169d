"""Inputs that Spark cannot read by their names, fetched into the task's own folder.

A slice of an object, an old version, an object that somebody else pays for or another role may read, a name that
Hadoop's paths or Spark would misread: the script gets a ``file://`` address of it, so that any script, also one that
knows nothing of Sparklet, runs unchanged. Everything else Spark reads itself.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sparklet.errors import (
    DeadlineExceededError,
    EventError,
    ObjectChangedError,
    ObjectStoreError,
    PlanError,
    ScratchFullError,
)
from sparklet.events.script_event import needs_staging
from sparklet.model import Access, InputObject, Slice, SliceKind
from sparklet.parquet_footer import MAGIC, FooterError, load_footer
from sparklet.ports import ObjectStore
from sparklet.spark.guards import MIB, Deadline

FOLDER = "inputs"
CHUNK_BYTES = 8 * MIB
BLOCK_BYTES = MIB // 2
MIN_GAP_BYTES = 256 * 1024  # between ranges of a Parquet file: reading on is cheaper than another request
AT_A_TIME = 4
MAX_STEM = 80

_SUFFIX = re.compile(r"(?:\.[A-Za-z0-9]{1,12}){1,3}$")
_ESCAPED = re.compile(rb'\\[\\"]')


def staged_name(number: int, uri: str) -> str:
    """A plain and unique file name with the object's own suffix."""
    name = uri.rstrip("/").rpartition("/")[2]
    found = _SUFFIX.search(name)
    suffix = found[0] if found and found.start() else ""
    stem = re.sub(r"[^A-Za-z0-9=-]+", "-", name.removesuffix(suffix))[:MAX_STEM].strip("-")
    return f"{number:05d}-{stem}{suffix}" if stem else f"{number:05d}{suffix}"


@dataclass(frozen=True, slots=True)
class Staging:
    """A shard's inputs of which some must be fetched."""

    items: tuple[InputObject, ...]
    access: Access
    store: ObjectStore  # reads with the run's access
    cross_region: frozenset[str] = frozenset()  # buckets of other regions, which S3A does not follow

    def fetch(self, folder: Path, deadline: Deadline, min_free_bytes: int) -> list[str]:
        """Fetch what must be, several at a time; the addresses of all inputs for the script, in order.

        Raises
        ------
        ScratchFullError
            Before anything is fetched, if it would leave less than ``min_free_bytes``.
        ObjectNotFoundError, ObjectChangedError, ObjectForbiddenError
            If an object is not what was planned; they name it.
        PlanError
            If rows of a CSV file that was cut go over several lines.
        """
        from concurrent.futures import ThreadPoolExecutor  # no cold start pays for it

        paths = self._paths(folder)
        self._check_space(folder, sum(_fetched_bytes(self.items[n]) for n in paths), min_free_bytes)
        (folder / FOLDER).mkdir()
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            fetched = [pool.submit(_fetch, self.store, self.items[n], path, deadline) for n, path in paths.items()]
            try:
                for future in fetched:
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)
        return [f"file://{paths[n]}" if n in paths else item.uri for n, item in enumerate(self.items)]

    def with_origins(self, text: str, folder: Path) -> str:
        """A text of the script's with the objects' own names instead of the files'."""
        if f"{folder / FOLDER}" in text:
            for number, path in self._paths(folder).items():
                text = described(self.items[number]).join(re.split(rf"(?:file:(?://)?)?{re.escape(str(path))}", text))
        return text

    def _paths(self, folder: Path) -> dict[int, Path]:
        return {
            number: folder / FOLDER / staged_name(number, item.uri)
            for number, item in enumerate(self.items)
            if needs_staging(item, self.access, self.cross_region)
        }

    def _check_space(self, folder: Path, needed_bytes: int, min_free_bytes: int) -> None:
        free = shutil.disk_usage(folder).free
        if free < needed_bytes + min_free_bytes:
            raise ScratchFullError(
                f"{folder.parent} has {free / MIB:.0f} MiB free, the shard's inputs that must be fetched have "
                f"{needed_bytes / MIB:.0f} MiB and {min_free_bytes / MIB:.0f} MiB must stay free: "
                "give the function more ephemeral storage or make shards smaller"
            )


def described(item: InputObject) -> str:
    """An input for a person: the object, and what of it."""
    version = f" version {item.version_id}" if item.version_id else ""
    if item.slice is None:
        return f"{item.uri}{version}"
    what = "bytes" if item.slice.kind is SliceKind.LINES else "row groups"
    return f"{item.uri}{version} ({what} {item.slice.start} to {item.slice.end - 1})"


def _fetched_bytes(item: InputObject) -> int:
    return item.size_bytes + (item.slice.header_bytes if item.slice else 0)


def _fetch(store: ObjectStore, item: InputObject, path: Path, deadline: Deadline) -> None:
    try:
        if item.slice is None:  # as it is now, as Spark would read it; an old version does not change
            _check_time(item, deadline)
            store.download(item.uri, path, version_id=item.version_id)
            return
        with path.open("xb") as file:
            write = _write_lines if item.slice.kind is SliceKind.LINES else _write_row_groups
            write(_Reader(store, item, deadline), item.slice, file)
    except ObjectChangedError as error:
        raise ObjectChangedError(
            f"{described(item)} was replaced after it was planned; begin a new run for what it holds now"
        ) from error
    except OSError as error:
        raise ObjectStoreError(f"{item.uri} could not be written to {path}: {error}") from error


def _check_time(item: InputObject, deadline: Deadline) -> None:
    if deadline.remaining_s() <= 0:
        raise DeadlineExceededError(f"the deadline came while {described(item)} was fetched: make shards smaller")


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads ranges of an object, as long as it is the one that was planned and there is time."""

    store: ObjectStore
    item: InputObject
    deadline: Deadline

    def read(self, offset: int, length: int) -> bytes:
        _check_time(self.item, self.deadline)
        found = self.store.get(self.item.uri, offset, length, self.item.etag, self.item.version_id)
        if len(found) != length:
            raise ObjectStoreError(f"{self.item.uri}: asked for {length} bytes at {offset}, got {len(found)}")
        return found

    def chunks(self, start: int, end: int) -> Iterator[bytes]:
        for at in range(start, end, CHUNK_BYTES):
            yield self.read(at, min(CHUNK_BYTES, end - at))


def _write_lines(reader: _Reader, part: Slice, file: BinaryIO) -> None:
    """Header and lines; of CSV, which alone has a header, each line must be whole rows."""
    file.writelines(reader.chunks(0, part.header_bytes))
    quotes = _Quotes() if part.header_bytes else None
    for chunk in reader.chunks(part.start, part.end):
        file.write(chunk)
        if quotes and not all(quotes.closed_in(block) for block in _blocks(chunk)):
            raise _several_lines(reader.item)
    if quotes and quotes.open:
        raise _several_lines(reader.item)


def _blocks(chunk: bytes) -> Iterator[bytes]:
    """A chunk in pieces: its lines become objects, and of short lines those of a whole chunk would be 300 MB."""
    return (chunk[at : at + BLOCK_BYTES] for at in range(0, len(chunk), BLOCK_BYTES))


def _several_lines(item: InputObject) -> PlanError:
    return PlanError(
        f"{described(item)} has a line with an odd number of quotes, so rows over several lines: "
        "plan without --split csv"
    )


class _Quotes:
    """Counts the quotes of each line; those behind a backslash do not count."""

    def __init__(self) -> None:
        self.open = False  # whether the line so far has an odd number
        self._held = b""

    def closed_in(self, chunk: bytes) -> bool:
        """Whether every line that ends in this chunk has an even number."""
        chunk = self._held + chunk
        behind = len(chunk) - len(chunk.rstrip(b"\\"))
        self._held = b"\\" * (behind % 2)  # what it escapes comes with the next chunk
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


def _write_row_groups(reader: _Reader, part: Slice, file: BinaryIO) -> None:
    """A sparse file: what belongs to the row groups where it was, and a footer that knows of no others."""
    try:
        size_bytes = reader.store.head(reader.item.uri, reader.item.version_id).size_bytes
        footer = load_footer(reader.read, size_bytes)
    except FooterError as error:
        raise EventError(f"{reader.item.uri} cannot be cut: {error}") from error
    if part.end > len(footer.row_groups):
        raise EventError(f"{reader.item.uri} has {len(footer.row_groups)} row groups, the plan names {part.end}")
    file.write(MAGIC)
    for start, end in _with_gaps(footer.ranges(part.start, part.end)):
        file.seek(start)
        file.writelines(reader.chunks(start, end))
    file.seek(footer.start)
    file.write(footer.shortened(part.start, part.end))


def _with_gaps(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The ranges, those joined between which there is little."""
    held: tuple[int, int] | None = None
    for start, end in ranges:
        if held and start - held[1] <= MIN_GAP_BYTES:
            held = (held[0], end)
        else:
            if held:
                yield held
            held = (start, end)
    if held:
        yield held
