"""Checks a run: the only place where a run moves on without a worker. Begin to read ``sparklet.runs`` here.

A check does, in this order, what the run needs: it ends expired leases and sends those shards' messages again, fails
shards at the time limit, splits those that fail because of some inputs (``splitting``), replaces lost messages, starts
engines' workers, continues a dead planner's plan, and ends the run: its last phases, manifests, notice (``phases``,
``manifest``, ``notices``).

The checker function checks every open run each minute; commands that wait for a run and state machines do it more
often. A check never reads the queue: the ledger shows which shard needs a message, and the claim rejects a
superfluous one. The index finds shards, conditional writes decide, and only a strongly consistent count ends a run.
Each step may be repeated: after a crash between any two of them the next check continues.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import inf

from sparklet.errors import CheckpointConflictError, ObjectNotFoundError, PlanError, SparkletError, UnplannableError
from sparklet.job.fields import INFER, SCHEMA
from sparklet.log import Log
from sparklet.model import Counts, PartRecord, Run, RunState, ShardRecord, ShardState
from sparklet.planning import routes
from sparklet.planning.output_claims import release_outputs
from sparklet.planning.plan_files import BY_QUEUE, dispatches_first, index_info
from sparklet.planning.planner import plan, send_messages
from sparklet.ports import metrics
from sparklet.ports.deployment import Deployment
from sparklet.runs.cancel import cancel_followers, give_up, seal_as_it_is
from sparklet.runs.dispatch import (
    MESSAGE,
    RUN_TIME_LIMIT,
    end_leases,
    give_up_all,
    has_begun,
    has_stalled,
    send_up_to_cap,
    start_workers,
    stop_workers,
)
from sparklet.runs.manifest import needs_notice, notify, own_manifest, write_manifests
from sparklet.runs.phases import AtEnd, commit_early, end_state, open_task
from sparklet.runs.redrive import reopened
from sparklet.runs.splitting import split_failing
from sparklet.runs.summary import Drift, Summary, drift_of, final_state

WAITING_LOOKED_AT = 100  # PENDING shards, the longest waiting ones, before all shards are read
PLANNER_SILENT_S = 600.0  # then a planner is presumed dead; two planners do no harm
UNPLANNED_S = 60.0  # the same for a new next run, whose driver should have started at once


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What one check found and did."""

    run: Run  # as it is after the check
    counts: Counts  # of the index before the check; of the base table once the run has ended
    expired: int = 0  # leases
    requeued: int = 0  # messages sent again for shards whose message was lost
    abandoned: int = 0  # shards FAILED at the run's time limit, or because it was cancelled
    started: int = 0  # workers of engines
    trouble: str = ""  # why others could not be started; the next check tries again
    planned: bool = False  # a dead planner's work was continued
    summary: Summary | None = None  # set by the check that wrote the manifests
    just_ended: bool = False  # by this check
    unnotified: str = ""  # why the notice of its end was not sent; later checks try again


def check(deployment: Deployment, run_id: str, *, planner_silent_s: float = PLANNER_SILENT_S) -> CheckReport:
    """Do what a run needs now; its plan is continued if no part was sealed for ``planner_silent_s``."""
    report = _check_once(deployment, deployment.ledger.runs.get(run_id), planner_silent_s)
    _measure(deployment, report)
    return report


def _check_once(deployment: Deployment, run: Run, planner_silent_s: float) -> CheckReport:
    if run.state.ended:
        return _ended(deployment, run)
    if run.cancelled_s is not None:
        return _finish_cancelled(deployment, run)
    parts = () if run.sealed else tuple(deployment.ledger.runs.parts(run.run_id))
    expired = _expire(deployment, run)
    abandoned = _abandon_overdue(deployment, run)
    split_failing(deployment, run)
    counts = deployment.ledger.shards.glance(run.run_id)
    # A living planner sends the messages of its undispatched parts itself; a requeue would double all of them.
    planner_from = next((part.first_shard for part in parts if not part.dispatched), inf)  # it sends from there on
    requeued = _requeue(deployment, run, counts, planner_from)
    started, trouble = start_workers(deployment, run)
    report = CheckReport(run, counts, expired, requeued, abandoned, started, trouble)
    # Once all have ended, the commit of the run's end takes what is left, so an early one would only be one more.
    if (counts.open or not run.sealed) and (early := commit_early(deployment, run, counts)):
        _checked_follower(deployment, early)
    if not run.sealed:
        return _continue_planning(deployment, report, parts, planner_silent_s)
    return report if counts.open else _finish(deployment, report)


def _ended(deployment: Deployment, run: Run) -> CheckReport:
    """Write lost manifests of an ended run, and send its notice if that is still due; open it if it has open shards."""
    counts = deployment.ledger.shards.count(run.run_id) if run.generation else None
    if counts and counts.open:  # its end was a crash after shards were redriven
        return CheckReport(reopened(deployment, run, stays_cancelled=run.state is RunState.CANCELLED), Counts())
    summary = None if own_manifest(deployment, run) else write_manifests(deployment, run, run.state)
    unnotified = notify(deployment, run, summary) if needs_notice(deployment, run) else ""
    counts = counts or (summary.counts if summary else deployment.ledger.shards.count(run.run_id))
    return CheckReport(run, counts, summary=summary, unnotified=unnotified)


def _finish_cancelled(deployment: Deployment, run: Run) -> CheckReport:
    """Fail all PENDING shards, and end the run once none is RUNNING."""
    cancel_followers(deployment, run)
    try:
        run = seal_as_it_is(deployment, run)
    except SparkletError:
        # A plan file that cannot be read may only be out of reach now; at the time limit it counts as lost, or the run
        # would stay open for ever.
        if not _overdue(deployment, run) or deployment.ledger.shards.count(run.run_id).open:
            raise
        return _end(deployment, CheckReport(run, Counts()), RunState.CANCELLED)  # a part of its plan is lost
    stop_workers(deployment, run)
    abandoned = give_up(deployment, run)
    report = CheckReport(run, deployment.ledger.shards.glance(run.run_id), abandoned=abandoned)
    return report if report.counts.open else _finish(deployment, report)


def _measure(deployment: Deployment, report: CheckReport) -> None:
    unmeasured = report.summary.unmeasured if report.summary and report.just_ended else 0
    ended_well = report.run.state in (RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_FAILURES)
    for metric, value in (
        (metrics.LEASES_EXPIRED, report.expired),
        (metrics.MESSAGES_REQUEUED, report.requeued),
        (metrics.SHARDS_ABANDONED, report.abandoned),
        (metrics.SHARDS_FAILED, unmeasured),
        (metrics.RUNS_SUCCEEDED, report.just_ended and ended_well),
        (metrics.RUNS_FAILED, report.just_ended and report.run.state is RunState.FAILED),
    ):
        deployment.measure(metric, value)


def _expire(deployment: Deployment, run: Run) -> int:
    """End expired leases and send messages for shards that are PENDING then; return how many leases."""
    ended: Counter[ShardState] = Counter()

    def counted() -> Iterator[ShardRecord]:
        for record in end_leases(deployment, run, escalate=True):
            ended[record.state] += 1
            yield record

    # Leases end as the messages are sent. A check that is killed in between leaves shards PENDING without a message,
    # which a later check finds as waiting.
    send_messages(deployment, run, counted(), by_check=True)
    deployment.measure(metrics.SHARDS_FAILED, ended[ShardState.FAILED])
    return ended.total()


def _requeue(deployment: Deployment, run: Run, counts: Counts, planner_from: float) -> int:
    """Send messages again for shards that still wait although nothing of the run moves; how many.

    To find that, all shards are read, so it is done only if one of those that have waited longest is due. That time
    doubles with each message, so a run that waits for another one is read a few times in hours.
    """
    if run.has_map and not run.sealed:
        return 0  # the Map begins after that
    if run.options.max_concurrency and (not run.has_map or has_begun(deployment, run)):
        return send_up_to_cap(deployment, run)
    # While a shard is RUNNING the queue, or the Map, is being worked off: what waits is rather behind others than lost.
    if not counts.pending or (counts.running and _runs_in_functions(deployment, run)):
        return 0
    now_s = deployment.clock.now_s()
    since_s = now_s - MESSAGE.again_after_s
    if run.has_map and (index := index_info(deployment, run)) and index.modified_s > since_s:
        return 0  # its first workers may be starting

    def waiting() -> Iterator[ShardRecord]:
        records = deployment.for_a_while(deployment.ledger.shards.expired(run.run_id, ShardState.PENDING, since_s))
        return (record for record in records if record.is_for_functions and record.number < planner_from)

    is_due = any(MESSAGE.is_due(record, now_s) for record in islice(waiting(), WAITING_LOOKED_AT))
    if not is_due or not has_stalled(deployment, run, since_s):
        return 0
    if run.has_map:
        dispatches_first(deployment, run, BY_QUEUE)  # a machine that comes later would dispatch all of them again
    if run.options.max_concurrency:
        return send_up_to_cap(deployment, run)
    # Each is counted before its message is sent: after a crash the shard waits anew, and is due again later.
    counted = (
        deployment.ledger.attempts.count_requeue(record) for record in waiting() if MESSAGE.is_due(record, now_s)
    )
    return send_messages(deployment, run, filter(None, counted), by_check=True)


def _runs_in_functions(deployment: Deployment, run: Run) -> bool:
    """Whether a shard is RUNNING in a function: one in an engine, for hours perhaps, says nothing of the queue."""
    if not routes.leaves_functions(run.options):  # to tell them apart all shards are read
        return True
    return any(record.by_function for record in deployment.ledger.shards.list(run.run_id, ShardState.RUNNING))


def _continue_planning(
    deployment: Deployment, report: CheckReport, parts: tuple[PartRecord, ...], planner_silent_s: float
) -> CheckReport:
    run = report.run
    if run.parent and not parts:
        planner_silent_s = min(planner_silent_s, UNPLANNED_S)
    if deployment.clock.now_s() - _last_sign_s(deployment, run, parts) < planner_silent_s:
        return report
    try:
        return replace(report, run=plan(deployment, run.run_id), planned=True)
    except CheckpointConflictError:
        return report  # the planner is alive
    except SparkletError as error:
        no_schema = run.params.get(SCHEMA) == INFER and not run.schema and isinstance(error, PlanError)
        is_final = no_schema or isinstance(error, UnplannableError) or _overdue(deployment, run)
        # Workers may still have shards of sealed parts: the run ends after them, so that its manifest has their states.
        if not is_final or deployment.ledger.shards.count(run.run_id).open:
            raise
        return _end(deployment, report, RunState.FAILED)  # its plan cannot be finished, or its time is over


def _last_sign_s(deployment: Deployment, run: Run, parts: tuple[PartRecord, ...]) -> float:
    """When the planner's last part was written."""
    if not parts:
        return run.created_s
    try:
        # A sealed part has no time in the ledger; its file was written just before it.
        written_s = deployment.store.head(deployment.part_uri(run.run_id, parts[-1].part)).modified_s
    except ObjectNotFoundError:
        return run.created_s
    return max(run.created_s, written_s)


def _overdue(deployment: Deployment, run: Run) -> bool:
    return deployment.clock.now_s() >= run.created_s + run.options.time_limit_s


def _abandon_overdue(deployment: Deployment, run: Run) -> int:
    """Fail PENDING shards at the time limit, counted from the run's creation, or a redriven shard's last change."""
    if not _overdue(deployment, run):
        return 0
    now_s, limit_s = deployment.clock.now_s(), run.options.time_limit_s
    why = f"not done within the run's time limit of {limit_s:.0f} s"

    def has_time(record: ShardRecord) -> bool:
        # The run's own time is over long before most redrives, which would end at their first check.
        return record.generation > 0 and now_s < record.changed_s + limit_s

    return give_up_all(deployment, run, RUN_TIME_LIMIT, why, has_time)


def _finish(deployment: Deployment, report: CheckReport) -> CheckReport:
    """End the run if, by a strongly consistent count, every shard has ended, and so have its check and commit runs."""
    run, drive = report.run, partial(_checked_follower, deployment)
    # Entered after all shards had ended: no need to count again.
    task = open_task(deployment, run) if run.cancelled_s is None else None
    if task and not drive(task).state.ended:
        return report
    counts = deployment.ledger.shards.count(run.run_id)
    # The index said that all have ended, and it lags. A split adds shards and changes their number at once, but a count
    # reads them one by one, so the number is read after it and must agree.
    if counts.open or counts.total != deployment.ledger.runs.get(run.run_id).shard_count:  # read after the count
        return report
    drift = drift_of(deployment, run)
    state = final_state(run, counts, drift)
    if run.cancelled_s is None and counts.total and state is not RunState.FAILED:
        try:
            end = end_state(deployment, AtEnd(run, counts, state, drive))
        except CheckpointConflictError:
            return report  # it was cancelled or redriven since: the next check decides anew
        if end is None:
            return report
        state = end
    return _end(deployment, report, state, counts, drift)


def _checked_follower(deployment: Deployment, follower: Run) -> Run:
    """A run that the checked one waits for, after a check of that run, which also continues its plan."""
    return follower if follower.state.ended else check(deployment, follower.run_id, planner_silent_s=0.0).run


def _end(
    deployment: Deployment,
    report: CheckReport,
    state: RunState,
    counted: Counts | None = None,
    drift: Drift | None = None,
) -> CheckReport:
    """Write the manifests, then end the run: after a crash in between, the next check writes them again.

    So it does if a shard has been split since they were counted: DynamoDB shows a transaction's items one by one.
    """
    # This check may have entered what the manifest is to name.
    run = replace(report.run, followers=deployment.ledger.runs.get(report.run.run_id).followers)
    summary = write_manifests(deployment, run, state, drift)
    # Nothing happens if the run was cancelled, redriven or split since: the next check decides anew.
    ended = deployment.ledger.runs.finish(run.run_id, run.generation, state, counted.total if counted else None)
    is_its_end = ended.state.ended and ended.generation == run.generation > 0
    if (
        counted and is_its_end and deployment.ledger.shards.count(run.run_id) != counted
    ):  # a redrive has moved shards since
        ended = reopened(deployment, ended, stays_cancelled=state is RunState.CANCELLED)
    if ended.generation != run.generation and ended.state.ended:
        summary = write_manifests(deployment, ended, ended.state)  # a redrive began and ended meanwhile
    # Tasks have folders of their own, and claim none.
    if ended.state.ended and not run.is_task:
        release_outputs(deployment, ended)
    unnotified = notify(deployment, ended, summary) if needs_notice(deployment, ended) else ""
    report = replace(report, run=ended, counts=summary.counts, summary=summary)
    return replace(report, just_ended=ended.state.ended, unnotified=unnotified)


def log_unnotified(report: CheckReport) -> None:
    """Log that the notice of a run's end was not sent; an alarm counts these lines."""
    if report.unnotified:
        Log().error("a notice was not sent", subject=report.run.run_id, error=report.unnotified)
