"""Lists that a user gives: made definite, and stored with the run if they lie on a user's own disk."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparklet.errors import ObjectChangedError, ObjectNotFoundError, PlanError, SettingsError
from sparklet.model import ListSource, RunOptions
from sparklet.planning.deployment import Deployment
from sparklet.planning.lists import FORMATS, ListReader, list_format
from sparklet.ports import ObjectStore
from sparklet.s3_uri import SCHEME


@dataclass(frozen=True, slots=True)
class ListRequest:
    """A list of objects, or of plain items, that a user gives as input.

    Parameters
    ----------
    source
        ``s3://`` address of the list; where ``body`` is given, the name it is known by in messages (a path, ``-``).
    body
        The list itself, from a local file or standard input: it is stored with the run.
    format
        lines | csv | json | jsonl | parquet | s3-inventory; "": by the name of ``source``.
    path
        Where the addresses are: a column's name or number, or a path such as ``data.files[*].uri``; "": by their names.
        Of items: the column or path whose values they are; "": whole rows.
    items
        Its rows name no objects: each is an item, which a script finds in ``job.items``.
    """

    source: str
    body: bytes | None = None
    format: str = ""
    path: str = ""
    items: bool = False


def read_lists(given: Sequence[Any]) -> tuple[ListRequest, ...]:
    """Lists as a document names them: ``"s3://…"``, or ``{"source": "s3://…", "format", "path", "items": false}``.

    Raises
    ------
    SettingsError
        If one is neither, or lies elsewhere.
    """
    kinds = {"source": str, "format": str, "path": str, "items": bool}
    lists = []
    for each in given:
        if isinstance(each, ListRequest):  # of a command line, which has read those of its machine
            lists.append(each)
            continue
        document = {"source": each} if isinstance(each, str) else each
        fits = isinstance(document, Mapping) and all(type(value) is kinds.get(key) for key, value in document.items())
        if not fits or "source" not in document:
            raise SettingsError(
                "each must be an s3:// address, or an object of the texts source, format and path, and items "
                "(true or false)"
            )
        if not document["source"].startswith(SCHEME):
            raise SettingsError(f"{document['source']!r} must lie in S3: s3://…")
        lists.append(ListRequest(**document))
    return tuple(lists)


def read_items(given: Sequence[Any]) -> tuple[ListRequest, ...]:
    """Items that a document holds itself, as one list."""
    return (ListRequest("items", json.dumps(given).encode(), "json", items=True),) if given else ()


def refuse_mixed(lists: Sequence[ListRequest], inputs: Sequence[str], options: RunOptions) -> None:
    """PlanError if a run of items has other inputs too, or options that choose among objects."""
    if not any(given.items for given in lists):
        return
    if inputs or not all(given.items for given in lists):
        raise PlanError("a run's input is items or objects, not both: start a run for each")
    of_objects = {
        "incremental": options.incremental,
        "include": options.include,
        "exclude": options.exclude,
        "since": options.modified_since_s,
        "versions": options.all_versions,
        "group by": options.group_by,
        "split": options.split,
    }
    if given := [name for name, value in of_objects.items() if value]:
        raise PlanError(f"items are no objects, so a run of items has no option {', '.join(given)}: leave that out")


def resolve_list(store: ObjectStore, given: ListRequest) -> ListSource:
    """A list with its format and, of one in S3, the ETag in which it will be read.

    Raises
    ------
    PlanError
        If the list is not there, or its format is not known.
    """
    form = given.format or ("lines" if given.source == "-" else list_format(given.source))
    if form not in FORMATS:
        raise SettingsError(f"the list format {form!r} is none; it must be one of {', '.join(FORMATS)}")
    if given.items and form == "s3-inventory":
        raise PlanError(f"{given.source} is an S3 Inventory, which lists objects: give it as a list, not as items")
    if given.body is not None:
        if form == "s3-inventory":
            raise PlanError(
                f"the manifest {given.source} lies here, apart from its checksum; give its s3:// address instead"
            )
        return ListSource(given.source, form, given.path, items=given.items)
    scheme, _, rest = given.source.partition("://")
    if scheme not in ("s3", "s3a", "s3n"):
        raise PlanError(f"the list {given.source} can only be read from s3:// here")
    try:
        info = store.head(f"{SCHEME}{rest}")
    except ObjectNotFoundError as error:
        raise PlanError(f"the list {given.source} is not there; check its spelling") from error
    return ListSource(info.uri, form, given.path, info.etag, given.items)


def readers(store: ObjectStore, requests: Sequence[ListRequest], sources: Sequence[ListSource]) -> Iterator[ListReader]:
    """Readers of lists as they were given: nothing is stored yet."""
    for given, source in zip(requests, sources, strict=True):
        yield ListReader(source, store, given.body)


def stored_at(at: Deployment, run_id: str, index: int, given: ListRequest, source: ListSource) -> ListSource:
    """Where a list of a run lies; one that was given with its bytes has its digest in the name."""
    if given.body is None:
        return source
    zipped = ".gz" if given.source.endswith(".gz") else ""
    name = f"lists/{index}-{hashlib.sha256(given.body).hexdigest()[:16]}.{source.format}{zipped}"
    return replace(source, uri=at.run_uri(run_id, name))


def keep_lists(at: Deployment, requests: Sequence[ListRequest], sources: Sequence[ListSource]) -> None:
    """Store what lies nowhere yet; what is there already has the same bytes, since its digest is in its name."""
    for given, source in zip(requests, sources, strict=True):
        if given.body is not None:
            try:
                at.store.put(source.uri, given.body, create_only=True)
            except ObjectChangedError:
                continue
