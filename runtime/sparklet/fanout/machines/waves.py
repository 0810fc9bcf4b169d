"""Waves: what a Map state hands out of a run whose dispatch is a map. No message is ever sent for such a run.

A wave is every shard that is PENDING now, by the base table (strongly consistent), as JSON Lines of references::

    runs/<run_id>/waves/<generation>-<wave>-<last shard>-<milliseconds>.jsonl

Waves follow one another until the run has ended. What a wave lost (a child that was aborted, a worker that was killed)
is PENDING again once its lease is over, and in a later wave; what two waves hand out twice is turned away by a claim.
So nothing depends on what Step Functions says of a child.

A shard that a wave handed out and nobody claimed (its child was throttled, or its worker died before it could) is
handed out again ever more seldom, and counted as a requeue, as the checker does with messages. If that happened
``MOST_UNCLAIMED`` times, and no other shard of the run has changed since the last wave either, it has FAILED: else
workers that refuse all they are given would be asked for ever. Which shards were handed out before, and when, is in the
names of the files.
"""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sparklet.fanout.deployment import Deployment
from sparklet.fanout.scratch import scratch_error
from sparklet.ledger_rules import last_cause
from sparklet.metrics import SHARDS_FAILED
from sparklet.model import INLINE_MOST, Failure, Run, ShardRecord, ShardRef, ShardState
from sparklet.s3_uri import split_uri

MOST_SHARDS = 250_000  # of one wave: 40 MB of lines, and less than a Map run may have
MOST_UNCLAIMED = 5
UNCLAIMED_S = 60.0

_NAME = re.compile(r"\d+-\d+-(\d+)-(\d+)\.jsonl")


@dataclass(frozen=True, slots=True)
class Wave:
    """What was handed out."""

    count: int = 0
    key: str = ""  # of the file, in the deployment's bucket; "" if there was nothing to hand out
    items: tuple[ShardRef, ...] = ()  # all of them, if they are few enough for an inline Map
    abandoned: int = 0  # shards given up, since nobody ever claims them


@dataclass(slots=True)
class _Earlier:
    """What the waves of this generation handed out until now."""

    last: int = -1  # every shard up to this one was handed out at least once
    at_s: float = 0.0  # when the last wave was written


def hand_out(at: Deployment, run: Run, number: int, *, between_s: float = 0.0, most_shards: int = MOST_SHARDS) -> Wave:
    """Write wave ``number`` of a run; memory does not grow with it.

    Doing it again is harmless: it writes another file, of what is PENDING then.

    Parameters
    ----------
    between_s
        A wave that would follow the last one of this generation sooner is not handed out; the first one always is.
    """
    earlier = _earlier(at, run)
    if number and at.clock.now_s() - earlier.at_s < between_s:
        return Wave()
    waiting = _Waiting(at, run, earlier)
    with tempfile.TemporaryDirectory(prefix="sparklet-wave-") as folder:
        path = Path(folder, "wave.jsonl")
        try:
            written = _write(path, islice(waiting.shards(), most_shards))
        except OSError as error:
            raise scratch_error("a wave of shards", error) from error
        if not written.count:
            return Wave(abandoned=waiting.abandoned)
        name = f"{run.generation}-{number}-{written.last}-{int(at.clock.now_s() * 1000)}.jsonl"
        uri = at.run_uri(run.run_id, f"waves/{name}")
        at.store.upload(path, uri)
    items = tuple(written.first) if written.count <= INLINE_MOST else ()
    return Wave(written.count, split_uri(uri)[1], items, waiting.abandoned)


@dataclass(slots=True)
class _Written:
    count: int = 0
    last: int = -1
    first: list[ShardRef] = field(default_factory=list)


def _write(path: Path, records: Iterator[ShardRecord]) -> _Written:
    written = _Written()
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(record.ref.to_body() + "\n")
            written.count, written.last = written.count + 1, max(written.last, record.number)
            if written.count <= INLINE_MOST:
                written.first.append(record.ref)
    return written


def _earlier(at: Deployment, run: Run) -> _Earlier:
    earlier = _Earlier()
    for info in at.store.list(at.run_uri(run.run_id, f"waves/{run.generation}-")):
        if found := _NAME.fullmatch(info.uri.rpartition("/")[2]):
            earlier.last = max(earlier.last, int(found[1]))
            earlier.at_s = max(earlier.at_s, int(found[2]) / 1000)
    return earlier


@dataclass(slots=True)
class _Waiting:
    """The shards of a run that are to be handed out now."""

    at: Deployment
    run: Run
    earlier: _Earlier
    abandoned: int = 0
    stalled: bool | None = None

    def shards(self) -> Iterator[ShardRecord]:
        """PENDING shards in order of number, but for those that were handed out in vain not long ago."""
        for record in self.at.ledger.shards.list(self.run.run_id, ShardState.PENDING):
            if record.number > self.earlier.last or record.changed_s > self.earlier.at_s:
                yield record
            elif again := self._again(record):
                yield again

    def _again(self, record: ShardRecord) -> ShardRecord | None:
        """A shard that the waves before handed out and nobody claimed: once more, later, or never."""
        if self.at.clock.now_s() - record.changed_s < UNCLAIMED_S * 2 ** min(record.requeues, MOST_UNCLAIMED):
            return None
        if record.requeues >= MOST_UNCLAIMED and self._stalled():
            given_up = self.at.ledger.attempts.abandon(record, _unclaimed(record))
            self.at.measure(SHARDS_FAILED, given_up)
            self.abandoned += given_up
            return None
        return self.at.ledger.attempts.count_requeue(record)

    def _stalled(self) -> bool:
        """Whether no shard of the run is in work or has changed since the last wave; asked for once a wave at most."""
        if self.stalled is None:
            records = self.at.ledger.shards.list(self.run.run_id)
            self.stalled = all(
                record.state is not ShardState.RUNNING and record.changed_s <= self.earlier.at_s for record in records
            )
        return self.stalled


def _unclaimed(record: ShardRecord) -> Failure:
    name = "NeverClaimed" if record.attempts else "NeverStarted"
    message = f"handed out {record.requeues + 1} times, but no worker claimed it{last_cause(record)}"
    return Failure(name, message, retryable=False)
