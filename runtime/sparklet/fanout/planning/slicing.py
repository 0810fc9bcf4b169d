"""Large objects into slices: each row in exactly one, found with a small read or two for each cut.

Lines are cut at line feeds, Parquet between row groups. What cannot be cut, or not safely, is planned whole, and the
caller is notified why. Slices carry the object's ETag and workers pin it: a replaced object fails, it is never mixed.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

from sparklet.errors import ObjectChangedError, ObjectForbiddenError, ObjectNotFoundError, PlanError
from sparklet.fanout.inventory import Found
from sparklet.fanout.planning.line_cuts import CannotCutError, Read, cut_lines
from sparklet.model import InputObject, Position, RunOptions, Slice, SliceKind
from sparklet.parquet_footer import FooterError, load_footer
from sparklet.ports import ObjectStore

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
