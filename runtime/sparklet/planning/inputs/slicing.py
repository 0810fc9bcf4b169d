"""Large objects cut into slices: text at line breaks, Parquet by bytes, as Spark cuts it for its tasks."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

from sparklet.errors import ObjectChangedError, ObjectForbiddenError, ObjectNotFoundError, PlanError
from sparklet.job.event_objects import misread
from sparklet.model import Access, InputObject, Position, RunOptions, Slice, SliceKind, is_misnamed
from sparklet.planning.inputs.selection import Found
from sparklet.ports import ObjectStore

HEAD_BYTES = 64 * 1024
WINDOW_BYTES = 64 * 1024  # read first around a cut; doubled until it contains a line feed
MAX_WINDOW_BYTES = 1024 * 1024
MAX_DISTANCE_BYTES = 8 * 1024 * 1024  # from a wanted cut to a line feed, in each direction
MAX_HEADER_BYTES = 1024 * 1024

_LINE = re.compile(rb"[^\r\n]*(\r\n|\n|\r(?=.))", re.DOTALL)  # Spark ends lines at any of them
COMMENTS = b"#;%/!"  # characters with which a comment may begin; the reader's option decides
UTF8_MARK = b"\xef\xbb\xbf"
SUFFIXES = {".csv": "csv", ".tsv": "csv", ".jsonl": "lines", ".ndjson": "lines", ".parquet": "parquet"}
TRIES = 3  # for an object that changes while it is read

Read = Callable[[int, int], bytes]
"""Bytes of an object: offset, length."""

Whole = Callable[[str], None]
"""Called with the reason why a large object is planned whole: the same text for all objects of a kind."""


class CannotCutError(Exception):
    """The object is planned whole; the message is the reason."""


def cut_lines(read: Read, size_bytes: int, target_bytes: int, *, with_header: bool) -> tuple[int, list[int]]:
    """The length of the header in bytes (0 without one), and the offsets of the cuts after it.

    No part is longer than ``target_bytes``, unless a line is, or much shorter than half of it. If lines are longer than
    8 MiB, a part may be several times as long; it still begins and ends with a line.
    """
    head = read(0, min(HEAD_BYTES, size_bytes))
    if b"\0" in head or is_misnamed("", head):
        raise CannotCutError("not UTF-8 text, or compressed, by its first bytes")
    header_bytes = _header_bytes(read, head, size_bytes) if with_header else 0
    cuts: list[int] = []
    # A target within a long header would give a first slice without rows.
    start, target = header_bytes, max(_even(0, size_bytes, target_bytes), header_bytes + 1)
    while target < size_bytes:
        # Backward first: then a part is longer than wanted only if one of its lines is.
        cut = _before(read, start, target) or _after(read, target, size_bytes)
        if cut == size_bytes:
            break
        if cut:
            cuts.append(cut)
            start, target = cut, _even(cut, size_bytes, target_bytes)
        else:
            target += target_bytes
    return header_bytes, cuts


def _even(start: int, size_bytes: int, target_bytes: int) -> int:
    """Where the next part should end for all parts from here on to have the same length."""
    rest = size_bytes - start
    parts = -(-rest // target_bytes)
    return start + -(-rest // parts)


def _header_bytes(read: Read, head: bytes, size_bytes: int) -> int:
    """The bytes up to the end of the first line that is not blank, which is Spark's header; with a byte order mark."""
    if _header_end(head) is None and len(head) < size_bytes:
        head = read(0, min(MAX_HEADER_BYTES, size_bytes))
    end = _header_end(head)
    if end is None:
        raise CannotCutError("no line feed ends its header within 1 MiB")
    # Which line Spark takes for the header depends on an option of the script, which no planner knows.
    if head.removeprefix(UTF8_MARK).lstrip()[:1] in COMMENTS:
        raise CannotCutError("its first line may be a comment, so which line is the header is not known")
    if head.count(b'"', 0, end) % 2:
        raise CannotCutError("its header spans several lines")
    return end


def _header_end(head: bytes) -> int | None:
    at = len(UTF8_MARK) if head.startswith(UTF8_MARK) else 0
    for line in _LINE.finditer(head, at):
        if line[0].strip():
            return line.end()
    return None


def _before(read: Read, start: int, target: int) -> int:
    """The last start of a line in ``start < offset <= target``; 0 if there is none near."""
    window, end, farthest = WINDOW_BYTES, target, max(start, target - MAX_DISTANCE_BYTES)
    while end > farthest:
        begin = max(farthest, end - window)
        # A line feed ends a line in every text; a carriage return may be only the first half of an end.
        newline = read(begin, end - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end, window = begin, min(2 * window, MAX_WINDOW_BYTES)
    return 0


def _after(read: Read, target: int, size_bytes: int) -> int:
    """The first start of a line after ``target``, or the file's end; 0 if there is none near."""
    window, begin, farthest = WINDOW_BYTES, target, min(size_bytes, target + MAX_DISTANCE_BYTES)
    while begin < farthest:
        newline = read(begin, min(window, farthest - begin)).find(b"\n")
        if newline >= 0:
            return begin + newline + 1
        begin, window = begin + min(window, farthest - begin), min(2 * window, MAX_WINDOW_BYTES)
    return size_bytes if farthest == size_bytes else 0


# --- objects into slices ---


def slice_objects(
    store: ObjectStore,
    objects: Iterable[Found],
    options: RunOptions,
    position: Position = Position(),  # noqa: B008 - frozen
    whole: Whole = lambda why: None,
    access: Access = Access(),  # noqa: B008 - frozen
) -> Iterator[Found]:
    """The objects, those above ``target_bytes`` cut into slices as ``options.split`` demands.

    ``store`` reads them with the run's ``access``. ``objects`` begin at ``position``: the planned slices of the first
    object are left out; PlanError if that object was replaced since.
    """
    for entry in objects:
        end = entry.position
        # An earlier planner may have sealed a part in the midst of this object's slices.
        done = position.slices if (end.source, end.after) == (position.source, position.after) else 0
        slices = _slices(store, entry.item, options, whole, access)
        # Cuts of another content would not fit those before them: rows would be lost or doubled.
        if done and position.etag != slices[0].etag:
            raise PlanError(
                f"{entry.item.uri} was replaced while its slices were planned: those of its former content are in "
                "shards already and will fail; cancel this run and start a new one"
            )
        for count, item in enumerate(slices[done:], done + 1):
            slice_position = end if count == len(slices) else replace(end, slices=count, etag=item.etag)
            yield replace(entry, item=item, position=slice_position)


def split_kind(uri: str, split: str) -> str:
    """The kind of slices that an object is cut into: ``csv``, ``lines``, ``parquet``, or ``""`` for none."""
    if split != "auto":
        return split
    return next((kind for suffix, kind in SUFFIXES.items() if uri.lower().endswith(suffix)), "")


def _slices(
    store: ObjectStore, item: InputObject, options: RunOptions, whole: Whole, access: Access
) -> list[InputObject]:
    """The object's slices in order, or the object alone."""
    kind = split_kind(item.uri, options.split)
    if not kind or item.size_bytes <= options.target_bytes:
        return [item]
    try:
        if item.is_compressed:
            raise CannotCutError("compressed as a whole")
        # Slices of Parquet are read by Spark itself, from the bucket, by the object's name and with the worker's role.
        if kind == "parquet" and (item.version_id or misread(item.uri) or access != Access()):
            raise CannotCutError("Parquet that workers fetch whole, for its name, version, payer or role")
        item, slices = _cut(store, item, kind, options.target_bytes)
        if len(slices) > 1:
            return slices
        reason = "has one line, or no line break where it could be cut"
    except CannotCutError as error:
        reason = str(error)
    except ObjectNotFoundError:
        reason = "no longer there"  # its shard will fail with that cause
    except ObjectForbiddenError:
        reason = "may not be read by the planner"  # the workers may be allowed to
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    whole(reason)
    return [item]


def _cut(store: ObjectStore, item: InputObject, kind: str, target_bytes: int) -> tuple[InputObject, list[InputObject]]:
    """The object as it is now and its slices; read again if it is replaced meanwhile, or had no ETag."""
    for _ in range(TRIES):
        # Without an ETag, which a list may omit, two reads could be of two contents.
        if item.etag or "://" not in item.uri:
            try:
                if kind == "parquet":
                    return item, _parquet_slices(store, item, target_bytes)
                return item, _line_slices(store, item, target_bytes, with_header=kind == "csv")
            except ObjectChangedError:
                pass
        info = store.head(item.uri, item.version_id)
        item = replace(item, size_bytes=info.size_bytes, etag=info.etag, modified_s=info.modified_s)
    raise CannotCutError("changes all the time")


def _reader(store: ObjectStore, item: InputObject) -> Read:
    """The reader of an object, or of a local file, which a preview cuts as the plan will cut it in the bucket."""
    if "://" not in item.uri:
        return partial(_read_file, item.uri)
    return lambda offset, length: store.get(item.uri, offset, length, item.etag, item.version_id)


def _read_file(path: str, offset: int, length: int) -> bytes:
    with Path(path).open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _line_slices(store: ObjectStore, item: InputObject, target_bytes: int, *, with_header: bool) -> list[InputObject]:
    header_bytes, cuts = cut_lines(_reader(store, item), item.size_bytes, target_bytes, with_header=with_header)
    slices = []
    for start, end in pairwise([header_bytes, *cuts, item.size_bytes]):
        size_bytes = end if start == header_bytes else end - start  # the header counts once
        slices.append(replace(item, size_bytes=size_bytes, slice=Slice(SliceKind.LINES, start, end, header_bytes)))
    return slices


def _parquet_slices(store: ObjectStore, item: InputObject, target_bytes: int) -> list[InputObject]:
    """Slices of even size; ``ParquetPart`` gives a row group to the slice in which its middle lies."""
    # Four bytes suffice: a slice has the row groups whose middle is in it, so only its worker must read the footer.
    ending = _reader(store, item)(max(0, item.size_bytes - 4), 4)
    if ending != b"PAR1":
        raise CannotCutError(f"{'encrypted' if ending == b'PARE' else 'no'} Parquet, by its last bytes")
    count = -(-item.size_bytes // target_bytes)
    cuts = [item.size_bytes * number // count for number in range(count + 1)]
    parts = (Slice(SliceKind.ROW_GROUPS, start, end) for start, end in pairwise(cuts))
    return [replace(item, size_bytes=part.end - part.start, slice=part) for part in parts]
