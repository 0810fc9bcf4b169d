"""What the scheduled checker says of the whole deployment once it has looked after each run: gauges and differences."""

from collections.abc import Sequence

from sparklet.errors import SparkletError
from sparklet.fanout.checking.checker import CheckReport
from sparklet.fanout.checking.differences import Watch, at_a_glance, letters_in_keeping
from sparklet.fanout.checking.notices import finalizable, finalize
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.log import log
from sparklet.metrics import (
    DIFFERENCES,
    LETTERS_IN_KEEPING,
    OLDEST_OPEN_SHARD,
    RUNS_OPEN,
    SHARDS_PENDING,
    SHARDS_RUNNING,
)
from sparklet.model import Run, ShardState


def look_over(at: Deployment, unfinalized: Sequence[Run], reports: Sequence[CheckReport], watch: Watch) -> None:
    """Measure what stands, report differences that last, and finalize ended runs that show none.

    No open run depends on it, so a failure is only logged.

    Parameters
    ----------
    unfinalized
        The runs as they stood before they were checked.
    reports
        What the checks of those that needed one have found.
    """
    still_open = [report for report in reports if not report.run.state.ended]
    at.measure(RUNS_OPEN, len(still_open))
    at.measure(SHARDS_PENDING, sum(report.counts.pending for report in still_open))
    at.measure(SHARDS_RUNNING, sum(report.counts.running for report in still_open))
    try:
        at.measure(OLDEST_OPEN_SHARD, max((_waiting_s(at, report) for report in still_open), default=0.0))
        at.measure(LETTERS_IN_KEEPING, letters_in_keeping(at))
        ended = finalizable(at, unfinalized)
        found = tuple(at_a_glance(at, [(report.run, report.counts) for report in still_open], ended))
        finalize(at, ended, {each.subject for each in found})
        lasting = watch.look(found)
    except SparkletError as error:
        log("WARNING", "queue, ledger and results could not be compared", "deployment", error=str(error))
        return
    at.measure(DIFFERENCES, len(lasting))
    for each in lasting:
        log(
            "WARNING",
            "queue, ledger and results differ",
            each.subject,
            kind=each.kind,
            count=each.count,
            found=each.found,
        )


def _waiting_s(at: Deployment, report: CheckReport) -> float:
    """How long the longest-waiting PENDING shard has waited: of the index's first bucket, a sample of a large run."""
    if not report.counts.pending:
        return 0.0
    now_s = at.clock.now_s()
    oldest = next(iter(at.ledger.shards.expired(report.run.run_id, ShardState.PENDING, now_s)), None)
    return max(0.0, now_s - oldest.changed_s) if oldest else 0.0
