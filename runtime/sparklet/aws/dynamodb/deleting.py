"""Runs that are forgotten: retired first, so that nobody opens them again; then deleted, themselves last."""

from collections.abc import Iterator, Mapping
from typing import Any

from sparklet.aws.dynamodb.items import (
    Attributes,
    num,
    pointer_key,
    run_key,
    run_partition,
    run_value,
    text,
    tombstone_key,
)
from sparklet.aws.dynamodb.reading import ShardLedger
from sparklet.aws.parallel import in_parallel
from sparklet.errors import LedgerError
from sparklet.ledger_rules import not_ended, not_retired
from sparklet.model import Run, RunState


class DeletingLedger(ShardLedger):
    """The part of ``DynamoLedger`` that forgets runs."""

    def retire_run(self, run_id: str) -> Run:
        """Close an ended run for good; saying it twice is fine."""
        outcome = self._table.update(
            run_key(run_id),
            "SET retired = :now",
            "attribute_exists(pk) AND NOT #state IN (:planning, :running)",
            {
                ":now": num(self._clock.now_s()),
                ":planning": text(RunState.PLANNING),
                ":running": text(RunState.RUNNING),
            },
        )
        run = self._existing(run_id, outcome)
        if outcome.applied or "retired" in (outcome.item or {}):
            return run
        raise outcome.lost or not_ended(run)

    def delete_run(self, run_id: str) -> int:
        """Forget a retired run: its shards, all buckets side by side, its parts, then itself and its pointer."""
        item = self._table.get(run_key(run_id))
        run = self.get_run(run_id) if item is None else run_value(item)
        if item is None or "retired" not in item:
            raise not_retired(run)
        deleted = sum(in_parallel(self._empty, self._partitions(run), self._table.threads))
        deleted += self._empty(run_partition(run_id), run_key(run_id))
        tombstone = {**tombstone_key(run_id), "deleted_s": num(int(self._clock.now_s()))}
        outcome = self._table.transact(
            run_key(run_id),
            [self._delete(run_key(run_id)), self._delete(pointer_key(run)), self._put_new(tombstone)],
        )
        if not outcome.applied and outcome.item is not None:
            raise outcome.lost or LedgerError(f"the run {run_id} could not be deleted; try again")
        return deleted + 1

    def _empty(self, partition: str, spared: Mapping[str, Any] | None = None) -> int:
        """Delete a partition's items but one; how many."""
        return sum(
            self._table.delete_many([key for key in keys if key != spared]) for keys in self._key_pages(partition)
        )

    def _key_pages(self, partition: str) -> Iterator[list[Attributes]]:
        pages = self._table.pages(
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": text(partition)},
            ProjectionExpression="pk, sk",
        )
        return ([{"pk": item["pk"], "sk": item["sk"]} for item in page["Items"]] for page in pages)

    def _delete(self, key: Attributes) -> Any:
        return {"Delete": {"TableName": self._table.name, "Key": key}}
