"""The ledger: every state of every shard, run and task, and what may happen to it.

``transitions`` first: pure functions. A ``store`` swaps what they make of a record, in memory or in a table.
"""

from sparklet.ledger.clock import Clock
from sparklet.ledger.runs import Runs
from sparklet.ledger.shards import Attempts, Shards
from sparklet.ledger.store import Store
from sparklet.ledger.tasks import Tasks


class Ledger:
    """The only truth about runs, shards and tasks; ``clock`` decides when leases end. Every write is conditional."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.clock = clock  # for whoever judges a lease beside the ledger
        self.runs = Runs(store, clock)
        self.attempts = Attempts(store, clock)
        self.shards = Shards(store, clock, self.runs)
        self.tasks = Tasks(store, clock)
