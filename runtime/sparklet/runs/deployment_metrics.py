"""What the scheduled checker measures of the whole deployment."""

from collections.abc import Iterable, Sequence
from itertools import islice

from sparklet import metrics
from sparklet.errors import SparkletError
from sparklet.log import Log
from sparklet.model import SCHEME, Run, ShardState
from sparklet.ports.deployment import Deployment
from sparklet.runs.checker import CheckReport
from sparklet.runs.notices import finalizable

MAX_LOOKED_AT = 1000  # shards that wait for engines, before one that does not
MAX_STORED = 1000  # dead-letter messages, one page of a listing


def measure_deployment(at: Deployment, unfinalized: Iterable[Run], reports: Sequence[CheckReport]) -> None:
    """Measure the deployment after a round of checks, and finalize ended runs. A failure is only logged."""
    still_open = [report for report in reports if not report.run.state.ended]
    at.measure(metrics.RUNS_OPEN, len(still_open))
    at.measure(metrics.SHARDS_PENDING, sum(report.counts.pending for report in still_open))
    at.measure(metrics.SHARDS_RUNNING, sum(report.counts.running for report in still_open))
    try:
        at.measure(metrics.OLDEST_OPEN_SHARD, max((_waiting_s(at, report) for report in still_open), default=0.0))
        at.measure(metrics.DEAD_LETTERS_STORED, stored_dead_letters(at))
        for run in finalizable(at, unfinalized):
            at.ledger.runs.finalize(run)
    except SparkletError as error:
        Log().warning("the deployment could not be looked over", subject="deployment", error=str(error))


def stored_dead_letters(at: Deployment) -> int:
    """How many unreadable messages are under ``dead-letters/``, by one page of a listing."""
    return sum(1 for _ in islice(at.store.list(f"{SCHEME}{at.bucket}/dead-letters/"), MAX_STORED))


def _waiting_s(at: Deployment, report: CheckReport) -> float:
    """How long the longest waiting PENDING shard has waited, by the first bucket of the index, a sample."""
    if not report.counts.pending:
        return 0.0
    now_s = at.clock.now_s()
    there = at.ledger.shards.for_engines(report.run.run_id)
    first = islice(at.ledger.shards.expired(report.run.run_id, ShardState.PENDING, now_s), MAX_LOOKED_AT)
    here = (record for record in first if not record.engine)
    return max((now_s - oldest.changed_s for each in (there, here) for oldest in islice(each, 1)), default=0.0)
