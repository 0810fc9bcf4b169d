"""Shards entered into and read from the ledger's table, many at a time."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

from sparklet.aws.dynamodb.items import new_shard_item, open_value, shard_key, shard_record
from sparklet.aws.dynamodb.runs import DynamoRuns
from sparklet.aws.dynamodb.table import MAX_KEYS_A_BATCH, OPEN_INDEX, LedgerTable, OnTable, new_writer
from sparklet.aws.parallel import in_parallel
from sparklet.errors import ShardNotFoundError
from sparklet.model import Counts, ShardRecord, ShardState
from sparklet.ports import Clock

WRITERS = 8  # a put is 1 ms of Python and some 5 ms of waiting: more threads would only wait for one another
SHARDS_A_CALL = 16  # that one of them enters
CALLS_AHEAD = 8  # for each of them: a thousand shards, which are a plan part
# While the pages of up to 256 buckets are merged: so many shards are read at a time, but no shorter pages. Bounds
# memory: botocore needs 10 KB for an item while it reads it.
SHARDS_AHEAD, MIN_PAGE = 4_000, 100
MAX_TIME_S = 9_999_999_999.0  # the last one that sorts as text


class DynamoShards(OnTable):
    """``Shards`` in the ledger's table."""

    def __init__(self, table: LedgerTable, clock: Clock, runs: DynamoRuns) -> None:
        super().__init__(table, clock)
        self._runs = runs

    def add(self, shards: Iterable[ShardRecord]) -> int:
        """Enter shards as PENDING, taken from the iterable as fast as they can be written; how many were new."""
        source = iter(shards)
        chunks = iter(lambda: list(islice(source, SHARDS_A_CALL)), [])
        enter, threads = partial(self._enter, new_writer()), min(WRITERS, self._table.threads)
        return sum(in_parallel(enter, chunks, threads, CALLS_AHEAD))

    def _enter(self, writer: str, shards: Sequence[ShardRecord]) -> int:
        new = 0
        for record in shards:
            outcome = self._table.put_new(new_shard_item(record, self._clock.now_s(), writer))
            if outcome.carries(writer):
                new += 1
            elif outcome.lost and outcome.item is None:
                raise outcome.lost
        return new

    def get(self, run_id: str, number: int) -> ShardRecord:
        item = self._table.get(shard_key(run_id, number))
        if item is None:
            raise ShardNotFoundError(f"run {run_id} has no shard {number}")
        return shard_record(item)

    def list(self, run_id: str, state: ShardState | None = None) -> Iterator[ShardRecord]:
        """All shards, or those in one state, in order of number: the buckets merged, each read a page ahead."""
        partitions = self._partitions(run_id)
        with ThreadPoolExecutor(self._table.threads) as pool:
            page_shards = max(MIN_PAGE, SHARDS_AHEAD // len(partitions))  # a page ends at 1 MB anyway
            buckets = [_ahead(pool, self._pages(partition, state, page_shards)) for partition in partitions]
            yield from heapq.merge(*buckets, key=lambda record: record.number)

    def _pages(self, partition: str, state: ShardState | None, page_shards: int) -> Iterator[Mapping[str, Any]]:
        if state is None:
            return self._table.pages("pk = :pk", {":pk": partition}, Limit=page_shards)
        values = {":pk": partition, ":state": state}
        return self._table.pages("pk = :pk", values, Limit=page_shards, FilterExpression="#state = :state")

    def count(self, run_id: str) -> Counts:
        """Shards by state, from the base table (strongly consistent), all buckets side by side."""
        states: Counter[str] = Counter()
        for found in in_parallel(self._count_bucket, self._partitions(run_id), self._table.threads):
            states.update(found)
        return Counts(*(states[state] for state in ShardState))

    def _count_bucket(self, partition: str) -> Counter[str]:
        pages = self._table.pages("pk = :pk", {":pk": partition}, ProjectionExpression="#state")
        return Counter(item["state"]["S"] for page in pages for item in page["Items"])

    def glance(self, run_id: str) -> Counts:
        """Shards by state, from the index: SUCCEEDED are those that are not in it."""
        run = self._runs.get(run_id)
        indexed = (ShardState.PENDING, ShardState.RUNNING, ShardState.FAILED)
        queries = [(partition, state) for partition in self._runs.shard_partitions(run) for state in indexed]
        found: Counter[ShardState] = Counter()
        counts = in_parallel(self._count_index, queries, self._table.threads)
        for (_, state), count in zip(queries, counts, strict=True):
            found[state] += count
        succeeded = max(0, run.shard_count - found.total()) if run.shard_count is not None else 0
        return Counts(found[ShardState.PENDING], found[ShardState.RUNNING], succeeded, found[ShardState.FAILED])

    def _count_index(self, query: tuple[str, ShardState]) -> int:
        partition, state = query
        values = {":pk": partition, ":state": f"{state}#"}
        pages = self._table.pages(
            "pk = :pk AND begins_with(#open, :state)", values, IndexName=OPEN_INDEX, Select="COUNT"
        )
        return sum(page["Count"] for page in pages)

    def expired(self, run_id: str, state: ShardState, before_s: float) -> Iterator[ShardRecord]:
        if state not in (ShardState.RUNNING, ShardState.PENDING):
            raise ValueError(f"a {state} shard does not expire")
        for record in self._between(run_id, f"{state}#", open_value(state, before_s)):
            since_s = record.lease_end_s if state is ShardState.RUNNING else record.changed_s
            if record.state is state and since_s < before_s:
                yield record

    def recent(self, run_id: str, state: ShardState, since_s: float) -> Iterator[ShardRecord]:
        """Shards PENDING, RUNNING or FAILED that have changed since; a lease ends later than its shard has changed."""
        found = self._between(run_id, open_value(state, since_s), open_value(state, MAX_TIME_S))
        return (record for record in found if record.state is state and record.changed_s >= since_s)

    def for_engines(self, run_id: str) -> Iterator[ShardRecord]:
        first, last = (open_value(ShardState.PENDING, since_s, "any") for since_s in (0.0, MAX_TIME_S))
        found = self._between(run_id, first, last)
        return (record for record in found if record.state is ShardState.PENDING and record.engine)

    def _between(self, run_id: str, first: str, last: str) -> Iterator[ShardRecord]:
        """Shards that the index has between two places, as the base table has them: page by page, the oldest first."""
        between = "pk = :pk AND #open BETWEEN :first AND :last"
        for partition in self._partitions(run_id):
            values = {":pk": partition, ":first": first, ":last": last}
            for page in self._table.pages(between, values, IndexName=OPEN_INDEX, Limit=MAX_KEYS_A_BATCH):
                keys = [{"pk": item["pk"], "sk": item["sk"]} for item in page["Items"]]
                yield from [shard_record(item) for item in self._table.get_many(keys)]

    def _partitions(self, run_id: str) -> Sequence[str]:
        return self._runs.shard_partitions(self._runs.get(run_id))


def _ahead(pool: ThreadPoolExecutor, pages: Iterator[Mapping[str, Any]]) -> Iterator[ShardRecord]:
    """The shards of these pages, each read while the one before is consumed; records need less memory than items."""

    def read() -> list[ShardRecord] | None:
        page = next(pages, None)
        return None if page is None else [shard_record(item) for item in page["Items"]]

    def records(coming: "Future[list[ShardRecord] | None]") -> Iterator[ShardRecord]:
        while (page := coming.result()) is not None:
            coming = pool.submit(read)
            yield from page

    return records(pool.submit(read))
