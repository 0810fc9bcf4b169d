"""The ledger in one DynamoDB table.

============== ======================= ======================================================
partition key  sort key                item
============== ======================= ======================================================
run_id#bucket  shard#000000007         a shard; in the index ``open-index`` until it succeeds
run_id#meta    run                     a run
run_id#meta    deleted                 the mark of a deleted run: its id is never used again
run_id#meta    part#000003             a sealed plan part; the last one is the checkpoint
runs           created#run_id          a pointer, by which runs are listed; in the index until its run is finalized
task#task_id   task                    a task of the asynchronous API (``DynamoTaskStore``)
============== ======================= ======================================================

``docs/decisions/0004-ledger-keys-and-index.md`` and ``0025-unsettled-runs.md`` say why.
"""

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb.attempts import DynamoAttempts
from sparklet.aws.dynamodb.runs import DynamoRuns
from sparklet.aws.dynamodb.shards import DynamoShards
from sparklet.aws.dynamodb.table import OPEN_INDEX, LedgerTable
from sparklet.aws.dynamodb.tasks import DynamoTaskStore
from sparklet.clock import ServiceClock
from sparklet.ports import Clock

__all__ = ["OPEN_INDEX", "DynamoLedger", "DynamoTaskStore"]


class DynamoLedger:
    """A ``Ledger`` in a DynamoDB table; sam/template.yaml defines it.

    A bulk operation makes as many calls at one time as ``clients`` have threads. ``clock`` decides when leases end;
    without one it is DynamoDB's own. Whoever judges a lease beside the ledger takes ``self.clock``.
    """

    def __init__(self, clients: AwsClients, table: str | LedgerTable, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or ServiceClock()
        items = LedgerTable(clients, table, self.clock) if isinstance(table, str) else table
        self.runs = DynamoRuns(items, self.clock)
        self.attempts = DynamoAttempts(items, self.clock)
        self.shards = DynamoShards(items, self.clock, self.runs)
