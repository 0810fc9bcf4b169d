"""Which runs are unsettled: those whose pointer carries a place in the index. See ``docs/decisions/0025``."""

from collections.abc import Iterator

from sparklet.aws.dynamodb.items import (
    RUNS_PARTITION,
    TURN_KEY,
    num,
    pointer_key,
    run_key,
    text,
    unsettled_value,
)
from sparklet.aws.dynamodb.runs import RunLedger
from sparklet.aws.dynamodb.table import OPEN_INDEX
from sparklet.ledger_rules import RUNS_A_TURN
from sparklet.model import Run, RunState


class SettlingLedger(RunLedger):
    """The part of ``DynamoLedger`` that knows about which runs something may still have to be done."""

    def unsettled_runs(self) -> Iterator[Run]:
        """Runs about which something may still have to be done, newest first: found by the index."""
        return self._newest_first(IndexName=OPEN_INDEX)

    def settle_run(self, run: Run) -> bool:
        """Take the mark away, in one transaction with the check that the run is still ended as it was seen."""
        key = pointer_key(run)
        still_ended = self._table.condition(
            run_key(run.run_id),
            "generation = :generation AND NOT #state IN (:planning, :running)",
            {
                ":generation": num(run.generation),
                ":planning": text(RunState.PLANNING),
                ":running": text(RunState.RUNNING),
            },
        )
        outcome = self._table.transact(
            key, [still_ended, self._table.change(key, "REMOVE #open", "attribute_exists(#open)", {})]
        )
        if outcome.applied or outcome.item is None or "open" not in outcome.item:
            return True
        if outcome.lost:
            raise outcome.lost
        return False

    def unsettle_run(self, run: Run) -> None:
        """Mark a run; saying it twice is fine."""
        outcome = self._table.update(
            pointer_key(run), "SET #open = :open", "attribute_exists(pk)", {":open": unsettled_value(run)}
        )
        if outcome.lost and outcome.item and "open" not in outcome.item:
            raise outcome.lost

    def settled_in_turn(self) -> Iterator[Run]:
        """The next few of the settled runs; how far they went is an item of its own."""
        turn = self._table.get(TURN_KEY)
        after = turn["place"]["S"] if turn else ""
        page = next(
            self._table.pages(
                KeyConditionExpression="pk = :pk AND sk < :after" if after else "pk = :pk",
                ExpressionAttributeValues={":pk": text(RUNS_PARTITION), **({":after": text(after)} if after else {})},
                ScanIndexForward=False,
                Limit=RUNS_A_TURN,
            )
        )
        yield from self._runs_of([pointer for pointer in page["Items"] if "open" not in pointer])
        last = page["Items"][-1]["sk"]["S"] if len(page["Items"]) == RUNS_A_TURN else ""
        if last != after:
            moved = {":last": text(last), ":was": text(after)}  # unless another checker has moved it
            self._table.update(TURN_KEY, "SET place = :last", "attribute_not_exists(pk) OR place = :was", moved)
