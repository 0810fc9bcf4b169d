"""The ledger in one DynamoDB table, put together from its parts.

============== ======================= ======================================================
partition key  sort key                item
============== ======================= ======================================================
run_id#bucket  shard#000000007         a shard; in the index ``open-index`` until it succeeds
run_id#meta    run                     a run
run_id#meta    deleted                 what is left of a run that was deleted: its id is never used again
run_id#meta    part#000003             a sealed plan part; the last one is the checkpoint
runs           created#run_id          a pointer, by which runs are listed; in the index until its run is settled
settled-runs   turn                    how far the settled runs were looked at in turn
task#task_id   task                    a task of the asynchronous API (``DynamoTasks``)
============== ======================= ======================================================

``docs/decisions/0004-ledger-keys-and-index.md`` and ``0025-unsettled-runs.md`` say why.
"""

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb.attempts import AttemptLedger
from sparklet.aws.dynamodb.deleting import DeletingLedger
from sparklet.aws.dynamodb.settling import SettlingLedger
from sparklet.aws.dynamodb.table import LedgerTable
from sparklet.clock import SystemClock
from sparklet.ports import Clock


class DynamoLedger(AttemptLedger, DeletingLedger, SettlingLedger):
    """A ``Ledger`` in a DynamoDB table (see ``table_definition``).

    Parameters
    ----------
    clients
        Where its client comes from; their ``threads`` is how many calls a bulk operation makes at one time.
    table
        The table's name.
    clock
        Decides when leases end.
    """

    def __init__(self, clients: AwsClients, table: str, clock: Clock | None = None) -> None:
        time: Clock = clock or SystemClock()
        super().__init__(LedgerTable(clients, table, time), time)
