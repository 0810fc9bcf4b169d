"""Shards entered, read and counted, many at a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from sparklet.ledger import items
from sparklet.ledger.clock import Clock
from sparklet.ledger.items import FOR_ENGINE, MAX_TIME_S, TO_SPLIT, open_value
from sparklet.ledger.runs import Runs
from sparklet.ledger.store import Store
from sparklet.model import COUNTED, Counts, ShardRecord, ShardState


class Shards:
    """A run's shards in bulk. Every method raises LedgerError; RunNotFoundError or ShardNotFoundError."""

    def __init__(self, store: Store, clock: Clock, runs: Runs) -> None:
        self._store, self._clock, self._runs = store, clock, runs

    def add(self, shards: Iterable[ShardRecord]) -> int:
        """Enter planned shards, which wait from now on; one that is there already stays as it is. How many were new."""
        return self._store.add(items.shard_item(replace(shard, changed_s=self._clock.now_s())) for shard in shards)

    def get(self, run_id: str, number: int) -> ShardRecord:
        """One shard (strongly consistent)."""
        return items.shard_record(self._store.get(items.shard_key(run_id, number)), run_id, number)

    def list(self, run_id: str, state: ShardState | None = None) -> Iterator[ShardRecord]:
        """All shards, or those in one state, in order of number, from the base table (strongly consistent)."""
        yield from map(items.shard_record, self._store.items(self._partitions(run_id), items.SHARD_PREFIX, state))

    def count(self, run_id: str) -> Counts:
        """Shards by state, from the base table (strongly consistent): what ends a run."""
        count_by_state = self._store.count(self._partitions(run_id))
        return Counts(*(count_by_state.get(state, 0) for state in COUNTED))

    def glance(self, run_id: str) -> Counts:
        """Shards by state, from the index: cheap, a moment old, for progress; no SUCCEEDED until the plan is sealed."""
        run = self._runs.get(run_id)
        indexed = (ShardState.PENDING, ShardState.RUNNING, ShardState.FAILED)
        count_by_state = self._store.glance(self._runs.partitions(run), indexed)
        pending, running, failed = (count_by_state.get(state, 0) for state in indexed)
        # While the index lags, a shard may be counted in a state that it has left, and the rest be less than nothing.
        succeeded = max(0, (run.shard_count or 0) - pending - running - failed)
        return Counts(pending, running, succeeded, failed)

    def expired(self, run_id: str, state: ShardState, before_s: float) -> Iterator[ShardRecord]:
        """Shards RUNNING with a lease that ends before ``before_s``, or PENDING and unchanged since before it.

        Found by the index (it may lag), each then read from the base table. A renewal does not move a shard in the
        index: after one by a clock that is behind, the shard is found when the lease that its claim gave is over.
        """
        if state not in (ShardState.RUNNING, ShardState.PENDING):
            raise ValueError(f"a {state} shard does not expire")
        for record in self._between(run_id, f"{state}#", open_value(state, before_s)):
            since_s = record.lease_end_s if state is ShardState.RUNNING else record.changed_s
            # The index only proposes: the shard may have moved on, and a renewal has not moved it there.
            if record.state is state and since_s < before_s:
                yield record

    def recent(self, run_id: str, state: ShardState, since_s: float) -> Iterator[ShardRecord]:
        """Shards PENDING (for functions), RUNNING or FAILED that have changed since; found by the index likewise.

        A lease ends later than its shard has changed.
        """
        records = self._between(run_id, open_value(state, since_s), open_value(state, MAX_TIME_S))
        return (record for record in records if record.state is state and record.changed_s >= since_s)

    def for_engines(self, run_id: str) -> Iterator[ShardRecord]:
        """PENDING shards of engines, those that have waited longest first in each bucket; found likewise."""
        return (record for record in self._first(run_id, FOR_ENGINE) if record.engine and not record.split)

    def to_split(self, run_id: str) -> Iterator[ShardRecord]:
        """PENDING shards that a check is to split; found likewise."""
        return (record for record in self._first(run_id, TO_SPLIT) if record.split)

    def _first(self, run_id: str, first: str) -> Iterator[ShardRecord]:
        places = (open_value(ShardState.PENDING, since_s, first) for since_s in (0.0, MAX_TIME_S))
        return (record for record in self._between(run_id, *places) if record.state is ShardState.PENDING)

    def _between(self, run_id: str, first: str, last: str) -> Iterator[ShardRecord]:
        """Shards that the index has between two places, as the base table has them: page by page, the oldest first."""
        for partition in self._partitions(run_id):
            for keys in self._store.keys(partition, (first, last), index=True):
                yield from map(items.shard_record, list(self._store.get_many(keys)))

    def _partitions(self, run_id: str) -> Sequence[str]:
        return self._runs.partitions(self._runs.get(run_id))
