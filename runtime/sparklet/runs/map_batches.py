"""Map batches: the shards that a Map state dispatches together, for a run with ``dispatch`` map and without messages.

A batch is a file of references, as JSON Lines, to all shards that are PENDING now (strongly consistent)::

    runs/<run_id>/batches/<generation>-<batch>-<last shard>-<milliseconds>.jsonl

Batches follow one another until the run has ended (docs/decisions/0017). The files' names show which shards were
dispatched, and when. A shard that no worker claims is dispatched again at growing intervals, each time counted as a
requeue. After ``MAX_UNCLAIMED`` times it is FAILED if no other shard of the run has changed since the last batch
either: a run whose workers reject every shard must end.
"""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sparklet.ledger.rules import last_cause
from sparklet.metrics import SHARDS_FAILED
from sparklet.model import MAX_INLINE, Failure, Run, ShardRecord, ShardRef, ShardState, split_uri
from sparklet.ports.deployment import Deployment, scratch

MAX_SHARDS = 250_000  # of one batch: 40 MB of lines, and less than a Map run may have
MAX_UNCLAIMED = 5
UNCLAIMED_S = 60.0

_NAME = re.compile(r"\d+-\d+-(\d+)-(\d+)\.jsonl")


@dataclass(frozen=True, slots=True)
class MapBatch:
    """The shards of a batch."""

    count: int = 0
    key: str = ""  # of the file, in the deployment's bucket; "" if there was nothing to dispatch
    items: tuple[ShardRef, ...] = ()  # all of them, if they are few enough for an inline Map


def write_batch(
    at: Deployment, run: Run, number: int, *, between_s: float = 0.0, max_shards: int = MAX_SHARDS
) -> MapBatch:
    """Write batch ``number`` of a run, in constant memory, unless the last batch is younger than ``between_s``."""
    pending = _PendingShards(at, run)
    if number and at.clock.now_s() - pending.last_batch_s < between_s:
        return MapBatch()
    count, last, items = 0, -1, list[ShardRef]()
    with tempfile.TemporaryDirectory(prefix="sparklet-batch-") as folder:
        path = Path(folder, "batch.jsonl")
        with scratch("a map batch"), path.open("w", encoding="utf-8") as file:
            for record in islice(pending.shards(), max_shards):
                file.write(record.ref.to_body() + "\n")
                count, last = count + 1, max(last, record.number)
                if count <= MAX_INLINE:
                    items.append(record.ref)
        if not count:
            return MapBatch()
        name = f"{run.generation}-{number}-{last}-{int(at.clock.now_s() * 1000)}.jsonl"
        uri = at.run_uri(run.run_id, f"batches/{name}")
        at.store.upload(path, uri)
    return MapBatch(count, split_uri(uri)[1], tuple(items) if count <= MAX_INLINE else ())


class _PendingShards:
    """The shards of a run that are to be dispatched now."""

    def __init__(self, at: Deployment, run: Run) -> None:
        self._at, self._run = at, run
        self._last_shard = -1  # every shard up to this one was dispatched in this generation
        self.last_batch_s = 0.0  # when the last batch of this generation was written
        self._run_stalls: bool | None = None
        for info in at.store.list(at.run_uri(run.run_id, f"batches/{run.generation}-")):
            if found := _NAME.fullmatch(info.uri.rpartition("/")[2]):
                self._last_shard = max(self._last_shard, int(found[1]))
                self.last_batch_s = max(self.last_batch_s, int(found[2]) / 1000)

    def shards(self) -> Iterator[ShardRecord]:
        """PENDING shards in order of number, except those that were dispatched recently."""
        for record in self._at.ledger.shards.list(self._run.run_id, ShardState.PENDING):
            if record.engine:
                continue
            if record.number > self._last_shard or record.changed_s > self.last_batch_s:
                yield record
            elif again := self._again(record):
                yield again

    def _again(self, record: ShardRecord) -> ShardRecord | None:
        """A shard that was dispatched and never claimed: again now; None if later, or FAILED."""
        if self._at.clock.now_s() - record.changed_s < UNCLAIMED_S * 2 ** min(record.requeues, MAX_UNCLAIMED):
            return None
        if record.requeues >= MAX_UNCLAIMED and self._stalled():
            name = "NeverClaimed" if record.attempts else "NeverStarted"
            why = f"dispatched {record.requeues + 1} times, but no worker claimed it{last_cause(record)}"
            failed = self._at.ledger.attempts.abandon(record, Failure(name, why, retryable=False))
            self._at.measure(SHARDS_FAILED, failed)
            return None
        return self._at.ledger.attempts.count_requeue(record)

    def _stalled(self) -> bool:
        """Whether no shard of the run is RUNNING or has changed since the last batch; read at most once a batch."""
        if self._run_stalls is None:
            self._run_stalls = all(
                record.state is not ShardState.RUNNING and record.changed_s <= self.last_batch_s
                for record in self._at.ledger.shards.list(self._run.run_id)
            )
        return self._run_stalls
