"""Shards into the ledger, messages into the queue: always in this order, so that no message names a shard unknown."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from sparklet.errors import CheckpointConflictError, EventError, PlanError
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.planning.fitting import too_large
from sparklet.model import Dispatch, Failure, PartRecord, Run, Shard, ShardRecord, ShardState
from sparklet.ports import Clock, TaskQueue

MOST_AT_ONCE = 10  # messages: one batch of the queue
ASK_EVERY_S = 10.0  # so often somebody who sends slowly looks whether the run was cancelled
ANOTHER_RUN = "start the run again under another id"


class Pace:
    """Keeps the average of what is sent at or below a rate, over everything sent through it.

    Parameters
    ----------
    rate_per_s
        Messages a second; 0 means as fast as they can be sent.
    """

    def __init__(self, clock: Clock, rate_per_s: float) -> None:
        self._clock = clock
        self._rate_per_s = rate_per_s
        self._next_s = clock.now_s()

    def send(self, queue: TaskQueue, bodies: Iterable[str]) -> int:
        """Send every body; how many were sent."""
        if not self._rate_per_s:
            return queue.send(bodies)
        sent, waiting = 0, iter(bodies)
        while batch := list(islice(waiting, max(1, min(MOST_AT_ONCE, int(self._rate_per_s))))):
            self._wait_for(len(batch))
            sent += queue.send(batch)
        return sent

    def _wait_for(self, count: int) -> None:
        """Wait until ``count`` more messages are due; time in which nothing was sent is not made up for."""
        now_s = self._clock.now_s()
        if self._next_s > now_s:
            self._clock.sleep(self._next_s - now_s)
        self._next_s = max(self._next_s, now_s) + count / self._rate_per_s


class Outbox:
    """Where a run's messages go: to the queue at the run's rate, or nowhere if a Map state hands its shards out."""

    def __init__(self, at: Deployment, run: Run) -> None:
        self._queue = at.queue if run.dispatch is Dispatch.QUEUE else None
        self._pace = Pace(at.clock, run.options.rate_per_s)

    def send(self, bodies: Iterable[str]) -> int:
        """Send every body; how many were sent. They are drawn in either case, since drawing one may be the work."""
        if self._queue is None:
            deque(bodies, maxlen=0)
            return 0
        return self._pace.send(self._queue, bodies)


def dispatch_part(at: Deployment, run: Run, part: PartRecord, body: bytes, outbox: Outbox) -> None:
    """Enter a sealed part's shards, send their messages and note that this is done.

    Doing it again is harmless: a shard that is there stays as it is, and a second message is turned away.
    A shard that is too large for a function is FAILED at once and has no message.

    Raises
    ------
    CheckpointConflictError
        If messages are sent at a rate and the run is cancelled meanwhile.
    """
    records = enter_part(at, run, part, body)
    outbox.send(_until_cancelled(at, run.run_id, records))
    at.ledger.runs.mark_dispatched(run.run_id, part.index)


def enter_part(at: Deployment, run: Run, part: PartRecord, body: bytes) -> list[ShardRecord]:
    """Enter a sealed part's shards into the ledger; those that a message may be sent for.

    The others are too large for a function, and have ended with that.

    Raises
    ------
    PlanError
        If the part is not what was sealed.
    """
    uri = at.part_uri(run.run_id, part.part)
    try:
        records, oversize = _read_part(run, part.part, body, at.clock.now_s())
    except EventError as error:
        raise PlanError(f"the plan part {uri} is damaged: {error}; {ANOTHER_RUN}") from error
    _refuse_damaged(uri, part, records)
    at.ledger.shards.add(records)
    for number, failure in oversize.items():
        _give_up(at, run.run_id, number, failure)
    return [record for record in records if record.number not in oversize]


def _until_cancelled(at: Deployment, run_id: str, records: list[ShardRecord]) -> Iterator[str]:
    """The shards' messages; where sending them takes long the run is looked at in between."""
    asked_s = at.clock.now_s()
    for record in records:
        if at.clock.now_s() - asked_s > ASK_EVERY_S:
            if at.ledger.runs.get(run_id).cancelled_s is not None:
                raise CheckpointConflictError(f"the run {run_id} was cancelled; no more of it is dispatched")
            asked_s = at.clock.now_s()
        yield record.ref.to_body()


def _refuse_damaged(part_uri: str, part: PartRecord, records: list[ShardRecord]) -> None:
    """PlanError if a part that was read again does not hold the shards that were sealed."""
    numbers = [record.number for record in records]
    if numbers != list(range(part.first_shard, part.next_shard)):
        planned = f"{part.shard_count} shards from {part.first_shard} on"
        raise PlanError(
            f"the plan part {part_uri} is damaged: it holds {len(numbers)} shards, {planned} were sealed; {ANOTHER_RUN}"
        )


def _read_part(run: Run, part: str, body: bytes, now_s: float) -> tuple[list[ShardRecord], dict[int, Failure]]:
    """The ledger's records of a part's shards, each with the place of its line; the end of those that are too large."""
    records, oversize, offset = [], {}, 0
    for line in body.splitlines(keepends=True):
        shard = Shard.from_line(line)
        records.append(
            ShardRecord(
                run_id=run.run_id,
                number=shard.number,
                part=part,
                offset=offset,
                length=len(line),
                object_count=len(shard.objects),
                size_bytes=shard.size_bytes,
                changed_s=now_s,
            )
        )
        if failure := too_large(shard, run.options):
            oversize[shard.number] = failure
        offset += len(line)
    return records, oversize


def _give_up(at: Deployment, run_id: str, number: int, failure: Failure) -> None:
    """End a shard that no function should attempt; one that has ended stays as it is."""
    record = at.ledger.shards.get(run_id, number)
    while record.state is ShardState.PENDING and not at.ledger.attempts.abandon(record, failure):
        record = at.ledger.shards.get(run_id, number)
