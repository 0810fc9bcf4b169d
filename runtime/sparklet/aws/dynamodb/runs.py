"""Runs and their plans in the ledger's table."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from sparklet.aws.dynamodb.items import (
    PART_PREFIX,
    RUNS_PARTITION,
    Attributes,
    Item,
    counted,
    num,
    part_item,
    part_key,
    part_value,
    pointer_key,
    run_id_of,
    run_item,
    run_key,
    run_partition,
    run_value,
    script_value,
    text,
    tombstone_key,
    unsettled_value,
)
from sparklet.aws.dynamodb.table import OnTable, Written
from sparklet.errors import CheckpointConflictError, LedgerError, RunNotFoundError
from sparklet.ledger_rules import id_taken, no_generation, standing
from sparklet.model import PartRecord, Run, RunState, ScriptRef

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

RUNS_A_PAGE = 100


def new_writer() -> str:
    """A sign that one write leaves in its item, by which it is known again after a lost answer."""
    return uuid.uuid4().hex[:12]


def wrote(outcome: Written, writer: str) -> bool:
    """Whether the item carries this write's sign: it was applied, whatever the answer was."""
    return outcome.applied or (outcome.item is not None and outcome.item.get("writer") == text(writer))


class RunLedger(OnTable):
    """The part of ``DynamoLedger`` that knows runs and plans."""

    def create_run(self, run: Run) -> None:
        """Enter a run, together with the pointer by which it is listed; it is unsettled."""
        writer = new_writer()
        pointer = {**pointer_key(run), "run_id": text(run.run_id), "open": unsettled_value(run)}
        outcome = self._table.transact(
            run_key(run.run_id),
            [
                self._put_new(run_item(run, writer)),
                {"Put": {"TableName": self._table.name, "Item": pointer}},
                self._check_absent(tombstone_key(run.run_id)),
            ],
        )
        if wrote(outcome, writer):
            return
        if outcome.item is None and outcome.lost:
            raise outcome.lost
        raise id_taken(run.run_id, deleted=outcome.item is None)

    def get_run(self, run_id: str) -> Run:
        """The run (strongly consistent)."""
        item = self._table.get(run_key(run_id))
        if item is None:
            raise _no_run(run_id)
        return run_value(item)

    def list_runs(self) -> Iterator[Run]:
        """All runs, newest first."""
        return self._newest_first()

    def _newest_first(self, **index: str) -> Iterator[Run]:
        """The runs whose pointers are in the table, or in an index."""
        pages = self._table.pages(
            **index,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": text(RUNS_PARTITION)},
            ScanIndexForward=False,
            Limit=RUNS_A_PAGE,
        )
        for page in pages:
            yield from self._runs_of(page["Items"])

    def _runs_of(self, pointers: Sequence[Item]) -> Iterator[Run]:
        """The runs of these pointers that are there (strongly consistent), in the same order."""
        ids = [run_id_of(pointer) for pointer in pointers]
        runs = {r.run_id: r for r in map(run_value, self._table.get_many([run_key(i) for i in ids]))}
        yield from (runs[run_id] for run_id in ids if run_id in runs)

    def add_part(self, run_id: str, part: PartRecord) -> None:
        """Seal a plan part, in one transaction with the check that the plan still takes parts."""
        writer = new_writer()
        outcome = self._table.transact(
            part_key(run_id, part.index),
            [self._check_planning(run_id), self._put_new(part_item(run_id, part, writer))],
        )
        if wrote(outcome, writer):
            return
        if outcome.item is not None:
            raise CheckpointConflictError(f"part {part.index} of run {run_id} was sealed by another planner")
        if outcome.lost:
            raise outcome.lost
        raise CheckpointConflictError(
            f"the plan of run {run_id} takes no more parts: it is {standing(self.get_run(run_id))}"
        )

    def parts(self, run_id: str) -> Iterator[PartRecord]:
        """Sealed parts in order (strongly consistent)."""
        self.get_run(run_id)
        for page in self._part_pages(run_id):
            yield from map(part_value, page)

    def last_part(self, run_id: str) -> PartRecord | None:
        """The last sealed part (strongly consistent)."""
        page = next(self._part_pages(run_id, ScanIndexForward=False, Limit=1))
        return part_value(page[0]) if page else None

    def mark_dispatched(self, run_id: str, index: int) -> None:
        """Note that a part's shards are entered and their messages sent; saying it twice is fine."""
        outcome = self._table.update(
            part_key(run_id, index), "SET dispatched = :yes", "attribute_exists(pk)", {":yes": {"BOOL": True}}
        )
        if outcome.applied or (outcome.item and part_value(outcome.item).dispatched):
            return
        if outcome.lost:
            raise outcome.lost
        self.get_run(run_id)
        raise LedgerError(f"run {run_id} has no sealed part {index}")

    def seal_plan(
        self,
        run_id: str,
        shard_count: int,
        object_count: int,
        size_bytes: int,
        skipped: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """PLANNING → RUNNING, in one transaction with the check that no part was sealed since the last one seen."""
        last = self.last_part(run_id)
        if last is not None and last.next_shard != shard_count:
            raise CheckpointConflictError(
                f"the plan of run {run_id} cannot be sealed with {shard_count} shards: its parts hold {last.next_shard}"
            )
        nothing_since = self._check_absent(part_key(run_id, last.index + 1 if last else 0))
        outcome = self._table.transact(
            run_key(run_id), [nothing_since, self._seal(run_id, shard_count, object_count, size_bytes, skipped)]
        )
        if not outcome.applied:
            self._check_sealed(run_id, shard_count, outcome)

    def _check_sealed(self, run_id: str, shard_count: int, outcome: Written) -> None:
        """Accept a refusal that says the plan is sealed as wanted."""
        run = self._existing(run_id, outcome)
        if run.shard_count == shard_count:
            return
        if outcome.lost:
            raise outcome.lost
        raise CheckpointConflictError(
            f"the plan of run {run_id} cannot be sealed with {shard_count} shards: it is {run.state} with "
            f"{run.shard_count}, or another planner sealed a part"
        )

    def start_generation(self, run_id: str, generation: int, script: ScriptRef) -> Run:
        """Open the next generation, in one transaction with the pointer's mark: the run is unsettled again."""
        writer, before = new_writer(), self.get_run(run_id)
        opening = self._table.change(
            run_key(run_id),
            "SET scripts = list_append(scripts, :script), generation = :next, #state = :running, writer = :writer "
            "REMOVE ended_s, cancelled_s, notified_s",
            "generation = :current AND attribute_exists(shard_count) AND attribute_not_exists(retired) "
            "AND (attribute_not_exists(cancelled_s) OR #state = :cancelled)",
            {
                ":cancelled": text(RunState.CANCELLED),
                ":script": {"L": [script_value(script)]},
                ":current": num(generation - 1),
                ":next": num(generation),
                ":running": text(RunState.RUNNING),
                ":writer": text(writer),
            },
        )
        marking = self._table.change(
            pointer_key(before), "SET #open = :open", "attribute_exists(pk)", {":open": unsettled_value(before)}
        )
        outcome = self._table.transact(run_key(run_id), [opening, marking])
        if outcome.applied:
            return self.get_run(run_id)
        run = self._existing(run_id, outcome)
        if wrote(outcome, writer):
            return run
        if outcome.lost:
            raise outcome.lost
        raise no_generation(run, generation, "retired" in (outcome.item or {}))

    def finish_run(self, run_id: str, generation: int, state: RunState) -> Run:
        """Record how a run ended."""
        if not state.ended:
            raise ValueError(f"a run does not end as {state}")
        there = "attribute_exists" if state is RunState.CANCELLED else "attribute_not_exists"
        outcome = self._table.update(
            run_key(run_id),
            "SET #state = :ended, ended_s = :now",
            f"generation = :generation AND #state IN (:planning, :running) AND {there}(cancelled_s)",
            {
                ":ended": text(state),
                ":now": num(self._clock.now_s()),
                ":generation": num(generation),
                ":planning": text(RunState.PLANNING),
                ":running": text(RunState.RUNNING),
            },
        )
        run = self._existing(run_id, outcome)
        if outcome.lost and run.generation == generation and not run.state.ended:
            raise outcome.lost
        return run

    def mark_notified(self, run_id: str, generation: int) -> None:
        """Note that the end of a generation was told; saying it twice is fine."""
        outcome = self._table.update(
            run_key(run_id),
            "SET notified_s = :now",
            "generation = :generation AND attribute_exists(ended_s)",
            {":now": num(self._clock.now_s()), ":generation": num(generation)},
        )
        run = self._existing(run_id, outcome)
        if outcome.lost and run.generation == generation and run.state.ended and run.notified_s is None:
            raise outcome.lost

    def cancel_run(self, run_id: str) -> Run:
        """Note that somebody wants the run's end."""
        outcome = self._table.update(
            run_key(run_id),
            "SET cancelled_s = :now",
            "attribute_not_exists(cancelled_s) AND #state IN (:planning, :running)",
            {
                ":now": num(self._clock.now_s()),
                ":planning": text(RunState.PLANNING),
                ":running": text(RunState.RUNNING),
            },
        )
        run = self._existing(run_id, outcome)
        if outcome.lost and run.cancelled_s is None and not run.state.ended:
            raise outcome.lost
        return run

    def _part_pages(self, run_id: str, **query: object) -> Iterator[list[Item]]:
        pages = self._table.pages(
            KeyConditionExpression="pk = :pk AND begins_with(sk, :part)",
            ExpressionAttributeValues={":pk": text(run_partition(run_id)), ":part": text(PART_PREFIX)},
            **query,
        )
        return (page["Items"] for page in pages)

    def _existing(self, run_id: str, outcome: Written) -> Run:
        if outcome.item is None:
            raise _no_run(run_id)
        return run_value(outcome.item)

    def _put_new(self, item: Attributes) -> "TransactWriteItemTypeDef":
        return {"Put": {"TableName": self._table.name, "Item": item, "ConditionExpression": "attribute_not_exists(pk)"}}

    def _check_absent(self, key: Attributes) -> "TransactWriteItemTypeDef":
        return {
            "ConditionCheck": {
                "TableName": self._table.name,
                "Key": key,
                "ConditionExpression": "attribute_not_exists(pk)",
            }
        }

    def _check_planning(self, run_id: str) -> "TransactWriteItemTypeDef":
        return self._table.condition(
            run_key(run_id),
            "#state = :planning AND attribute_not_exists(cancelled_s)",
            {":planning": text(RunState.PLANNING)},
        )

    def _seal(
        self, run_id: str, shard_count: int, object_count: int, size_bytes: int, skipped: Mapping[str, int]
    ) -> "TransactWriteItemTypeDef":
        return self._table.change(
            run_key(run_id),
            "SET #state = :running, shard_count = :shards, object_count = :objects, size_bytes = :bytes, "
            "skipped = :skipped",
            "#state = :planning",
            {
                ":planning": text(RunState.PLANNING),
                ":running": text(RunState.RUNNING),
                ":shards": num(shard_count),
                ":objects": num(object_count),
                ":bytes": num(size_bytes),
                ":skipped": counted(skipped),
            },
        )


def _no_run(run_id: str) -> RunNotFoundError:
    return RunNotFoundError(f"there is no run {run_id}; `sparklet runs` lists those there are")
