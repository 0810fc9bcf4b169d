"""Map batches: the shards that a Map state dispatches together, for a run with ``dispatch`` map and without messages.

A batch is a file of references, as JSON Lines, to all shards that are PENDING now (strongly consistent)::

    runs/<run_id>/batches/<generation>-<batch>-<last shard>-<milliseconds>.jsonl

Batches follow one another until the run has ended (docs/decisions/0017). The files' names show which shards were
dispatched, and when. A shard that no worker claims is dispatched again as ``redelivery`` says; it is given up only if
no other shard of the run has changed since the last batch: a run whose workers reject every shard must end.
"""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path

from sparklet.model import MAX_INLINE, Run, ShardRecord, ShardRef, ShardState, split_uri
from sparklet.ports.deployment import Deployment, scratch
from sparklet.runs.redelivery import MAP_BATCH, give_up, has_stalled

MAX_SHARDS = 250_000  # of one batch: 40 MB of lines, and less than a Map run may have

_NAME = re.compile(r"\d+-\d+-(\d+)-(\d+)\.jsonl")


@dataclass(frozen=True, slots=True)
class MapBatch:
    """The shards of a batch."""

    count: int = 0
    key: str = ""  # of the file, in the deployment's bucket; "" if there was nothing to dispatch
    items: tuple[ShardRef, ...] = ()  # all of them, if they are few enough for an inline Map


def write_batch(
    deployment: Deployment, run: Run, number: int, *, between_s: float = 0.0, max_shards: int = MAX_SHARDS
) -> MapBatch:
    """Write batch ``number`` of a run, in constant memory, unless the last batch is younger than ``between_s``."""
    last_shard, last_batch_s = _earlier(deployment, run)
    if number and deployment.clock.now_s() - last_batch_s < between_s:
        return MapBatch()
    count, last, items = 0, -1, list[ShardRef]()
    with tempfile.TemporaryDirectory(prefix="sparklet-batch-") as folder:
        path = Path(folder, "batch.jsonl")
        with scratch("a map batch"), path.open("w", encoding="utf-8") as file:
            for record in islice(_to_dispatch(deployment, run, last_shard, last_batch_s), max_shards):
                file.write(record.ref.to_body() + "\n")
                count, last = count + 1, max(last, record.number)
                if count <= MAX_INLINE:
                    items.append(record.ref)
        if not count:
            return MapBatch()
        # Two executions may write batches of one number: the time keeps their names apart.
        name = f"{run.generation}-{number}-{last}-{int(deployment.clock.now_s() * 1000)}.jsonl"
        uri = deployment.run_uri(run.run_id, f"batches/{name}")
        # A crash before this loses no shard: what was counted since the last batch has changed since then, and is in
        # the next one.
        deployment.store.upload(path, uri)
    return MapBatch(count, split_uri(uri)[1], tuple(items) if count <= MAX_INLINE else ())


def _earlier(deployment: Deployment, run: Run) -> tuple[int, float]:
    """Up to which shard this generation's batches have dispatched all (-1: none), and when the last was written."""
    names = (
        info.uri.rpartition("/")[2]
        for info in deployment.store.list(deployment.run_uri(run.run_id, f"batches/{run.generation}-"))
    )
    batches = [(int(match[1]), int(match[2]) / 1000) for match in map(_NAME.fullmatch, names) if match]
    return max((shard for shard, _ in batches), default=-1), max((written_s for _, written_s in batches), default=0.0)


def _to_dispatch(deployment: Deployment, run: Run, last_shard: int, last_batch_s: float) -> Iterator[ShardRecord]:
    """PENDING shards in order of number, except those that were dispatched recently and those that are given up."""
    stalled = cache(partial(has_stalled, deployment, run, last_batch_s))  # it is read at most once a batch
    for record in deployment.ledger.shards.list(run.run_id, ShardState.PENDING):
        if not record.is_for_functions:
            continue
        # It was in no batch yet, or was released, redriven or taken from a lost worker since: no child of the last
        # batch has it.
        if record.number > last_shard or record.changed_s > last_batch_s:
            yield record
        elif not MAP_BATCH.is_due(record, deployment.clock.now_s()):
            continue
        elif MAP_BATCH.is_spent(record) and stalled():
            cause = "NeverClaimed" if record.attempts else "NeverStarted"
            why = f"dispatched {record.requeues + 1} times, but no worker claimed it"
            give_up(deployment, record, cause, why)
        elif counted := deployment.ledger.attempts.count_requeue(record):
            yield counted
