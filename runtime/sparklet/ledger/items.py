"""Values of the model ↔ items of the ledger's table.

============== ======================= ======================================================
partition key  sort key                item
============== ======================= ======================================================
run_id#bucket  shard#000000007         a shard; in the index until it succeeds
run_id#meta    run                     a run
run_id#meta    deleted                 the mark of a deleted run: its id is never used again
run_id#meta    part#000003             a sealed plan part; the last one is the checkpoint
runs           created#run_id          a pointer, by which runs are listed; in the index until its run is finalized
task#task_id   task                    a task of the asynchronous API, as the document that it returns
============== ======================= ======================================================

``docs/decisions/0004-ledger-keys-and-index.md`` says why. A value that is its field's default is left out.

Items of runs and shards carry the version of this format (``fmt``). It is raised when an older Sparklet could
misread or spoil what a newer one wrote, there or in the plan; a reader that meets a higher one than its own refuses
the item.
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
TO_SPLIT, FOR_ENGINE = "!", "#"  # come before all times in the index
MAX_TIME_S = 9_999_999_999.0  # the last one that sorts as text
RUN_ATTRIBUTES = (
    *("shard_count", "split_count", "object_count", "size_bytes", "skipped", "schema"),
    *("created_s", "ended_s", "cancelled_s", "notified_s", "retired_s", "followers"),
)
RUN_CONSTANTS = tuple(  # one JSON document
    field.name for field in fields(Run) if field.name not in {"run_id", "scripts", "state", "revision", *RUN_ATTRIBUTES}
)


def _defaults(kind: type) -> dict[str, Any]:
    """The default of each field of a dataclass; MISSING where there is none."""
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(kind)
    }


SHARD = {name: value for name, value in _defaults(ShardRecord).items() if name not in ("run_id", "number", "revision")}
SHARD["state"] = MISSING  # counted, so it is always there
PART, POSITION, RUN = _defaults(PartRecord), _defaults(Position), _defaults(Run)
# The index is in the key, and a position's fields lie beside the part's.
del PART["index"], PART["position"]


class _Unknown:
    """A value that nobody has read: a transition may replace it, and fails if it looks at it."""

    def _refuse(self, *_: object) -> Any:
        raise AssertionError("a transition depends on what was not presumed")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __contains__ = _refuse
    __bool__ = __iter__ = __len__ = __str__ = __format__ = __hash__ = _refuse


UNKNOWN: Any = _Unknown()


def presumed_shard(run_id: str, number: int, **presumed_fields: Any) -> ShardRecord:
    """A shard of which only these fields are known: a swap depends on them, so the item need not be read first."""
    return ShardRecord(run_id, number, **{**dict.fromkeys((*SHARD, "revision"), UNKNOWN), **presumed_fields})


def shard_key(run_id: str, shard: int) -> Key:
    """Key of a shard's item."""
    return bucket_partition(run_id, ledger_bucket(shard)), f"{SHARD_PREFIX}{shard:09d}"


def bucket_partition(run_id: str, bucket: int) -> str:
    """Partition that holds a bucket of a run's shards."""
    return f"{run_id}#{bucket}"


def run_partition(run_id: str) -> str:
    """Partition that holds a run and its plan."""
    return f"{run_id}#meta"


def run_key(run_id: str) -> Key:
    """Key of a run's item."""
    return run_partition(run_id), "run"


def tombstone_key(run_id: str) -> Key:
    """Key of the item that is left of a deleted run, so that its id is never used again."""
    return run_partition(run_id), "deleted"


def part_key(run_id: str, index: int) -> Key:
    """Key of a plan part's item."""
    return run_partition(run_id), f"{PART_PREFIX}{index:06d}"


def pointer_key(run: Run) -> Key:
    """Key of the item by which runs are listed in order of time."""
    return RUNS_PARTITION, f"{padded(run.created_s)}#{run.run_id}"


def task_key(task_id: str) -> Key:
    """Key of a task's item; sam/api.yaml's mapping template builds the same."""
    return f"task#{task_id}", "task"


def run_id_of(pointer: Key) -> str:
    """The run that a pointer names."""
    return pointer[1].partition("#")[2]


def unfinalized_value(run: Run) -> str:
    """Place of a run's pointer in the index, as long as the run is not finalized: newest last."""
    return f"RUN#{padded(run.created_s)}"


def padded(time_s: float) -> str:
    """A time that sorts as text as it does as a number."""
    # Ten digits before the point last until the year 2286.
    return f"{time_s:017.6f}"


def open_value(state: ShardState, since_s: float, first: str = "") -> str:
    """Place of a shard in the index of shards that have not succeeded; those ``first`` come before the others."""
    return f"{state}#{first}{padded(since_s)}"


def _index_place(record: ShardRecord) -> str | None:
    # An item without a place is not in the index, so that holds what may still need work, not all shards of all runs.
    if record.state in (ShardState.SUCCEEDED, ShardState.SPLIT):
        return None
    if record.state is ShardState.RUNNING:
        return open_value(record.state, record.lease_end_s)
    first = ""
    if record.state is ShardState.PENDING:
        first = TO_SPLIT if record.split else FOR_ENGINE if record.engine else ""
    return open_value(record.state, record.changed_s, first)


def _of(key: Key, **values: Any) -> dict[str, Any]:
    return {"pk": key[0], "sk": key[1], **{name: value for name, value in values.items() if value is not None}}


def _kept(value: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _attribute(getattr(value, name), default) for name, default in names.items()}


def _attribute(value: Any, default: Any) -> Any:
    return None if default is not MISSING and value == default else value


def _read(item: Item, names: Container[str]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name in names}


def _refuse_newer(item: Item) -> None:
    """LedgerError if the item was written by a Sparklet whose format this one does not know."""
    if item["fmt"] > FORMAT:
        raise LedgerError(
            f"run {item['pk'].rpartition('#')[0]} was written by a newer Sparklet "
            f"(ledger format {item['fmt']}, this one knows {FORMAT}): upgrade this one"
        )


def shard_item(record: ShardRecord) -> Item:
    """The item of a shard that is entered."""
    return _of(shard_key(record.run_id, record.number), **_kept(record, SHARD), open=_index_place(record), fmt=FORMAT)


def shard_record(item: Item | None, run_id: str = "", number: int = 0) -> ShardRecord:
    """A shard's item as a value; ShardNotFoundError if there is none."""
    if item is None:
        raise ShardNotFoundError(f"run {run_id} has no shard {number}")
    _refuse_newer(item)
    run_id, number = item["pk"].rpartition("#")[0], int(item["sk"].partition("#")[2])
    values = {**_read(item, SHARD), "state": ShardState(item["state"])}
    return ShardRecord(run_id, number, **values, revision=item.get("revision", 0))


def shard_change(was: ShardRecord, after: ShardRecord, *presumed: str) -> Update:
    """The swap of a shard that was read, or of one of which only some fields are presumed.

    Fields that a transition does not change are not written, nor is the place in the index, which a renewal keeps.
    """
    sets = {
        name: _attribute(getattr(after, name), default)
        for name, default in SHARD.items()
        if _differ(getattr(was, name), getattr(after, name))
    }
    # A renewal sets none of these: a new place in the index would cost two more writes, a delete and a put there.
    if sets.keys() & {"state", "changed_s", "engine"}:
        sets["open"] = _index_place(after)
    expected_values: dict[str, Any] = {"revision": was.revision} if was.revision is not UNKNOWN else {}
    # A default is never stored, so it becomes the condition that the attribute is not there.
    expected_values |= {name: _attribute(getattr(was, name), SHARD[name]) for name in presumed}
    # Who has read nothing has not seen the item's format, either: the condition refuses one of a newer Sparklet.
    return Update(
        shard_key(was.run_id, was.number), {**expected_values, "fmt": FORMAT} if presumed else expected_values, sets
    )


def _differ(was: Any, after: Any) -> bool:
    # To compare an unknown value raises: one that a transition has replaced counts as changed, whatever it was.
    return was is not after and (was is UNKNOWN or bool(was != after))


def run_item(run: Run) -> Item:
    """A run's item: what never changes as one JSON document, the rest as attributes."""
    constant = json.dumps({name: getattr(run, name) for name in RUN_CONSTANTS}, default=_document)
    return _of(run_key(run.run_id), **_run_attributes(run), constant=constant, fmt=FORMAT)


def pointer_item(run: Run) -> Item:
    """The item by which a run is listed; it is not finalized."""
    return _of(pointer_key(run), run_id=run.run_id, open=unfinalized_value(run))


def _run_attributes(run: Run) -> dict[str, Any]:
    values = _kept(run, {name: RUN[name] for name in RUN_ATTRIBUTES})
    scripts = tuple(json.dumps(asdict(script)) for script in run.scripts)
    return {**values, "scripts": scripts, "generation": run.generation, "state": run.state}


def run_change(was: Run, after: Run) -> Update:
    """The swap of a run that was read."""
    before, now = _run_attributes(was), _run_attributes(after)
    sets = {name: value for name, value in now.items() if value != before[name]}
    return Update(run_key(was.run_id), {"revision": was.revision}, sets)


def _document(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else asdict(value)


def run_value(item: Item | None, run_id: str = "") -> Run:
    """A run's item as a value; RunNotFoundError if there is none."""
    if item is None:
        raise RunNotFoundError(f"there is no run {run_id}; `sparklet runs` lists those there are")
    _refuse_newer(item)
    constant = json.loads(item["constant"])
    follower = constant["next"]
    constant |= {
        "options": RunOptions(**_frozen(constant["options"])),
        "lists": [ListSource(**source) for source in constant["lists"]],
        "access": Access(**constant["access"]),
        "dispatch": Dispatch(constant["dispatch"]),
        "kind": RunKind(constant["kind"]),
        "check": _script(constant["check"]) if constant["check"] else None,
        "next": NextRun(**{**follower, "script": _script(follower["script"])}) if follower else None,
    }
    return Run(
        run_id=item["pk"].rpartition("#")[0],
        scripts=tuple(_script(json.loads(value)) for value in item["scripts"]),
        state=RunState(item["state"]),
        revision=item.get("revision", 0),
        **_frozen({name: constant[name] for name in RUN_CONSTANTS}),
        **_read(item, RUN_ATTRIBUTES),
    )


def _script(document: Mapping[str, Any]) -> ScriptRef:
    return ScriptRef(**_frozen(document))


def _frozen(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document's values, its lists as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in document.items()}


def part_item(run_id: str, part: PartRecord) -> Item:
    """A sealed part's item."""
    return _of(part_key(run_id, part.index), **_kept(part, PART), **_kept(part.position, POSITION))


def part_value(item: Item) -> PartRecord:
    """A sealed part's item as a value."""
    index, position = int(item["sk"].partition("#")[2]), Position(**_read(item, POSITION))
    return PartRecord(index=index, position=position, **_read(item, PART))


def task_change(was: TaskRecord, after: TaskRecord) -> Update:
    """The swap of a task that was read, or was never recorded; its document has the store's revision."""
    expected_values: dict[str, Any] = {"revision": was.revision} if was.revision else {"pk": None}
    if after is was:
        return Update(task_key(was.task_id), expected_values)
    # A task is read from its document alone, so that must hold the revision which this write is about to make.
    document = replace(after, revision=was.revision + 1).to_document()
    sets = {"state": after.state, "document": json.dumps(document), "expires_s": after.expires_s}
    return Update(task_key(was.task_id), expected_values, sets)


def task_record(item: Item) -> TaskRecord:
    """A task's item as a value."""
    return TaskRecord.from_document(json.loads(item["document"]))
