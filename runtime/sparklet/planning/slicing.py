"""Large objects cut into slices: at line breaks, or between row groups of Parquet."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

from sparklet.errors import ObjectChangedError, ObjectForbiddenError, ObjectNotFoundError, PlanError
from sparklet.model import InputObject, Position, RunOptions, Slice, SliceKind
from sparklet.parquet_footer import FooterError, load_footer
from sparklet.planning.found import Found
from sparklet.ports import ObjectStore

HEAD_BYTES = 64 * 1024
WINDOW_BYTES = 64 * 1024  # the first look around a cut; doubled until a line feed is in it
MAX_WINDOW_BYTES = 1024 * 1024
MAX_DISTANCE_BYTES = 8 * 1024 * 1024  # how far from a wanted cut a line feed is looked for, in each direction
MAX_HEADER_BYTES = 1024 * 1024

UTF8_MARK = b"\xef\xbb\xbf"
OTHERS = {  # how a file begins that is none of lines, or whose line breaks are not one byte
    b"\xff\xfe": "UTF-16 or UTF-32",
    b"\xfe\xff": "UTF-16",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\x1f\x8b": "compressed as a whole",
    b"BZh": "compressed as a whole",
    b"\x28\xb5\x2f\xfd": "compressed as a whole",
    b"\xfd7zXZ\x00": "compressed as a whole",
    b"\x04\x22\x4d\x18": "compressed as a whole",
    b"PK\x03\x04": "compressed as a whole",
    b"PAR1": "Parquet, not lines",
    b"ORC": "ORC, not lines",
    b"Obj\x01": "Avro, not lines",
}

Read = Callable[[int, int], bytes]
"""Bytes of the file from an offset, so many at most."""


class CannotCutError(Exception):
    """The object has to be planned whole; the message says why."""


def cut_lines(read: Read, size_bytes: int, target_bytes: int, *, with_header: bool) -> tuple[int, list[int]]:
    """How many bytes the header has (0 without one), and where to cut behind it.

    No part is longer than ``target_bytes``, unless a line is, or much shorter than half of it. Where lines are longer
    than 8 MiB a part may take in several targets: it still begins and ends with a line.
    """
    head = read(0, min(HEAD_BYTES, size_bytes))
    for mark, what in OTHERS.items():
        if head.startswith(mark):
            raise CannotCutError(what)
    if b"\0" in head:
        raise CannotCutError("holds zero bytes, as UTF-16 does")
    header_bytes = _header_bytes(read, head, size_bytes) if with_header else 0
    cuts: list[int] = []
    start, wanted = header_bytes, max(_even(0, size_bytes, target_bytes), header_bytes + 1)
    while wanted < size_bytes:
        cut = _before(read, start, wanted) or _after(read, wanted, size_bytes)
        if cut == size_bytes:
            break
        if cut:
            cuts.append(cut)
            start, wanted = cut, _even(cut, size_bytes, target_bytes)
        else:
            wanted += target_bytes
    return header_bytes, cuts


def _even(start: int, size_bytes: int, target_bytes: int) -> int:
    """Where the next part should end if all that follow are to be alike: no sliver is left at the end."""
    rest = size_bytes - start
    parts = -(-rest // target_bytes)
    return start + -(-rest // parts)


def _header_bytes(read: Read, head: bytes, size_bytes: int) -> int:
    """Up to and with the first line that is not blank, as Spark finds the header; byte order mark included."""
    if _header_end(head) is None and len(head) < size_bytes:
        head = read(0, min(MAX_HEADER_BYTES, size_bytes))
    end = _header_end(head)
    if end is None:
        raise CannotCutError("no line feed ends its header within 1 MiB")
    if head.count(b'"', 0, end) % 2:
        raise CannotCutError("its header goes over several lines")
    return end


def _header_end(head: bytes) -> int | None:
    at = len(UTF8_MARK) if head.startswith(UTF8_MARK) else 0
    while end := head.find(b"\n", at) + 1:
        if head[at:end].strip():
            return end
        at = end
    return None


def _before(read: Read, start: int, wanted: int) -> int:
    """The last beginning of a line in ``start < place <= wanted``; 0 if there is none near."""
    window, end, farthest = WINDOW_BYTES, wanted, max(start, wanted - MAX_DISTANCE_BYTES)
    while end > farthest:
        begin = max(farthest, end - window)
        found = read(begin, end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end, window = begin, min(2 * window, MAX_WINDOW_BYTES)
    return 0


def _after(read: Read, wanted: int, size_bytes: int) -> int:
    """The first beginning of a line behind ``wanted``, or the file's end; 0 if there is none near."""
    window, begin, farthest = WINDOW_BYTES, wanted, min(size_bytes, wanted + MAX_DISTANCE_BYTES)
    while begin < farthest:
        found = read(begin, min(window, farthest - begin)).find(b"\n")
        if found >= 0:
            return begin + found + 1
        begin, window = begin + min(window, farthest - begin), min(2 * window, MAX_WINDOW_BYTES)
    return size_bytes if farthest == size_bytes else 0


SUFFIXES = {".csv": "csv", ".tsv": "csv", ".jsonl": "lines", ".ndjson": "lines", ".parquet": "parquet"}
TRIES = 3  # an object that changes while it is looked at

Whole = Callable[[InputObject, str], None]
"""Called with a large object that is planned whole, and why: a text that is the same for all of its kind."""


def slice_objects(
    store: ObjectStore,
    found: Iterable[Found],
    options: RunOptions,
    position: Position = Position(),  # noqa: B008 - frozen
    whole: Whole = lambda item, why: None,
) -> Iterator[Found]:
    """Pass objects on, those above ``target_bytes`` cut into slices as ``options.split`` says.

    Parameters
    ----------
    store
        Where the objects are read, with the run's own access.
    position
        Where ``found`` begins: of its first object so many slices are left out.

    Raises
    ------
    PlanError
        If an object of which slices are planned already was replaced in between.
    """
    for each in found:
        done = position.slices if _is_at(each.position, position) else 0
        slices = _slices(store, each.item, options, whole)
        if done and position.etag != slices[0].etag:
            raise PlanError(
                f"{each.item.uri} was replaced while its slices were planned: those of its former content are in "
                "shards already and will fail; cancel this run and begin a new one"
            )
        for count, item in enumerate(slices[done:], done + 1):
            last = count == len(slices)
            place = each.position if last else replace(each.position, slices=count, etag=item.etag)
            yield replace(each, item=item, position=place)


def _is_at(here: Position, position: Position) -> bool:
    return (here.source, here.after) == (position.source, position.after)


def split_kind(uri: str, split: str) -> str:
    """What an object is cut as: ``csv``, ``lines``, ``parquet``, or ``""``."""
    if split != "auto":
        return split
    return next((kind for suffix, kind in SUFFIXES.items() if uri.lower().endswith(suffix)), "")


def _slices(store: ObjectStore, item: InputObject, options: RunOptions, whole: Whole) -> list[InputObject]:
    """The object's slices in order, or the object alone."""
    kind = split_kind(item.uri, options.split)
    if not kind or item.size_bytes <= options.target_bytes:
        return [item]
    if item.is_compressed:
        whole(item, "compressed as a whole")
        return [item]
    try:
        item, slices = _cut(store, item, kind, options.target_bytes)
    except CannotCutError as error:
        whole(item, str(error))
        return [item]
    except ObjectNotFoundError:
        whole(item, "no longer there")  # its shard will end with that cause
        return [item]
    except ObjectForbiddenError:
        whole(item, "may not be read by the planner")  # perhaps by the workers
        return [item]
    if len(slices) < 2:
        lines = "has one line, or no line break where it could be cut"
        whole(item, "has one row group" if kind == "parquet" else lines)
        return [item]
    return slices


def _cut(store: ObjectStore, item: InputObject, kind: str, target_bytes: int) -> tuple[InputObject, list[InputObject]]:
    """The object as it is now and its slices; once more where it is replaced under our hands, or had no ETag."""
    for _ in range(TRIES):
        if item.etag:
            try:
                if kind == "parquet":
                    return item, _parquet_slices(store, item, target_bytes)
                return item, _line_slices(store, item, target_bytes, with_header=kind == "csv")
            except ObjectChangedError:
                pass
        info = store.head(item.uri, item.version_id)
        item = replace(item, size_bytes=info.size_bytes, etag=info.etag)
    raise CannotCutError("changes all the time")


def _reader(store: ObjectStore, item: InputObject) -> Read:
    return lambda offset, length: store.get(item.uri, offset, length, item.etag, item.version_id)


def _line_slices(store: ObjectStore, item: InputObject, target_bytes: int, *, with_header: bool) -> list[InputObject]:
    header_bytes, cuts = cut_lines(_reader(store, item), item.size_bytes, target_bytes, with_header=with_header)
    bounds = [header_bytes, *cuts, item.size_bytes]
    slices = []
    for start, end in pairwise(bounds):
        size_bytes = end if start == header_bytes else end - start  # the header counts once
        slices.append(replace(item, size_bytes=size_bytes, slice=Slice(SliceKind.LINES, start, end, header_bytes)))
    return slices


def _parquet_slices(store: ObjectStore, item: InputObject, target_bytes: int) -> list[InputObject]:
    try:
        sizes = [group.size_bytes for group in load_footer(_reader(store, item), item.size_bytes).row_groups]
    except FooterError as error:
        raise CannotCutError(str(error)) from error
    slices, first, held = [], 0, 0
    for number, size in enumerate([*sizes, target_bytes + 1]):
        if number > first and held + size > target_bytes:
            part = Slice(SliceKind.ROW_GROUPS, first, number)
            slices.append(replace(item, size_bytes=held, slice=part))
            first, held = number, 0
        held += size
    return slices
