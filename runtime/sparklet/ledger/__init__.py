"""The ledger: the state of every shard, run and task, and the transitions that change it.

Read ``transitions`` first: pure functions from record to record. A ``store`` writes their results, in memory or in a
table.
"""

from sparklet.ledger.clock import Clock
from sparklet.ledger.runs import Runs
from sparklet.ledger.shards import Attempts, Shards
from sparklet.ledger.store import Store
from sparklet.ledger.tasks import Tasks


class Ledger:
    """The one authority on runs, shards and tasks. ``clock`` decides when leases end. Every write is conditional."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.clock = clock  # for callers that compare a lease with the time
        self.runs = Runs(store, clock)
        self.attempts = Attempts(store, clock)
        self.shards = Shards(store, clock, self.runs)
        self.tasks = Tasks(store, clock)
