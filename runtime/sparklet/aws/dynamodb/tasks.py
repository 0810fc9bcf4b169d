"""Tasks of the asynchronous API in the ledger's table: one item each, ``task#<id>``.

The item holds the status as JSON text, which API Gateway returns unchanged, and what conditions and the table need.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb.items import Attributes, Item, attributes
from sparklet.aws.dynamodb.table import LedgerTable
from sparklet.clock import ServiceClock
from sparklet.model import TaskRecord
from sparklet.ports import Clock

TASK_PREFIX = "task#"
TASK_SORT_KEY = "task"


class DynamoTaskStore:
    """A ``TaskStore`` in the ledger's table."""

    def __init__(self, clients: AwsClients, table: str, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or ServiceClock()  # as in ``DynamoLedger``
        self._table = LedgerTable(clients, table, self.clock)

    def get_task(self, task_id: str) -> TaskRecord | None:
        item = self._table.get(task_key(task_id))
        return _record(item) if item else None

    def get_tasks(self, task_ids: Sequence[str]) -> Iterator[TaskRecord]:
        """Those of these tasks that were ever recorded (strongly consistent), in any order."""
        return map(_record, self._table.get_many([task_key(task_id) for task_id in task_ids]))

    def replace_task(self, record: TaskRecord, was: TaskRecord | None) -> bool:
        values: dict[str, Any] = {
            ":state": record.state,
            ":revision": record.revision,
            ":document": json.dumps(record.to_document()),
            ":expires": record.expires_s,
        }
        condition = "attribute_not_exists(pk)"
        if was is not None:
            condition, values[":was"] = "revision = :was", was.revision
        outcome = self._table.update(
            task_key(record.task_id),
            "SET #state = :state, revision = :revision, document = :document, expires_s = :expires",
            condition,
            values,
        )
        stands = _record(outcome.item) if outcome.item else None
        if outcome.applied or (stands and _sign(stands) == _sign(record)):
            return True
        if outcome.lost and (stands and stands.revision) == (was and was.revision):
            raise outcome.lost
        return False


def task_key(task_id: str) -> Attributes:
    """Key of a task's item; sam/api.yaml's mapping template builds the same."""
    return attributes({"pk": f"{TASK_PREFIX}{task_id}", "sk": TASK_SORT_KEY})


def _sign(record: TaskRecord) -> tuple[object, ...]:
    """What identifies a record: attempts have ids of their own."""
    return record.revision, record.state, record.attempt_id


def _record(item: Item) -> TaskRecord:
    return TaskRecord.from_document(json.loads(item["document"]["S"]))
