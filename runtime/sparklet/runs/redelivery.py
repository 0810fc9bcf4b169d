"""When is a shard given out again, and when is it given up? One rule for all ways of giving shards out.

A message, a child of a Map or a worker that was started may be lost before it claims its shard, and the ledger only
shows that the shard is PENDING. So the shard is given out again once it ``is_due``, and the ledger counts that. Once it
``is_spent``, it is given up (FAILED) instead: at once if what was given out last is known to be lost, as a dead-letter
message and a worker that has ended are, else if nothing of the run moves any more.

``checker``, ``concurrency_cap`` and ``dead_letters`` give shards out by messages; others get workers of their own. To
give a shard out twice does no harm: the ledger grants it to one attempt. An attempt that is lost after its claim is no
matter of this rule: its lease expires, and it counts as an attempt.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sparklet.ledger.rules import LEASE_EXPIRED, LEASE_GRACE_S, last_cause
from sparklet.model import Failure, Run, ShardRecord, ShardState, next_of
from sparklet.planning import routes
from sparklet.ports.deployment import Deployment
from sparklet.ports.metrics import SHARDS_FAILED

RUN_CANCELLED, RUN_TIME_LIMIT, TOLERANCE_EXCEEDED = "RunCancelled", "RunTimeLimit", "ToleranceExceeded"
BY_CHECKS = {routes.NO_WORKER, LEASE_EXPIRED, RUN_CANCELLED, RUN_TIME_LIMIT, TOLERANCE_EXCEEDED}
"""Causes that checks give, and count."""


@dataclass(frozen=True, slots=True)
class Way:
    """The values of the rule for one way of giving shards out (docs/decisions/0079)."""

    times: Callable[[ShardRecord], int]  # how often the ledger has counted that the shard was given out again
    again_after_s: float  # without a claim; doubled with each time
    most: float = math.inf  # times; without it a shard is given up at the run's time limit only

    def is_due(self, record: ShardRecord, now_s: float, given_s: float = 0.0) -> bool:
        """Whether a PENDING shard is to be given out again; ``given_s``: when it was, if the ledger does not know."""
        doubled = 2 ** min(self.times(record), self.most)
        return now_s - max(record.changed_s, given_s) >= self.again_after_s * doubled

    def is_spent(self, record: ShardRecord) -> bool:
        """Whether a PENDING shard was given out again as often as this is done."""
        return self.times(record) >= self.most


MESSAGE = Way(lambda record: record.requeues, 60.0)  # and nothing moves: longer than a cold start takes
CAPPED = Way(lambda record: record.requeues, 600.0)  # though others move: a lost message keeps its place under the cap
DEAD_LETTER = Way(lambda record: record.unrun, 0.0, most=3)  # it has waited enough, and may have killed its workers
WORKER = Way(lambda record: record.unclaimed - 1, 60.0, most=2)  # each start costs, and fails for a lasting cause


def has_stalled(deployment: Deployment, run: Run, since_s: float) -> bool:
    """Whether no shard of a run is RUNNING in a function, or has changed there since then; this reads all of them."""
    records = (record for record in deployment.ledger.shards.list(run.run_id) if record.by_function)
    return all(record.state is not ShardState.RUNNING and record.changed_s <= since_s for record in records)


def give_up(deployment: Deployment, record: ShardRecord, cause: str, why: str) -> bool:
    """PENDING → FAILED, with the last attempt's cause behind ``why``; False if the shard has moved on."""
    failed = deployment.ledger.attempts.abandon(record, Failure(cause, why + last_cause(record), retryable=False))
    deployment.measure(SHARDS_FAILED, failed and cause != RUN_CANCELLED)
    return failed


def give_up_all(
    deployment: Deployment, run: Run, cause: str, why: str, keep: Callable[[ShardRecord], bool] = lambda _: False
) -> int:
    """Give up a run's PENDING shards but those to ``keep``; how many. The next check does what is left."""
    # The grace takes in what was changed just now by a clock that is ahead of this one.
    pending = deployment.ledger.shards.expired(run.run_id, ShardState.PENDING, deployment.clock.now_s() + LEASE_GRACE_S)
    return sum(
        give_up(deployment, record, cause, why) for record in deployment.for_a_while(pending) if not keep(record)
    )


def end_leases(deployment: Deployment, run: Run, *, escalate: bool = False) -> Iterator[ShardRecord]:
    """End a run's expired leases; those shards as they are then, PENDING or FAILED."""
    for record in deployment.for_a_while(
        deployment.ledger.shards.expired(run.run_id, ShardState.RUNNING, deployment.clock.now_s())
    ):
        larger = next_of(run.options.engine, record.engine) if escalate else ""
        if now := deployment.ledger.attempts.expire(record, run.options.max_attempts, larger):
            yield now
