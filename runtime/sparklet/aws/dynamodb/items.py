"""Values of the model ↔ items of the ledger's table.

Numbers are stored as Python writes them, so that a float comes back as the same float; empty values are left out.

Items of runs and shards carry the version of this format (``fmt``). It is raised when an older Sparklet could
misread or spoil what a newer one wrote, there or in the plan; a reader that meets a higher one than its own refuses
the item.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from sparklet.errors import LedgerError
from sparklet.model import (
    Access,
    Dispatch,
    ListSource,
    NextRun,
    PartRecord,
    Position,
    Run,
    RunOptions,
    RunState,
    ScriptRef,
    ShardRecord,
    ShardState,
    ledger_bucket,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef

Item = Mapping[str, "AttributeValueTypeDef"]
Attributes = dict[str, "AttributeValueTypeDef"]

RUNS_PARTITION = "runs"
RUN_SORT_KEY = "run"
FORMAT = 1
SHARD_ATTRIBUTES = tuple({each.name for each in fields(ShardRecord)} - {"run_id", "number", "state"})
PART_ATTRIBUTES = tuple({each.name for each in fields(PartRecord)} - {"index", "position"})
POSITION_ATTRIBUTES = tuple(each.name for each in fields(Position))
RUN_ATTRIBUTES = (
    *("shard_count", "object_count", "size_bytes", "skipped"),
    *("created_s", "ended_s", "cancelled_s", "notified_s", "schema"),
)
RUN_CONSTANTS = tuple(  # one JSON document
    each.name for each in fields(Run) if each.name not in {"run_id", "scripts", "state", *RUN_ATTRIBUTES}
)
PART_PREFIX = "part#"


def attribute(value: Any) -> "AttributeValueTypeDef":
    """A Python value as an attribute; a number with every digit."""
    if isinstance(value, str):
        return {"S": str(value)}
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, int | float):
        return {"N": repr(value)}
    if isinstance(value, Mapping):
        return {"M": attributes(value)}
    return {"L": [attribute(each) for each in value]}


def attributes(values: Mapping[str, Any]) -> Attributes:
    """Python values as attributes."""
    return {name: attribute(value) for name, value in values.items()}


def shard_key(run_id: str, shard: int) -> Attributes:
    """Key of a shard's item."""
    return {"pk": {"S": bucket_partition(run_id, ledger_bucket(shard))}, "sk": {"S": f"shard#{shard:09d}"}}


def bucket_partition(run_id: str, bucket: int) -> str:
    """Partition that holds a bucket of a run's shards."""
    return f"{run_id}#{bucket}"


def run_partition(run_id: str) -> str:
    """Partition that holds a run and its plan."""
    return f"{run_id}#meta"


def run_key(run_id: str) -> Attributes:
    """Key of a run's item."""
    return {"pk": {"S": run_partition(run_id)}, "sk": {"S": RUN_SORT_KEY}}


def tombstone_key(run_id: str) -> Attributes:
    """Key of the item that is left of a deleted run, so that its id is never used again."""
    return {"pk": {"S": run_partition(run_id)}, "sk": {"S": "deleted"}}


def part_key(run_id: str, index: int) -> Attributes:
    """Key of a plan part's item."""
    return {"pk": {"S": run_partition(run_id)}, "sk": {"S": f"{PART_PREFIX}{index:06d}"}}


def pointer_key(run: Run) -> Attributes:
    """Key of the item by which runs are listed in order of time."""
    return {"pk": {"S": RUNS_PARTITION}, "sk": {"S": f"{padded(run.created_s)}#{run.run_id}"}}


def unfinalized_value(run: Run) -> str:
    """Place of a run's pointer in the index, as long as the run is not finalized: newest last."""
    return f"RUN#{padded(run.created_s)}"


def run_id_of(pointer: Item) -> str:
    """The run that a pointer names."""
    return pointer["sk"]["S"].partition("#")[2]


def padded(time_s: float) -> str:
    """A time that sorts as text as it does as a number."""
    return f"{time_s:017.6f}"


def open_value(state: ShardState, since_s: float, engine: str = "") -> str:
    """Place of a shard in the index of shards that have not succeeded; those that wait for an engine come first."""
    first = "#" if engine and state is ShardState.PENDING else ""
    return f"{state}#{first}{padded(since_s)}"


def _refuse_newer(item: Item) -> None:
    """LedgerError if the item was written by a Sparklet whose format this one does not know."""
    written = int(item["fmt"]["N"])
    if written > FORMAT:
        raise LedgerError(
            f"run {item['pk']['S'].rpartition('#')[0]} was written by a newer Sparklet "
            f"(ledger format {written}, this one knows {FORMAT}): upgrade this one"
        )


def new_shard_item(record: ShardRecord, now_s: float, writer: str) -> Attributes:
    """The item of a shard that is entered as PENDING. Written out for speed: it is built 100,000 times in a row."""
    return {
        "pk": {"S": f"{record.run_id}#{ledger_bucket(record.number)}"},
        "sk": {"S": f"shard#{record.number:09d}"},
        "open": {"S": open_value(ShardState.PENDING, now_s, record.engine)},
        "state": {"S": "PENDING"},
        "generation": {"N": str(record.generation)},
        "part": {"S": record.part},
        "offset": {"N": str(record.offset)},
        "length": {"N": str(record.length)},
        "object_count": {"N": str(record.object_count)},
        "size_bytes": {"N": str(record.size_bytes)},
        "attempts": {"N": "0"},
        "requeues": {"N": "0"},
        "attempt_id": {"S": ""},
        "changed_s": {"N": repr(now_s)},
        "writer": {"S": writer},
        **({"isolate": {"N": str(record.isolate)}} if record.isolate else {}),
        **({"engine": {"S": record.engine}} if record.engine else {}),
        "fmt": {"N": str(FORMAT)},
    }


def bad_shard_item(record: ShardRecord, writer: str) -> Attributes:
    """The item of a shard that is entered as FAILED."""
    names = ("state", "attempts", "attempt_id", "changed_s", "started_s", "error_class", "error_message", "log_stream")
    values = {name: getattr(record, name) for name in names} | {"open": open_value(record.state, record.changed_s)}
    return {**new_shard_item(record, record.changed_s, writer), **attributes(values)}


def shard_record(item: Item) -> ShardRecord:
    """A shard's item as a value."""
    _refuse_newer(item)
    return ShardRecord(
        run_id=item["pk"]["S"].rpartition("#")[0],
        number=int(item["sk"]["S"].partition("#")[2]),
        state=ShardState(item["state"]["S"]),
        **_plain(item, SHARD_ATTRIBUTES),
    )


def run_item(run: Run, writer: str) -> Attributes:
    """A run's item: what never changes as one JSON document, the rest as attributes."""
    values = {
        **{name: getattr(run, name) for name in RUN_ATTRIBUTES},
        "constant": json.dumps({name: getattr(run, name) for name in RUN_CONSTANTS}, default=_document),
        "scripts": [script_value(script) for script in run.scripts],
        "generation": run.generation,
        "state": run.state,
        "skipped": run.skipped or None,
        "writer": writer,
        "fmt": FORMAT,
    }
    return {**run_key(run.run_id), **attributes({name: v for name, v in values.items() if v is not None})}


def _document(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else asdict(value)


def run_value(item: Item) -> Run:
    """A run's item as a value."""
    _refuse_newer(item)
    constant = json.loads(item["constant"]["S"])
    follower = constant["next"]
    constant |= {
        "options": RunOptions(**_frozen(constant["options"])),
        "lists": [ListSource(**each) for each in constant["lists"]],
        "access": Access(**constant["access"]),
        "dispatch": Dispatch(constant["dispatch"]),
        "check": _script(constant["check"]) if constant["check"] else None,
        "next": NextRun(**{**follower, "script": _script(follower["script"])}) if follower else None,
    }
    return Run(
        run_id=item["pk"]["S"].rpartition("#")[0],
        scripts=tuple(_script(json.loads(value["S"])) for value in item["scripts"]["L"]),
        state=RunState(item["state"]["S"]),
        **_frozen({name: constant[name] for name in RUN_CONSTANTS}),
        **_plain(item, RUN_ATTRIBUTES),
    )


def script_value(script: ScriptRef) -> str:
    """A generation's script as an attribute's text."""
    return json.dumps(asdict(script))


def _script(document: Mapping[str, Any]) -> ScriptRef:
    return ScriptRef(**_frozen(document))


def _frozen(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document's values, its lists as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in document.items()}


def part_item(run_id: str, part: PartRecord, writer: str) -> Attributes:
    """A sealed part's item."""
    values = {name: getattr(part, name) for name in PART_ATTRIBUTES} | asdict(part.position)
    return {**part_key(run_id, part.index), **attributes({**values, "writer": writer})}


def part_value(item: Item) -> PartRecord:
    """A sealed part's item as a value."""
    return PartRecord(
        index=int(item["sk"]["S"].partition("#")[2]),
        position=Position(**_plain(item, POSITION_ATTRIBUTES)),
        **_plain(item, PART_ATTRIBUTES),
    )


def _plain(item: Item, names: Collection[str]) -> dict[str, Any]:
    return {name: _value(name, item[name]) for name in names if name in item}


def _value(name: str, attribute: Any) -> Any:
    """An attribute's Python value: what ends with ``_s`` is a time in seconds, any other number is whole."""
    ((kind, value),) = attribute.items()
    if kind == "N":
        return float(value) if name.endswith("_s") else int(value)
    if kind == "M":
        return {key: _value(key, each) for key, each in value.items()}
    return tuple(_value("", each) for each in value) if kind == "L" else value
