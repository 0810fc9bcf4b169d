"""The request for a run, and its only reader.

The command line, the planner function, schedules and state machines use the same keys. Each key is defined once
(``Key``, in the annotations below and in ``model.options``). These definitions make the command line's options, the
reader of documents and, by ``docs.cli_reference``, the JSON Schema in ``docs/guide``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints
from urllib.parse import unquote

from sparklet.errors import EventError, PlanError, SettingsError
from sparklet.job.fields import INFER, SCHEMA, Table
from sparklet.model import Access, Dispatch, Key, RunOptions, s3_address
from sparklet.model.options import INPUT, MIB, ORCHESTRATION, RUN
from sparklet.model.quantities import parse_every, parse_size_bytes, parse_time_s, parse_tolerance
from sparklet.model.redaction import redacted
from sparklet.planning.inputs.list_requests import TABLE, ListRequest, read_items, read_lists

ROLE = re.compile(r"arn:[\w-]+:iam::\d{12}:role/.+")
PARQUET = "parquet:"  # a table of this format is the run's output
RUN_ID_IN_OUTPUT = "{run_id}"  # so that one request can be used for many runs
MEMORY_SHARE = 3  # a shard has a third of a worker's memory at most
SCRATCH_SHARE = 2  # a slice has half of a worker's /tmp at most


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A user's request for a run.

    ``inputs`` and ``lists`` are planned in their order; ``{run_id}`` in an output stands for the run's id. Two requests
    with the same name and ``idempotency_key`` are for one run. ``env`` and ``files`` come from the user's machine, so
    only the command line has them.
    """

    script: Annotated[str, Key("script", RUN, "A .py file: local, or s3://.", metavar="SCRIPT", argument=True)]
    inputs: Annotated[
        tuple[str, ...],
        Key(
            "inputs",
            INPUT,
            "s3:// folder or object, or a local path; may be repeated. -: a list of addresses on standard input. "
            "glue:DATABASE.TABLE: a table of Glue's Data Catalog.",
            options=("--input", "-i"),
            metavar="FOLDER|OBJECT|TABLE",
        ),
    ]
    output_uri: Annotated[
        str,
        Key(
            "output",
            RUN,
            "s3:// folder or local folder; each shard has a folder of its own in it, or each input (--output-per). "
            "Needed unless --dry-run or --table.",
            options=("--output", "-o"),
            metavar="FOLDER",
        ),
    ]
    run_id: Annotated[
        str, Key("run_id", RUN, "The whole run id; the same request again continues that run.", metavar="ID")
    ] = ""
    name: Annotated[
        str,
        Key("name", RUN, "The run's id begins with it; runs of one name belong together (default: the script's name)."),
    ] = ""
    table: Annotated[
        str,
        Key(
            "table",
            RUN,
            "The table for job.append and the like: iceberg:DB.NAME, or delta:, hudi: or parquet: and a folder. What "
            "all shards write to it is committed once, at the run's end; parquet: is the output itself.",
            kind="table",
        ),
    ] = ""
    py_files: Annotated[
        tuple[str, ...],
        Key("py_files", RUN, "A .py, .zip, .whl or .egg for the script; may be repeated.", metavar="FILE"),
    ] = ()
    spark_files: Annotated[
        tuple[str, ...],
        Key(
            "spark_files",
            RUN,
            "A file for the script's folder and SparkFiles.get; may be repeated.",
            options=("--files",),
            metavar="FILE",
        ),
    ] = ()
    conf: Annotated[
        Mapping[str, Any],
        Key("conf", RUN, "A Spark option for the script, no secret; may be repeated.", kind="object", document=False),
    ] = field(default_factory=dict)
    args: Annotated[
        tuple[str, ...], Key("args", RUN, "Arguments for the script (no secrets).", metavar="-- ARGS", argument=True)
    ] = ()
    params: Annotated[
        Mapping[str, Any],
        Key("params", RUN, "For job.params, no secret; may be repeated.", kind="object", options=("--param", "-p")),
    ] = field(default_factory=dict)
    schema: Annotated[
        str,
        Key(
            "schema",
            RUN,
            "The columns for job.read_csv, read_json, read_parquet: DDL, a file, or infer (from a sample, at first).",
            metavar="DDL|FILE|infer",
        ),
    ] = ""
    options: RunOptions = field(default_factory=RunOptions)
    lists: Annotated[
        tuple[ListRequest, ...],
        Key(
            "lists",
            INPUT,
            "A list of objects: a local file, s3://, or - for standard input; also an S3 Inventory's manifest.json; "
            "may be repeated.",
            kind="lists",
            options=("--list",),
            metavar="FILE",
        ),
        Key(
            "items",
            INPUT,
            "Plain items, which the script finds in job.items: a file of them (rows of CSV, JSON, JSON Lines or "
            "Parquet, or lines of text), local, s3:// or -, may be repeated; in a document the list of them itself.",
            kind="items",
            metavar="FILE",
        ),
    ] = ()
    access: Access = field(default_factory=Access)
    dispatch: Annotated[
        Dispatch,
        Key(
            "dispatch",
            ORCHESTRATION,
            "Who dispatches the shards: queue (messages) or map (a state machine's Map).",
            kind="dispatch",
            choices=("queue", "map"),
            command=False,
        ),
    ] = Dispatch.QUEUE
    check: Annotated[
        str,
        Key(
            "check",
            ORCHESTRATION,
            "A script that checks the run when all its shards have ended; if it fails, the run has FAILED.",
            metavar="SCRIPT",
        ),
    ] = ""
    next: Annotated[
        str, Key("next", ORCHESTRATION, "A script to run over the output once the run has succeeded.", metavar="SCRIPT")
    ] = ""
    next_output: Annotated[
        str,
        Key(
            "next_output",
            ORCHESTRATION,
            "s3:// folder where the next script writes (default: output/RUN-next/ in the stack's bucket).",
            metavar="FOLDER",
        ),
    ] = ""
    next_shards: Annotated[
        int, Key("next_shards", ORCHESTRATION, "1: the next script gets all of its input in one shard.", minimum=1)
    ] = 0
    next_items: Annotated[
        bool, Key("next_items", ORCHESTRATION, "The next script gets the shards' answers as items (job.items).")
    ] = False
    idempotency_key: Annotated[
        str,
        Key(
            "idempotency_key",
            ORCHESTRATION,
            "A run of the same name and key is the same run: it is found, not started again. Instead of a run id.",
            metavar="KEY",
        ),
    ] = ""
    env: Annotated[
        Mapping[str, str],
        Key("env", RUN, "A variable for the script, no secret; may be repeated.", kind="object", document=False),
    ] = field(default_factory=dict)
    files: Annotated[
        Mapping[str, str],
        Key(
            "files",
            RUN,
            "A local file that every shard needs; the parameter of that key is its address.",
            kind="object",
            options=("--param-file",),
            metavar="KEY=PATH",
            document=False,
        ),
    ] = field(default_factory=dict)
    local_output: str = ""  # see ``Run``; ``app.local_files`` sets it

    @property
    def run_name(self) -> str:
        """The run's name; without one the name of the script."""
        return self.name or self.script.rpartition("/")[2].removesuffix(".py")

    @property
    def replaced_folders(self) -> tuple[str, ...]:
        """The outputs in which the run, or its next run, deletes files that earlier runs have published."""
        options = self.options
        if options.existing != "overwrite" and not (options.incremental and options.output_per):
            return ()
        outputs = self.output_uri, self.next_output
        return tuple(output_folder(output, self.run_id) for output in outputs if "://" in output)

    def fitted(self, memory_mb: int, scratch_bytes: int) -> "RunRequest":
        """The request with the size of the largest shard that workers of this size (0: not known) can do.

        It is a third of the memory, and at most the scratch space: a cached or collected frame must fit into the heap,
        two thirds of the memory, and a sort or shuffle writes about as much as its input to scratch
        (docs/decisions/0026). PlanError if slices would be longer than half of ``/tmp``, into which they are fetched.
        """
        options, max_slice_bytes = self.options, scratch_bytes // SCRATCH_SHARE
        if not options.max_shard_bytes:
            options = replace(options, max_shard_bytes=min(memory_mb * MIB // MEMORY_SHARE, scratch_bytes))
        if scratch_bytes and options.split and options.target_bytes > max_slice_bytes:
            raise PlanError(
                f"slices of {options.target_bytes / MIB:,.0f} MiB are fetched into /tmp, which has "
                f"{scratch_bytes / MIB:,.0f} MiB and must keep half for Spark: choose a shard size of "
                f"{max_slice_bytes // MIB:,} MiB or less, or give the function more ephemeral storage"
            )
        return replace(self, options=options)


def output_folder(output: str, run_id: str) -> str:
    """An output as an S3 folder, with the run's id in place of ``{run_id}``; PlanError if it is not in S3."""
    if address := s3_address(output.replace(RUN_ID_IN_OUTPUT, run_id)):
        return f"{address.rstrip('/')}/"
    raise PlanError(f"the output {output!r} must look like s3://bucket/folder/")


# --- the definition -----------------------------------------------------------------------


KIND_OF = {str: "text", bool: "flag", int: "whole", float: "number"}


class Place(NamedTuple):
    """A key, and the field of the request that holds its value."""

    key: Key
    option: str
    kind: str
    default: Any
    group: str  # the part of the request that has the field: options | access; "": the request itself
    field: str


@cache
def places() -> Mapping[str, Place]:
    """Every key of a request by its name, in the order of the command line's help."""
    all_places: list[Place] = []
    for group, owner in (("", RunRequest), ("options", RunOptions), ("access", Access)):
        hints = get_type_hints(owner, include_extras=True)
        for attribute in fields(owner):
            field_type, *keys = get_args(hints[attribute.name]) or (None,)
            default = None if attribute.default is MISSING else attribute.default
            for key in keys:
                if isinstance(key, Key):
                    option = key.options[0] if key.options else f"--{key.name.replace('_', '-')}"
                    kind = key.kind or ("flag" if key.value else KIND_OF.get(field_type, "texts"))
                    all_places.append(Place(key, option, kind, default, group, attribute.name))
    return {place.key.name: place for place in all_places}


class ValueKind(NamedTuple):
    """A kind of values: their types in JSON, the types in words, and the function that reads a value."""

    types: tuple[type, ...]
    words: str
    read: Callable[[Any], Any]


def _texts(value: str | list[Any]) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise SettingsError(f"holds a {type(wrong[0]).__name__}; it must be a list of texts")
    return tuple(texts)


def _role(value: str) -> str:
    if not ROLE.fullmatch(value):
        raise SettingsError(f"{value!r} must look like arn:aws:iam::123456789012:role/name")
    return value


def _checked_every(value: int | str) -> str:
    parse_every(str(value))
    return str(value)


KINDS: Mapping[str, ValueKind] = {
    "text": ValueKind((str,), "a text", str),
    "texts": ValueKind((str, list), "a list of texts", _texts),
    "flag": ValueKind((bool,), "true or false", bool),
    "whole": ValueKind((int,), "a whole number", int),
    "number": ValueKind((int, float), "a number", float),
    "size": ValueKind((int, str), "a number or a text", lambda value: parse_size_bytes(str(value))),
    "tolerance": ValueKind((int, str), "a number or a text", lambda value: parse_tolerance(str(value))),
    "time": ValueKind((str,), "a text", parse_time_s),
    "every": ValueKind((int, str), "a number or a text", _checked_every),
    "table": ValueKind((str,), "a text", lambda value: str(Table.parse(value))),
    "role": ValueKind((str,), "a text", _role),
    "object": ValueKind((dict,), "an object", dict),
    "lists": ValueKind((list,), "a list", read_lists),
    "items": ValueKind((list,), "a list", read_items),
    "dispatch": ValueKind((str,), "a text", Dispatch),
}


# --- reading ------------------------------------------------------------------------------


def read_request(document: Mapping[str, Any], *, command: bool = False, dry_run: bool = False) -> RunRequest:
    """The request in a document, or with ``command`` in a command line, whose options errors then name.

    A dry run needs no output. EventError if a key is unknown, or its value has a wrong type; SettingsError or PlanError
    if a value is wrong or missing, or two values contradict each other.
    """
    place_by_name = {
        name: place for name, place in places().items() if (place.key.command if command else place.key.document)
    }
    shown_names = {name: place.option if command else name for name, place in place_by_name.items()}
    values: dict[str, dict[str, Any]] = {"": {}, "access": {}, "options": {}}
    if unknown := sorted(document.keys() - place_by_name):
        raise EventError(_unknown_key(unknown[0], shown_names))
    for name, value in document.items():
        place = place_by_name[name]
        group, parsed = values[place.group], _read_value(place, shown_names[name], value)
        if place.kind in ("lists", "items"):
            group[place.field] = group.get(place.field, ()) + parsed
        elif place.kind == "tolerance":
            group["tolerated_failure_count"], group["tolerated_failure_percentage"] = parsed
        elif not place.key.value:
            group[place.field] = parsed
        # Several flags set one field, such as --append and --overwrite: the last one must not win unnoticed.
        elif parsed and group.setdefault(place.field, place.key.value) != place.key.value:
            raise SettingsError(
                f"{shown_names[group[place.field]]} and {shown_names[name]} exclude each other; give one of them"
            )
    attributes = {"script": "", "inputs": (), "output_uri": "", **values[""]}
    # The objects of a table are a list.
    tables = tuple(address for address in attributes["inputs"] if address.startswith(TABLE))
    attributes["inputs"] = tuple(address for address in attributes["inputs"] if address not in tables)
    attributes["lists"] = (*attributes.get("lists", ()), *map(ListRequest, tables))
    request = RunRequest(**attributes, options=RunOptions(**values["options"]), access=Access(**values["access"]))
    if request.table or request.schema:
        request = _with_derived_fields(request, shown_names)
    _refuse_contradictions(request, shown_names, needs_output=not dry_run)
    return request


def _with_derived_fields(request: RunRequest, names: Mapping[str, str]) -> RunRequest:
    """The request with the fields that follow from others: a Parquet table sets the output, a schema sets a parameter.

    ``names`` has each key's name for messages: ``--table`` or ``table``. PlanError if two fields exclude each other.
    """
    if request.table and request.options.output_per:
        raise PlanError(f"{names['table']} and {names['output_per']} exclude each other; give one of them")
    if request.table.startswith(PARQUET):
        if request.output_uri:
            raise PlanError(f"{names['table']} {request.table} is the output: leave out {names['output']}")
        request = replace(request, output_uri=unquote(request.table.removeprefix(PARQUET).removeprefix("file://")))
    if request.schema:
        if SCHEMA in request.params:
            raise PlanError(f"{names['schema']} and the parameter {SCHEMA} are the same; give one of them")
        request = replace(request, schema="", params={**request.params, SCHEMA: request.schema})
    return request


def _read_value(place: Place, name: str, value: Any) -> Any:
    """The value as the request has it; the errors of a wrong value have ``name``."""
    key, kind = place.key, KINDS[place.kind]
    # In Python true is also an int.
    if not isinstance(value, kind.types) or (isinstance(value, bool) and place.kind != "flag"):
        raise EventError(f"{name} is a {type(value).__name__}; it must be {kind.words}")
    if key.choices and value not in key.choices:
        raise SettingsError(f"{name} is {value!r}; it must be {' or '.join(key.choices)}")
    try:
        parsed = kind.read(value)
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from error
    if key.minimum is not None and parsed < key.minimum:
        raise SettingsError(f"{name} is {value}; it must be at least {key.minimum:g}")
    return parsed


def _unknown_key(name: str, names: Mapping[str, str]) -> str:
    import difflib  # needed for this error only

    similar = difflib.get_close_matches(name, sorted(names), 1)
    remedy = f"is {similar[0]} meant?" if similar else f"there are {', '.join(sorted(names))}"
    return f"a request has no key {name!r}; {remedy}"


def _refuse_contradictions(request: RunRequest, names: Mapping[str, str], *, needs_output: bool) -> None:
    """PlanError if a value is missing, or two values exclude each other."""
    if not request.script:
        raise PlanError(f"{names['script']} is missing: name the script to run")
    # An option after `--` is an argument of the script: the message shows these, since the option counts as missing.
    hint = ""
    if request.args:
        hint = f"; {', '.join(map(repr, redacted(request.args)))} went to the script as its arguments"
    if needs_output and not (request.output_uri or request.table):
        raise PlanError(f"{names['output']} is missing: name where the run writes (or {names['table']}){hint}")
    if not request.inputs and not request.lists:
        folders, lists, items = names["inputs"], names["lists"], names["items"]
        raise PlanError(f"no input was given: name folders or objects ({folders}), or a list ({lists}, {items}){hint}")
    if request.params.get(SCHEMA) == INFER and any(list_request.items for list_request in request.lists):
        raise PlanError(f"{names['schema']} infer needs CSV files; {names['items']} are not files")
    if request.run_id and request.idempotency_key:
        both = f"{names['run_id']} and {names['idempotency_key']}"
        raise PlanError(f"{both} were given; give one of them: each names one run")
    next_fields = ("next_output", "next_shards", "next_items")
    if not request.next and (next_options := [names[name] for name in next_fields if getattr(request, name)]):
        raise PlanError(f"{next_options[0]} needs the script of the next run: name it as {names['next']}")
    if request.next_shards > 1:
        raise PlanError(
            f"{names['next_shards']} is {request.next_shards}; it must be 1, or left out: then the next run packs its "
            "input into shards like this one"
        )
    if request.next_output and "://" not in request.next_output:
        raise PlanError(f"{names['next_output']} {request.next_output} must be an s3:// folder")
