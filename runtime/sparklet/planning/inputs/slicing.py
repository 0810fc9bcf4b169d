"""Cuts large objects into slices: text at line breaks, Parquet by bytes, as Spark cuts it for its tasks."""

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
MAX_DISTANCE_BYTES = 8 * 1024 * 1024  # from the target of a cut to a line feed, in each direction
MAX_HEADER_BYTES = 1024 * 1024

_LINE = re.compile(rb"[^\r\n]*(\r\n|\n|\r(?=.))", re.DOTALL)  # to Spark each of them ends a line
COMMENTS = b"#;%/!"  # a comment may begin with one of these; an option of the reader decides
UTF8_MARK = b"\xef\xbb\xbf"
SUFFIXES = {".csv": "csv", ".tsv": "csv", ".jsonl": "lines", ".ndjson": "lines", ".parquet": "parquet"}
TRIES = 3  # for an object that changes while it is read

Read = Callable[[int, int], bytes]
"""Reads bytes of an object: offset, length."""

Whole = Callable[[str], None]
"""Called if a large object is planned whole, with the reason: one of few texts, so that reasons can be counted."""


class CannotCutError(Exception):
    """An object cannot be cut and is planned whole; the message is the reason."""


def cut_lines(read: Read, size_bytes: int, target_bytes: int, *, with_header: bool) -> tuple[int, list[int]]:
    """The length of the header in bytes (0 without one), and the offsets of the cuts after it.

    A part is not longer than ``target_bytes``, unless a line is, and not much shorter than half of that. With lines
    of more than 8 MiB a part may be several times as long, but it also consists of whole lines.
    """
    head = read(0, min(HEAD_BYTES, size_bytes))
    if b"\0" in head or is_misnamed("", head):
        raise CannotCutError("not UTF-8 text, or compressed, by its first bytes")
    header_bytes = _header_bytes(read, head, size_bytes) if with_header else 0
    cuts: list[int] = []
    # A target within a long header would give a first slice without rows.
    start, target = header_bytes, max(_even_target(0, size_bytes, target_bytes), header_bytes + 1)
    while target < size_bytes:
        # Backward first, so that a part is longer than the target only if one of its lines is.
        cut = _last_line_start(read, start, target) or _next_line_start(read, target, size_bytes)
        if cut == size_bytes:
            break
        if cut:
            cuts.append(cut)
            start, target = cut, _even_target(cut, size_bytes, target_bytes)
        else:
            target += target_bytes
    return header_bytes, cuts


def _even_target(start: int, size_bytes: int, target_bytes: int) -> int:
    """Where the part from ``start`` on should end, so that all parts from there have the same length."""
    rest = size_bytes - start
    parts = -(-rest // target_bytes)  # rounded up
    return start + -(-rest // parts)


def _header_bytes(read: Read, head: bytes, size_bytes: int) -> int:
    """The length up to the end of the header, to Spark the first line that is not blank, with a byte order mark."""
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
    first = len(UTF8_MARK) if head.startswith(UTF8_MARK) else 0
    for line in _LINE.finditer(head, first):
        if line[0].strip():
            return line.end()
    return None


def _last_line_start(read: Read, start: int, target: int) -> int:
    """The last start of a line in ``start < offset <= target``; 0 if there is none within MAX_DISTANCE_BYTES."""
    window, end, farthest = WINDOW_BYTES, target, max(start, target - MAX_DISTANCE_BYTES)
    while end > farthest:
        begin = max(farthest, end - window)
        # A line feed always ends a line; a carriage return may be only the first half of a line's end.
        newline = read(begin, end - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end, window = begin, min(2 * window, MAX_WINDOW_BYTES)
    return 0


def _next_line_start(read: Read, target: int, size_bytes: int) -> int:
    """The first start of a line after ``target``, or the file's end; 0 if there is none within MAX_DISTANCE_BYTES."""
    window, begin, farthest = WINDOW_BYTES, target, min(size_bytes, target + MAX_DISTANCE_BYTES)
    while begin < farthest:
        newline = read(begin, min(window, farthest - begin)).find(b"\n")
        if newline >= 0:
            return begin + newline + 1
        begin, window = begin + min(window, farthest - begin), min(2 * window, MAX_WINDOW_BYTES)
    return size_bytes if farthest == size_bytes else 0


# --- from objects to slices ---


def slice_objects(
    store: ObjectStore,
    objects: Iterable[Found],
    options: RunOptions,
    position: Position = Position(),  # noqa: B008 - frozen
    whole: Whole = lambda why: None,
    access: Access = Access(),  # noqa: B008 - frozen
) -> Iterator[Found]:
    """The objects; those above ``options.target_bytes`` are cut into slices as ``options.split`` says.

    ``store`` reads them with the run's ``access``. ``objects`` begin at ``position``: slices of the first object that
    are planned already are left out; PlanError if this object was replaced since.
    """
    for entry in objects:
        end = entry.position
        # An earlier planner may have sealed a part that ends between two slices of this object.
        planned_slices = position.slices if (end.source, end.after) == (position.source, position.after) else 0
        slices = _slices(store, entry.item, options, whole, access)
        # The cuts of another content would not fit the earlier ones: rows would be lost or doubled.
        if planned_slices and position.etag != slices[0].etag:
            raise PlanError(
                f"{entry.item.uri} was replaced while its slices were planned: those of its former content are in "
                "shards already and will fail; cancel this run and start a new one"
            )
        for count, item in enumerate(slices[planned_slices:], planned_slices + 1):
            slice_position = end if count == len(slices) else replace(end, slices=count, etag=item.etag)
            yield replace(entry, item=item, position=slice_position)


def split_kind(uri: str, split: str) -> str:
    """The kind of slices into which an object is cut: ``csv``, ``lines`` or ``parquet``; ``""`` if it is not cut."""
    if split != "auto":
        return split
    return next((kind for suffix, kind in SUFFIXES.items() if uri.lower().endswith(suffix)), "")


def _slices(
    store: ObjectStore, item: InputObject, options: RunOptions, whole: Whole, access: Access
) -> list[InputObject]:
    """The object's slices in order; the object alone if it is not or cannot be cut."""
    kind = split_kind(item.uri, options.split)
    if not kind or item.size_bytes <= options.target_bytes:
        return [item]
    try:
        if item.is_compressed:
            raise CannotCutError("compressed as a whole")
        # Spark itself reads slices of Parquet from the bucket, by the object's name and with the worker's role.
        if kind == "parquet" and (item.version_id or misread(item.uri) or access != Access()):
            raise CannotCutError("Parquet that workers fetch whole, for its name, version, payer or role")
        item, slices = _current_slices(store, item, kind, options.target_bytes)
        if len(slices) > 1:
            return slices
        reason = "has one line, or no line break where it could be cut"
    except CannotCutError as error:
        reason = str(error)
    except ObjectNotFoundError:
        reason = "no longer there"  # its shard will fail with that cause
    except ObjectForbiddenError:
        reason = "the planner has no permission to read it"  # the workers may have it
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    whole(reason)
    return [item]


def _current_slices(
    store: ObjectStore, item: InputObject, kind: str, target_bytes: int
) -> tuple[InputObject, list[InputObject]]:
    """The object as it is now, and its slices. If it is replaced meanwhile, it is cut again."""
    for _ in range(TRIES):
        # Without an ETag, which a list may omit, two reads might be of two contents.
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
    """The reader of an object, or of a local file: a preview cuts the file as the plan will cut its copy."""
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
    # Four bytes suffice here: a slice has the row groups whose middles are in it, and its worker reads the footer.
    ending = _reader(store, item)(max(0, item.size_bytes - 4), 4)
    if ending != b"PAR1":
        raise CannotCutError(f"{'encrypted' if ending == b'PARE' else 'not'} Parquet, by its last bytes")
    count = -(-item.size_bytes // target_bytes)
    cuts = [item.size_bytes * number // count for number in range(count + 1)]
    parts = (Slice(SliceKind.ROW_GROUPS, start, end) for start, end in pairwise(cuts))
    return [replace(item, size_bytes=part.end - part.start, slice=part) for part in parts]
