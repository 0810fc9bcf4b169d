"""The lists of a request: reads them from documents, finds their formats, and names the copies that a run stores."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparklet.errors import ObjectNotFoundError, PlanError, SettingsError
from sparklet.model import SCHEME, ListSource, RunOptions, s3_address
from sparklet.planning.inputs.lists import FORMATS, ListReader, list_format
from sparklet.ports import ObjectStore
from sparklet.ports.deployment import Deployment

TABLE = "glue:"  # begins the name of a table in the catalog: glue:DATABASE.TABLE


@dataclass(frozen=True, slots=True)
class ListRequest:
    """A list of objects, or of plain items, that a user gives as input.

    ``source`` is the list's ``s3://`` address. If the list comes from a local file or standard input, ``body`` is the
    list itself, and ``source`` its name in messages. Without a ``format`` the name decides. The objects of a table,
    ``glue:DATABASE.TABLE``, are a list, too.
    """

    source: str
    body: bytes | None = None
    format: str = ""
    items: bool = False


def read_lists(entries: Sequence[Any]) -> tuple[ListRequest, ...]:
    """The lists of a document, each as ``"s3://…"`` or ``{"source": "s3://…", "format": "csv", "items": false}``."""
    kinds = {"source": str, "format": str, "items": bool}
    lists = []
    for entry in entries:
        if isinstance(entry, ListRequest):  # from the command line, which has read local files
            lists.append(entry)
            continue
        document = {"source": entry} if isinstance(entry, str) else entry
        fits = isinstance(document, Mapping) and all(type(value) is kinds.get(key) for key, value in document.items())
        if not fits or "source" not in document:
            raise SettingsError(
                "each must be an s3:// address, or an object of source and format (texts) and items (a boolean)"
            )
        if not document["source"].startswith(SCHEME):
            raise SettingsError(f"{document['source']!r} must be in S3: s3://…")
        lists.append(ListRequest(**document))
    return tuple(lists)


def read_items(items: Sequence[Any]) -> tuple[ListRequest, ...]:
    """The items of a document as one list; empty if there are none."""
    return (ListRequest("items", json.dumps(items).encode(), "json", items=True),) if items else ()


def refuse_mixed(lists: Sequence[ListRequest], inputs: Sequence[str], options: RunOptions) -> None:
    """PlanError if a run of items or of a table has other inputs too, or options that do not fit its input."""
    tables = [request.source for request in lists if request.source.startswith(TABLE)]
    if tables and (inputs or len(lists) > 1):
        raise PlanError(f"{tables[0]} must be a run's only input: start a run for each table or folder")
    if options.where and not tables:
        raise PlanError(
            f"`where` selects partitions of a table of the catalog: give one as the input, {TABLE}DATABASE.TABLE"
        )
    if not any(request.items for request in lists):
        return
    if inputs or not all(request.items for request in lists):
        raise PlanError("a run's input is either items or objects: start a run for each")
    options_of_objects = {
        "incremental": options.incremental,
        "include": options.include,
        "exclude": options.exclude,
        "since": options.modified_since_s,
        "group by": options.group_by,
        "split": options.split,
        "output per": options.output_per,
    }
    if option_names := [name for name, value in options_of_objects.items() if value]:
        raise PlanError(
            f"items are not objects, so a run of items has no option {', '.join(option_names)}: leave it out"
        )


def resolve_list(store: ObjectStore, request: ListRequest) -> ListSource:
    """The list with its format and, if it is in S3, its ETag; PlanError if it does not exist."""
    form = request.format or ("lines" if request.source == "-" else list_format(request.source))
    if form not in FORMATS:
        raise SettingsError(f"the list format {form!r} is unknown; it must be one of {', '.join(FORMATS)}")
    if request.items and form == "s3-inventory":
        raise PlanError(f"{request.source} is an S3 Inventory, which lists objects: give it as a list, not as items")
    if request.body is not None:
        if form == "s3-inventory":
            raise PlanError(
                f"the manifest {request.source} is a local copy without its checksum; give its s3:// address instead"
            )
        return ListSource(request.source, form, items=request.items)
    if not (uri := s3_address(request.source)):
        raise PlanError(f"the list {request.source} must be in S3: s3://…")
    try:
        info = store.head(uri)
    except ObjectNotFoundError as error:
        raise PlanError(f"the list {request.source} is not there; check its spelling") from error
    return ListSource(info.uri, form, info.etag, request.items)


def stored_source(deployment: Deployment, run_id: str, index: int, reader: ListReader) -> ListSource:
    """The list with the address from which the run reads it; if it came as bytes, its name contains their digest."""
    if reader.body is None:
        return reader.source
    suffix = ".gz" if reader.source.uri.endswith(".gz") else ""
    name = f"lists/{index}-{hashlib.sha256(reader.body).hexdigest()[:16]}.{reader.source.format}{suffix}"
    return replace(reader.source, uri=deployment.run_uri(run_id, name))
