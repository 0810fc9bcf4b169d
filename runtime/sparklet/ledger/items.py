"""Values of the model ↔ items of the ledger's table.

============== ======================= ======================================================
partition key  sort key                item
============== ======================= ======================================================
run_id#bucket  shard#000000007         a shard; in the index until it succeeds
run_id#meta    run                     a run
run_id#meta    deleted                 the mark of a deleted run: its id is never used again
run_id#meta    part#000003             a sealed plan part; the last one is the checkpoint
runs           created#run_id          a pointer, by which runs are listed; in the index until its run is finalized
task#task_id   task                    a task of the asynchronous API, as the document that the API returns
============== ======================= ======================================================

``docs/decisions/0004-ledger-keys-and-index.md`` says why. A value that is its field's default is left out.

Items of runs and shards have the version of this format (``fmt``). The version is raised when an older Sparklet could
misread or spoil what a newer one wrote to the ledger or the plan. A reader refuses an item with a higher version than
its own.
"""

import json
from collections.abc import Container, Mapping
from dataclasses import MISSING, asdict, fields, replace
from typing import Any

from sparklet.errors import LedgerError, RunNotFoundError, ShardNotFoundError
from sparklet.ledger.store import Item, Key, Update
from sparklet.model import (
    Access,
    Dispatch,
    ListSource,
    NextRun,
    PartRecord,
    Position,
    Run,
    RunKind,
    RunOptions,
    RunState,
    ScriptRef,
    ShardRecord,
    ShardState,
    TaskRecord,
    ledger_bucket,
)

RUNS_PARTITION = "runs"
SHARD_PREFIX, PART_PREFIX = "shard#", "part#"
FORMAT = 1
TO_SPLIT, FOR_ENGINE = "!", "#"  # marks in the index, which sort before all times
MAX_TIME_S = 9_999_999_999.0  # the largest time that ``sortable`` can write
RUN_ATTRIBUTES = (
    *("shard_count", "split_count", "object_count", "size_bytes", "skipped", "schema"),
    *("created_s", "ended_s", "cancelled_s", "notified_s", "retired_s", "followers"),
)
# The other fields of a run never change: one attribute holds them as a JSON document.
RUN_CONSTANTS = tuple(
    field.name for field in fields(Run) if field.name not in {"run_id", "scripts", "state", "revision", *RUN_ATTRIBUTES}
)


def _defaults(dataclass_type: type) -> dict[str, Any]:
    """The default of each field of a dataclass; MISSING if a field has none."""
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(dataclass_type)
    }


SHARD = {name: value for name, value in _defaults(ShardRecord).items() if name not in ("run_id", "number", "revision")}
SHARD["state"] = MISSING  # shards are counted by it, so it is always stored
PART, POSITION, RUN = _defaults(PartRecord), _defaults(Position), _defaults(Run)
# A part's index is in its key, and the fields of its position are attributes of their own.
del PART["index"], PART["position"]


class _Unknown:
    """The value of a field that was not read: a transition may replace it, and any other use of it is an error."""

    def _refuse(self, *_: object) -> Any:
        raise AssertionError("a transition used a field that was neither read nor presumed")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __contains__ = _refuse
    __bool__ = __iter__ = __len__ = __str__ = __format__ = __hash__ = _refuse


UNKNOWN: Any = _Unknown()


def presumed_shard(run_id: str, number: int, **presumed_fields: Any) -> ShardRecord:
    """A stand-in for a shard that was not read, with only these fields; its update is conditional on their values."""
    return ShardRecord(run_id, number, **{**dict.fromkeys((*SHARD, "revision"), UNKNOWN), **presumed_fields})


def shard_key(run_id: str, shard: int) -> Key:
    """The key of a shard's item."""
    return bucket_partition(run_id, ledger_bucket(shard)), f"{SHARD_PREFIX}{shard:09d}"


def bucket_partition(run_id: str, bucket: int) -> str:
    """The partition that holds a bucket of a run's shards."""
    return f"{run_id}#{bucket}"


def run_partition(run_id: str) -> str:
    """The partition that holds a run and its plan."""
    return f"{run_id}#meta"


def run_key(run_id: str) -> Key:
    """The key of a run's item."""
    return run_partition(run_id), "run"


def tombstone_key(run_id: str) -> Key:
    """The key of the item that remains of a deleted run, so that its id is never used again."""
    return run_partition(run_id), "deleted"


def part_key(run_id: str, index: int) -> Key:
    """The key of a plan part's item."""
    return run_partition(run_id), f"{PART_PREFIX}{index:06d}"


def pointer_key(run: Run) -> Key:
    """The key of a run's pointer: pointers list the runs in order of time."""
    return RUNS_PARTITION, f"{sortable(run.created_s)}#{run.run_id}"


def task_key(task_id: str) -> Key:
    """The key of a task's item; the mapping template in sam/api.yaml builds the same key."""
    return f"task#{task_id}", "task"


def run_id_of(pointer: Key) -> str:
    """The id of the run that a pointer names."""
    return pointer[1].partition("#")[2]


def unfinalized_value(run: Run) -> str:
    """The sort key of a run's pointer in the index, newest last; a finalized run's pointer is not in the index."""
    return f"RUN#{sortable(run.created_s)}"


def sortable(time_s: float) -> str:
    """A time as a text: texts sort in the order of their times."""
    # Ten digits before the point last until the year 2286.
    return f"{time_s:017.6f}"


def open_value(state: ShardState, since_s: float, mark: str = "") -> str:
    """A shard's sort key in the index; shards with the ``mark`` TO_SPLIT or FOR_ENGINE come before those without."""
    return f"{state}#{mark}{sortable(since_s)}"


def _index_sort_key(record: ShardRecord) -> str | None:
    """The sort key of a shard in the index; None if the shard needs no more work, and so is not in the index."""
    if record.state in (ShardState.SUCCEEDED, ShardState.SPLIT):
        return None
    if record.state is ShardState.RUNNING:
        return open_value(record.state, record.lease_end_s)
    mark = ""
    if record.state is ShardState.PENDING and record.split:
        mark = TO_SPLIT
    elif record.state is ShardState.PENDING and record.engine:
        mark = FOR_ENGINE
    return open_value(record.state, record.changed_s, mark)


def _item_of(key: Key, **values: Any) -> dict[str, Any]:
    """An item with this key; values that are None are left out."""
    return {"pk": key[0], "sk": key[1], **{name: value for name, value in values.items() if value is not None}}


def _attributes(value: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _attribute(getattr(value, name), default) for name, default in defaults.items()}


def _attribute(value: Any, default: Any) -> Any:
    """A field's value as it is stored; None, which stores nothing, if it is the field's default."""
    return None if default is not MISSING and value == default else value


def _values_of(item: Item, names: Container[str]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name in names}


def _refuse_newer(item: Item) -> None:
    """LedgerError if the item was written by a newer Sparklet, in a format that this one does not know."""
    if item["fmt"] > FORMAT:
        raise LedgerError(
            f"run {item['pk'].rpartition('#')[0]} was written by a newer Sparklet "
            f"(ledger format {item['fmt']}, this one knows {FORMAT}): upgrade this one"
        )


def shard_item(record: ShardRecord) -> Item:
    """The item of a shard that is entered."""
    key, attributes = shard_key(record.run_id, record.number), _attributes(record, SHARD)
    return _item_of(key, **attributes, open=_index_sort_key(record), fmt=FORMAT)


def shard_record(item: Item | None, run_id: str = "", number: int = 0) -> ShardRecord:
    """A shard's item as a value; ShardNotFoundError if there is none."""
    if item is None:
        raise ShardNotFoundError(f"run {run_id} has no shard {number}")
    _refuse_newer(item)
    run_id, number = item["pk"].rpartition("#")[0], int(item["sk"].partition("#")[2])
    values = {**_values_of(item, SHARD), "state": ShardState(item["state"])}
    return ShardRecord(run_id, number, **values, revision=item.get("revision", 0))


def shard_change(before: ShardRecord, after: ShardRecord, *presumed_fields: str) -> Update:
    """The conditional update that turns the item of ``before`` into ``after``.

    The condition is the revision of the shard as it was read; if it was not read, the values of its
    ``presumed_fields``. Only changed fields are written; the index's sort key only if the state, its time or the engine
    changes, which a lease renewal does not do.
    """
    sets = {
        name: _attribute(getattr(after, name), default)
        for name, default in SHARD.items()
        if _differ(getattr(before, name), getattr(after, name))
    }
    # A renewal sets none of these: a new sort key in the index would cost two more writes, a delete and a put.
    if sets.keys() & {"state", "changed_s", "engine"}:
        sets["open"] = _index_sort_key(after)
    expected_values: dict[str, Any] = {"revision": before.revision} if before.revision is not UNKNOWN else {}
    # A default is never stored, so it becomes the condition that the attribute is not there.
    expected_values |= {name: _attribute(getattr(before, name), SHARD[name]) for name in presumed_fields}
    # If the item was not read, its format is not known: this condition refuses an item of a newer Sparklet.
    if presumed_fields:
        expected_values["fmt"] = FORMAT
    return Update(shard_key(before.run_id, before.number), expected_values, sets)


def _differ(before: Any, after: Any) -> bool:
    # An unknown value must not be compared (it raises). If a transition has replaced it, it counts as changed.
    return before is not after and (before is UNKNOWN or bool(before != after))


def run_item(run: Run) -> Item:
    """A run's item: fields that never change as one JSON document, the others as attributes."""
    constant = json.dumps({name: getattr(run, name) for name in RUN_CONSTANTS}, default=_document)
    return _item_of(run_key(run.run_id), **_run_attributes(run), constant=constant, fmt=FORMAT)


def pointer_item(run: Run) -> Item:
    """The item by which a new run is listed; it is in the index until the run is finalized."""
    return _item_of(pointer_key(run), run_id=run.run_id, open=unfinalized_value(run))


def _run_attributes(run: Run) -> dict[str, Any]:
    values = _attributes(run, {name: RUN[name] for name in RUN_ATTRIBUTES})
    scripts = tuple(json.dumps(asdict(script)) for script in run.scripts)
    return {**values, "scripts": scripts, "generation": run.generation, "state": run.state}


def run_change(before: Run, after: Run) -> Update:
    """The update of a run's item, on the condition that its revision is as it was read."""
    old, new = _run_attributes(before), _run_attributes(after)
    sets = {name: value for name, value in new.items() if value != old[name]}
    return Update(run_key(before.run_id), {"revision": before.revision}, sets)


def _document(value: Any) -> dict[str, Any]:
    """A mapping, or a dataclass, as a JSON object."""
    return dict(value) if isinstance(value, Mapping) else asdict(value)


def run_value(item: Item | None, run_id: str = "") -> Run:
    """A run's item as a value; RunNotFoundError if there is none."""
    if item is None:
        raise RunNotFoundError(f"there is no run {run_id}; list the runs with `sparklet runs`")
    _refuse_newer(item)
    constant = json.loads(item["constant"])
    next_run = constant["next"]
    constant |= {
        "options": RunOptions(**_with_tuples(constant["options"])),
        "lists": [ListSource(**source) for source in constant["lists"]],
        "access": Access(**constant["access"]),
        "dispatch": Dispatch(constant["dispatch"]),
        "kind": RunKind(constant["kind"]),
        "check": _script(constant["check"]) if constant["check"] else None,
        "next": NextRun(**{**next_run, "script": _script(next_run["script"])}) if next_run else None,
    }
    return Run(
        run_id=item["pk"].rpartition("#")[0],
        scripts=tuple(_script(json.loads(value)) for value in item["scripts"]),
        state=RunState(item["state"]),
        revision=item.get("revision", 0),
        **_with_tuples({name: constant[name] for name in RUN_CONSTANTS}),
        **_values_of(item, RUN_ATTRIBUTES),
    )


def _script(document: Mapping[str, Any]) -> ScriptRef:
    return ScriptRef(**_with_tuples(document))


def _with_tuples(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document with tuples in place of its lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in document.items()}


def part_item(run_id: str, part: PartRecord) -> Item:
    """A sealed part's item."""
    return _item_of(part_key(run_id, part.index), **_attributes(part, PART), **_attributes(part.position, POSITION))


def part_value(item: Item) -> PartRecord:
    """A sealed part's item as a value."""
    index, position = int(item["sk"].partition("#")[2]), Position(**_values_of(item, POSITION))
    return PartRecord(index=index, position=position, **_values_of(item, PART))


def task_change(before: TaskRecord, after: TaskRecord) -> Update:
    """The update of a task's item, on the condition that its revision is as it was read, or that there is no item yet.

    If nothing has changed, the update has nothing to write.
    """
    expected_values: dict[str, Any] = {"revision": before.revision} if before.revision else {"pk": None}
    if after is before:
        return Update(task_key(before.task_id), expected_values)
    # A task is read from its document alone, so the document must hold the revision that this write will make.
    document = replace(after, revision=before.revision + 1).to_document()
    sets = {"state": after.state, "document": json.dumps(document), "expires_s": after.expires_s}
    return Update(task_key(before.task_id), expected_values, sets)


def task_record(item: Item) -> TaskRecord:
    """A task's item as a value."""
    return TaskRecord.from_document(json.loads(item["document"]))
