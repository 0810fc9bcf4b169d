"""Runs, their plans, and which of them are finalized, in the ledger's table."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sparklet.aws.dynamodb import items
from sparklet.aws.dynamodb.items import Attributes, Item
from sparklet.aws.dynamodb.table import OPEN_INDEX, OnTable, Written, new_writer
from sparklet.aws.parallel import in_parallel
from sparklet.errors import CheckpointConflictError, LedgerError
from sparklet.ledger import rules
from sparklet.model import PartRecord, Run, RunState, ScriptRef, ledger_bucket_count

POINTERS_A_PAGE = 100
OPEN_STATES = {":planning": RunState.PLANNING, ":running": RunState.RUNNING}
_ABSENT = "attribute_not_exists(pk)"
_THERE = "attribute_exists(pk)"


class DynamoRuns(OnTable):
    """``Runs`` in the ledger's table."""

    def create(self, run: Run) -> None:
        """Enter a run, together with the pointer by which it is listed; it is not finalized."""
        writer = new_writer()
        marks = {"run_id": run.run_id, "open": items.unfinalized_value(run)}
        pointer = {**items.pointer_key(run), **items.attributes(marks)}
        outcome = self._table.transact(
            items.run_key(run.run_id),
            [
                self._table.create(items.run_item(run, writer)),
                {"Put": {"TableName": self._table.name, "Item": pointer}},
                self._table.condition(items.tombstone_key(run.run_id), _ABSENT, {}),
            ],
        )
        if outcome.carries(writer):
            return
        if outcome.item is None and outcome.lost:
            raise outcome.lost
        raise rules.id_taken(run.run_id, deleted=outcome.item is None)

    def get(self, run_id: str) -> Run:
        return _run(run_id, self._table.get(items.run_key(run_id)))

    def list(self) -> Iterator[Run]:
        return self._newest_first()

    def _newest_first(self, **index: str) -> Iterator[Run]:
        """The runs whose pointers are in the table, or in an index, read from the table (strongly consistent)."""
        backwards = {"ScanIndexForward": False, "Limit": POINTERS_A_PAGE}
        for page in self._table.pages("pk = :pk", {":pk": items.RUNS_PARTITION}, **backwards, **index):
            ids = [items.run_id_of(pointer) for pointer in page["Items"]]
            runs = {r.run_id: r for r in map(items.run_value, self._table.get_many([items.run_key(i) for i in ids]))}
            yield from (runs[run_id] for run_id in ids if run_id in runs)

    def add_part(self, run_id: str, part: PartRecord) -> None:
        """Seal a plan part, in one transaction with the check that the plan still takes parts."""
        writer = new_writer()
        planning = self._table.condition(
            items.run_key(run_id),
            "#state = :planning AND attribute_not_exists(cancelled_s)",
            {":planning": RunState.PLANNING},
        )
        sealing = self._table.create(items.part_item(run_id, part, writer))
        outcome = self._table.transact(items.part_key(run_id, part.index), [planning, sealing])
        if outcome.carries(writer):
            return
        if outcome.item is not None:
            raise CheckpointConflictError(f"part {part.index} of run {run_id} was sealed by another planner")
        raise outcome.lost or CheckpointConflictError(
            f"the plan of run {run_id} takes no more parts: it is {rules.status_of(self.get(run_id))}"
        )

    def parts(self, run_id: str) -> Iterator[PartRecord]:
        self.get(run_id)
        for page in self._part_pages(run_id):
            yield from map(items.part_value, page["Items"])

    def _last_part(self, run_id: str) -> PartRecord | None:
        page = next(self._part_pages(run_id, ScanIndexForward=False, Limit=1))
        return items.part_value(page["Items"][0]) if page["Items"] else None

    def _part_pages(self, run_id: str, **query: object) -> Iterator[Mapping[str, Any]]:
        values = {":pk": items.run_partition(run_id), ":part": items.PART_PREFIX}
        return self._table.pages("pk = :pk AND begins_with(sk, :part)", values, **query)

    def shard_partitions(self, run: Run) -> Sequence[str]:
        """The partitions that a run's shards can be in, as far as it is planned."""
        planned = run.shard_count
        if planned is None:
            last = self._last_part(run.run_id)
            planned = last.next_shard if last else 0
        return [items.bucket_partition(run.run_id, bucket) for bucket in range(ledger_bucket_count(planned))]

    def mark_dispatched(self, run_id: str, index: int) -> None:
        """Note that a part's shards are entered and their messages sent; noting it twice does no harm."""
        outcome = self._table.update(items.part_key(run_id, index), "SET dispatched = :yes", _THERE, {":yes": True})
        if outcome.applied or (outcome.item and items.part_value(outcome.item).dispatched):
            return
        if outcome.lost:
            raise outcome.lost
        self.get(run_id)
        raise LedgerError(f"run {run_id} has no sealed part {index}")

    def seal_plan(
        self,
        run_id: str,
        shard_count: int,
        object_count: int,
        size_bytes: int,
        skipped: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """PLANNING → RUNNING, in one transaction with the check that no part was sealed since the last was read."""
        last = self._last_part(run_id)
        if last is not None and last.next_shard != shard_count:
            raise CheckpointConflictError(
                f"the plan of run {run_id} cannot be sealed with {shard_count} shards: its parts hold {last.next_shard}"
            )
        nothing_since = self._table.condition(items.part_key(run_id, last.index + 1 if last else 0), _ABSENT, {})
        totals = {":shards": shard_count, ":objects": object_count, ":bytes": size_bytes, ":skipped": skipped}
        sealing = self._table.change(
            items.run_key(run_id),
            "SET #state = :running, shard_count = :shards, object_count = :objects, size_bytes = :bytes, "
            "skipped = :skipped",
            "#state = :planning",
            {**OPEN_STATES, **totals},
        )
        outcome = self._table.transact(items.run_key(run_id), [nothing_since, sealing])
        if outcome.applied:
            return
        run = _run(run_id, outcome.item)
        if run.shard_count == shard_count:
            return  # it is sealed as wanted
        raise outcome.lost or CheckpointConflictError(
            f"the plan of run {run_id} cannot be sealed with {shard_count} shards: it is {run.state} with "
            f"{run.shard_count}, or another planner sealed a part"
        )

    def set_schema(self, run_id: str, schema: str) -> Run:
        """Keep the first schema, while the run is planned."""
        condition, values = "attribute_not_exists(#schema) AND #state = :planning", {":planning": RunState.PLANNING}
        outcome = self._table.update(
            items.run_key(run_id), "SET #schema = :schema", condition, {**values, ":schema": schema}
        )
        run = _run(run_id, outcome.item)
        if outcome.lost and run.schema is None and not run.sealed:
            raise outcome.lost
        return run

    def start_generation(
        self, run_id: str, generation: int, script: ScriptRef, *, stays_cancelled: bool = False
    ) -> Run:
        """Open the next generation, in one transaction with the pointer's mark: the run is not finalized any more."""
        writer, before = new_writer(), self.get(run_id)
        opening = self._table.change(
            items.run_key(run_id),
            "SET scripts = list_append(scripts, :script), generation = :next, #state = :running, writer = :writer "
            f"REMOVE ended_s, notified_s{'' if stays_cancelled else ', cancelled_s'}",
            "generation = :current AND attribute_exists(shard_count) AND attribute_not_exists(retired) "
            "AND (attribute_not_exists(cancelled_s) OR #state = :cancelled)",
            {
                ":cancelled": RunState.CANCELLED,
                ":script": [items.script_value(script)],
                ":current": generation - 1,
                ":next": generation,
                ":running": RunState.RUNNING,
                ":writer": writer,
            },
        )
        marks = {":open": items.unfinalized_value(before)}
        marking = self._table.change(items.pointer_key(before), "SET #open = :open", _THERE, marks)
        outcome = self._table.transact(items.run_key(run_id), [opening, marking])
        if outcome.applied:
            return self.get(run_id)
        run = _run(run_id, outcome.item)
        if outcome.carries(writer):
            return run
        raise outcome.lost or rules.no_generation(run, generation, "retired" in (outcome.item or {}))

    def finish(self, run_id: str, generation: int, state: RunState, counted: int | None = None) -> Run:
        if not state.ended:
            raise ValueError(f"a run does not end as {state}")
        exists = "attribute_exists" if state is RunState.CANCELLED else "attribute_not_exists"
        condition = f"generation = :generation AND #state IN (:planning, :running) AND {exists}(cancelled_s)"
        values = {**OPEN_STATES, ":ended": state, ":generation": generation}
        if counted is not None:
            condition += " AND (attribute_not_exists(shard_count) OR shard_count = :counted)"
            values[":counted"] = counted
        outcome, run = self._change(run_id, "SET #state = :ended, ended_s = :now", condition, values)
        if outcome.lost and run.generation == generation and not run.state.ended:
            raise outcome.lost
        return run

    def mark_notified(self, run_id: str, generation: int) -> None:
        """Note that the notice of a generation's end was sent; noting it twice does no harm."""
        condition = "generation = :generation AND attribute_exists(ended_s)"
        outcome, run = self._change(run_id, "SET notified_s = :now", condition, {":generation": generation})
        if outcome.lost and run.generation == generation and run.state.ended and run.notified_s is None:
            raise outcome.lost

    def cancel(self, run_id: str) -> Run:
        condition = "attribute_not_exists(cancelled_s) AND #state IN (:planning, :running)"
        outcome, run = self._change(run_id, "SET cancelled_s = :now", condition, OPEN_STATES)
        if outcome.lost and run.cancelled_s is None and not run.state.ended:
            raise outcome.lost
        return run

    def _change(self, run_id: str, update: str, condition: str, values: Mapping[str, Any]) -> tuple[Written, Run]:
        """Change a run now; the outcome, and the run as it is then."""
        outcome = self._table.update(items.run_key(run_id), update, condition, {**values, ":now": self._clock.now_s()})
        return outcome, _run(run_id, outcome.item)

    # --- finalized runs: those whose pointer is not in the index, see docs/decisions/0025 ---

    def unfinalized(self) -> Iterator[Run]:
        """Runs that may still need work, newest first: found by the index."""
        return self._newest_first(IndexName=OPEN_INDEX)

    def finalize(self, run: Run) -> bool:
        """Take the mark away, in one transaction with the check that the run is still ended as it was read."""
        key = items.pointer_key(run)
        still_ended = self._table.condition(
            items.run_key(run.run_id),
            "generation = :generation AND NOT #state IN (:planning, :running)",
            {**OPEN_STATES, ":generation": run.generation},
        )
        unmarking = self._table.change(key, "REMOVE #open", "attribute_exists(#open)", {})
        outcome = self._table.transact(key, [still_ended, unmarking])
        if outcome.applied or outcome.item is None or "open" not in outcome.item:
            return True
        if outcome.lost:
            raise outcome.lost
        return False

    # --- deletion: a run is retired first, so that it is not opened again; its own item is deleted last ---

    def retire(self, run_id: str) -> Run:
        """Close an ended run for good; closing it twice does no harm."""
        condition = f"{_THERE} AND NOT #state IN (:planning, :running)"
        outcome, run = self._change(run_id, "SET retired = :now", condition, OPEN_STATES)
        if outcome.applied or "retired" in (outcome.item or {}):
            return run
        raise outcome.lost or rules.not_ended(run)

    def delete(self, run_id: str) -> int:
        """Forget a retired run: its shards, all buckets side by side, its parts, then itself and its pointer."""
        item = self._table.get(items.run_key(run_id))
        run = _run(run_id, item)
        if item is None or "retired" not in item:
            raise rules.not_retired(run)
        deleted = sum(in_parallel(self._empty, self.shard_partitions(run), self._table.threads))
        deleted += self._empty(items.run_partition(run_id), items.run_key(run_id))
        tombstone = {**items.tombstone_key(run_id), **items.attributes({"deleted_s": int(self._clock.now_s())})}
        deletes: Any = [
            {"Delete": {"TableName": self._table.name, "Key": key}}
            for key in (items.run_key(run_id), items.pointer_key(run))
        ]
        outcome = self._table.transact(items.run_key(run_id), [*deletes, self._table.create(tombstone)])
        if not outcome.applied and outcome.item is not None:
            raise outcome.lost or LedgerError(f"the run {run_id} could not be deleted; try again")
        return deleted + 1

    def _empty(self, partition: str, spared: Attributes | None = None) -> int:
        """Delete a partition's items but one; how many."""
        pages = self._table.pages("pk = :pk", {":pk": partition}, ProjectionExpression="pk, sk")
        every = ([{"pk": item["pk"], "sk": item["sk"]} for item in page["Items"]] for page in pages)
        return sum(self._table.delete_many([key for key in keys if key != spared]) for keys in every)


def _run(run_id: str, item: Item | None) -> Run:
    """The run that an item is; RunNotFoundError if there is none."""
    if item is None:
        raise rules.no_run(run_id)
    return items.run_value(item)
