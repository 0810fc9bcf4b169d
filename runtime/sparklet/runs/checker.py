"""Checks a run: only here a run moves on without a worker. Begin here to read ``sparklet.runs``.

A check does, in this order, what the run needs: it ends expired leases and sends those shards' messages again, fails
shards at the time limit, splits those that fail because of some inputs (``splitting``), replaces lost messages, starts
engines' workers, continues a dead planner's plan, and ends the run: its last phases, manifests, notice (``phases``,
``manifest``, ``notices``).

The checker function checks every open run each minute; commands that wait for a run and state machines do it more
often. A check never reads the queue: the ledger shows which shard needs a message, and the claim rejects a
superfluous one. The index finds shards, conditional writes decide, and only a strongly consistent count ends a run.
Each step can be repeated: after a crash between any two steps the next check continues.
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
from sparklet.planning.plan_files import BY_QUEUE, claim_dispatch, index_info
from sparklet.planning.planner import plan, send_messages
from sparklet.ports import metrics
from sparklet.ports.deployment import Deployment
from sparklet.runs.cancel import cancel_followers, give_up, seal_as_it_is
from sparklet.runs.dispatch import (
    MESSAGE,
    RUN_TIME_LIMIT,
    end_leases,
    give_up_all,
    has_sent_messages,
    has_stalled,
    send_up_to_cap,
    start_workers,
    stop_workers,
)
from sparklet.runs.manifest import needs_notice, notify, own_manifest, write_manifests
from sparklet.runs.phases import EndingRun, commit_early, end_state, open_task
from sparklet.runs.redrive import reopen
from sparklet.runs.splitting import split_failing
from sparklet.runs.summary import Drift, Summary, drift_of, final_state

MAX_WAITING_READ = 100  # how many of the longest waiting PENDING shards are read before all shards are
PLANNER_SILENT_S = 600.0  # a planner that has sealed no part for so long is presumed dead; two planners do no harm
UNPLANNED_S = 60.0  # the same for a next run without any part: its driver should have started at once


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What one check found and did."""

    run: Run  # as it is after the check
    counts: Counts  # from the index, before the check; from the base table once the run has ended
    expired: int = 0  # leases that were ended
    requeued: int = 0  # messages that were sent again, since they seemed lost
    abandoned: int = 0  # shards that were failed at the run's time limit, or because the run was cancelled
    started: int = 0  # workers of engines that were started
    trouble: str = ""  # why other workers could not be started; the next check tries again
    planned: bool = False  # whether a dead planner's plan was continued
    summary: Summary | None = None  # set by the check that wrote the manifests
    just_ended: bool = False  # whether this check ended the run
    unnotified: str = ""  # why the notice of the run's end was not sent; later checks try again


def check(deployment: Deployment, run_id: str, *, planner_silent_s: float = PLANNER_SILENT_S) -> CheckReport:
    """Do what a run needs now; continue its plan if no part was sealed for ``planner_silent_s``."""
    report = _check_once(deployment, deployment.ledger.runs.get(run_id), planner_silent_s)
    _measure(deployment, report)
    return report


def _check_once(deployment: Deployment, run: Run, planner_silent_s: float) -> CheckReport:
    if run.state.ended:
        return _check_ended(deployment, run)
    if run.cancelled_s is not None:
        return _finish_cancelled(deployment, run)
    parts = () if run.sealed else tuple(deployment.ledger.runs.parts(run.run_id))
    expired = _expire(deployment, run)
    abandoned = _abandon_overdue(deployment, run)
    split_failing(deployment, run)
    counts = deployment.ledger.shards.glance(run.run_id)
    # A living planner sends the messages for its undispatched parts itself, so none are sent from this shard on.
    first_undispatched = next((part.first_shard for part in parts if not part.dispatched), inf)
    requeued = _requeue(deployment, run, counts, first_undispatched)
    started, trouble = start_workers(deployment, run)
    report = CheckReport(run, counts, expired, requeued, abandoned, started, trouble)
    # Once all shards have ended, the commit at the run's end includes what is left: an early one would be superfluous.
    if (counts.open or not run.sealed) and (early := commit_early(deployment, run, counts)):
        _checked_follower(deployment, early)
    if not run.sealed:
        return _continue_planning(deployment, report, parts, planner_silent_s)
    return report if counts.open else _finish(deployment, report)


def _check_ended(deployment: Deployment, run: Run) -> CheckReport:
    """Reopen an ended run that has open shards; else write its manifests if they are lost, and send a due notice."""
    counts = deployment.ledger.shards.count(run.run_id) if run.generation else None
    if counts and counts.open:  # a check has ended the run between a redrive's new generation and its first shard
        return CheckReport(reopen(deployment, run, stays_cancelled=run.state is RunState.CANCELLED), Counts())
    summary = None if own_manifest(deployment, run) else write_manifests(deployment, run, run.state)
    unnotified = notify(deployment, run, summary) if needs_notice(deployment, run) else ""
    if counts is None:
        counts = summary.counts if summary else deployment.ledger.shards.count(run.run_id)
    return CheckReport(run, counts, summary=summary, unnotified=unnotified)


def _finish_cancelled(deployment: Deployment, run: Run) -> CheckReport:
    """Fail all PENDING shards, and end the run once none is RUNNING."""
    cancel_followers(deployment, run)
    try:
        run = seal_as_it_is(deployment, run)
    except SparkletError:
        # A plan file that cannot be read now may be readable later. At the time limit it is treated as lost, or the run
        # would never end.
        if not _is_overdue(deployment, run) or deployment.ledger.shards.count(run.run_id).open:
            raise
        return _end_run(deployment, CheckReport(run, Counts()), RunState.CANCELLED)
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
    """End expired leases, send messages for the shards that are PENDING after that, and return how many leases."""
    states: Counter[ShardState] = Counter()

    def shards_after_leases() -> Iterator[ShardRecord]:
        for record in end_leases(deployment, run, escalate=True):
            states[record.state] += 1
            yield record

    # Leases are ended while the messages are sent. If the check is killed in between, shards are PENDING without a
    # message, and a later check sends it.
    send_messages(deployment, run, shards_after_leases(), by_check=True)
    deployment.measure(metrics.SHARDS_FAILED, states[ShardState.FAILED])
    return states.total()


def _requeue(deployment: Deployment, run: Run, counts: Counts, first_undispatched: float) -> int:
    """Send messages again for shards that still wait although no other shard of the run moves; return how many.

    To see whether any shard moves all shards are read, so this is done only if one of the longest waiting shards is due
    for another message. That time doubles with each message, so while a run waits for another run its shards are read
    only a few times in hours.
    """
    if run.has_map and not run.sealed:
        return 0  # the Map begins after the plan
    if run.options.max_concurrency and (not run.has_map or has_sent_messages(deployment, run)):
        return send_up_to_cap(deployment, run)
    # While a shard is RUNNING, workers take shards from the queue or the Map: a waiting one is probably behind others,
    # and not lost.
    if not counts.pending or (counts.running and _runs_in_functions(deployment, run)):
        return 0
    now_s = deployment.clock.now_s()
    since_s = now_s - MESSAGE.again_after_s
    if run.has_map and (index := index_info(deployment, run)) and index.modified_s > since_s:
        return 0  # the Map's first workers may still be starting

    def waiting() -> Iterator[ShardRecord]:
        records = deployment.within_time_limit(
            deployment.ledger.shards.expired(run.run_id, ShardState.PENDING, since_s)
        )
        return (record for record in records if record.is_for_functions and record.number < first_undispatched)

    is_due = any(MESSAGE.is_due(record, now_s) for record in islice(waiting(), MAX_WAITING_READ))
    if not is_due or not has_stalled(deployment, run, since_s):
        return 0
    if run.has_map:
        # Recorded, since a state machine that comes later would dispatch all shards again.
        claim_dispatch(deployment, run, BY_QUEUE)
    if run.options.max_concurrency:
        return send_up_to_cap(deployment, run)
    # Each message is counted before it is sent: after a crash in between the shard is due again later.
    counted_records = (
        deployment.ledger.attempts.count_requeue(record) for record in waiting() if MESSAGE.is_due(record, now_s)
    )
    return send_messages(deployment, run, filter(None, counted_records), by_check=True)


def _runs_in_functions(deployment: Deployment, run: Run) -> bool:
    """Whether a shard is RUNNING in a function; a shard in an engine, perhaps for hours, does not use the queue."""
    if not routes.leaves_functions(run.options):  # no shard can be in an engine, so they need not be read
        return True
    return any(record.by_function for record in deployment.ledger.shards.list(run.run_id, ShardState.RUNNING))


def _continue_planning(
    deployment: Deployment, report: CheckReport, parts: tuple[PartRecord, ...], planner_silent_s: float
) -> CheckReport:
    """Continue the plan if its planner is silent; end the run as FAILED if its plan can never be completed."""
    run = report.run
    if run.parent and not parts:
        planner_silent_s = min(planner_silent_s, UNPLANNED_S)
    if deployment.clock.now_s() - _planner_seen_s(deployment, run, parts) < planner_silent_s:
        return report
    try:
        return replace(report, run=plan(deployment, run.run_id), planned=True)
    except CheckpointConflictError:
        return report  # the planner is alive
    except SparkletError as error:
        no_schema = run.params.get(SCHEMA) == INFER and not run.schema and isinstance(error, PlanError)
        is_final = no_schema or isinstance(error, UnplannableError) or _is_overdue(deployment, run)
        # Workers may still have shards of sealed parts. The run ends after these: its manifest must have their states.
        if not is_final or deployment.ledger.shards.count(run.run_id).open:
            raise
        return _end_run(deployment, report, RunState.FAILED)


def _planner_seen_s(deployment: Deployment, run: Run, parts: tuple[PartRecord, ...]) -> float:
    """When the planner wrote its last part; the run's creation if there is no part."""
    if not parts:
        return run.created_s
    try:
        # A sealed part has no time in the ledger, but its file was written just before it was sealed.
        written_s = deployment.store.head(deployment.part_uri(run.run_id, parts[-1].part)).modified_s
    except ObjectNotFoundError:
        return run.created_s
    return max(run.created_s, written_s)


def _is_overdue(deployment: Deployment, run: Run) -> bool:
    return deployment.clock.now_s() >= run.created_s + run.options.time_limit_s


def _abandon_overdue(deployment: Deployment, run: Run) -> int:
    """Fail PENDING shards at the time limit, and return how many.

    The time counts from the run's creation, or from the last change of a redriven shard.
    """
    if not _is_overdue(deployment, run):
        return 0
    now_s, limit_s = deployment.clock.now_s(), run.options.time_limit_s
    why = f"not done within the run's time limit of {limit_s:.0f} s"

    def has_time(record: ShardRecord) -> bool:
        # Before most redrives the run's own time is long over: their shards would fail at the first check.
        return record.generation > 0 and now_s < record.changed_s + limit_s

    return give_up_all(deployment, run, RUN_TIME_LIMIT, why, has_time)


def _finish(deployment: Deployment, report: CheckReport) -> CheckReport:
    """End the run if, by a strongly consistent count, every shard has ended, and so have its check and commit runs."""
    run, drive = report.run, partial(_checked_follower, deployment)
    # A check or commit run was entered after all shards had ended: they need not be counted again while it is open.
    task = open_task(deployment, run) if run.cancelled_s is None else None
    if task and not drive(task).state.ended:
        return report
    counts = deployment.ledger.shards.count(run.run_id)
    # The index showed that all shards have ended, but it lags. A split adds shards and changes the run's shard_count in
    # one transaction, while a count reads shards one by one: so shard_count is read after the count, and must agree.
    if counts.open or counts.total != deployment.ledger.runs.get(run.run_id).shard_count:
        return report
    drift = drift_of(deployment, run)
    state = final_state(run, counts, drift)
    if run.cancelled_s is None and counts.total and state is not RunState.FAILED:
        try:
            state_after_phases = end_state(deployment, EndingRun(run, counts, state, drive))
        except CheckpointConflictError:
            return report  # the run was cancelled or redriven since: the next check decides anew
        if state_after_phases is None:
            return report
        state = state_after_phases
    return _end_run(deployment, report, state, counts, drift)


def _checked_follower(deployment: Deployment, follower: Run) -> Run:
    """Check a run for which the checked run waits, which also continues its plan; return it as it is after that."""
    return follower if follower.state.ended else check(deployment, follower.run_id, planner_silent_s=0.0).run


def _end_run(
    deployment: Deployment,
    report: CheckReport,
    state: RunState,
    counts: Counts | None = None,
    drift: Drift | None = None,
) -> CheckReport:
    """Write the manifests, then end the run: after a crash in between, the next check writes them again.

    It also does so if a shard has been split since ``counts`` was read: a DynamoDB transaction's items become
    visible one by one.
    """
    # Read anew: this check may have entered followers, which the manifest must name.
    run = replace(report.run, followers=deployment.ledger.runs.get(report.run.run_id).followers)
    summary = write_manifests(deployment, run, state, drift)
    # The ledger ends no run that was cancelled, redriven or split since: the next check decides anew.
    latest_run = deployment.ledger.runs.finish(run.run_id, run.generation, state, counts.total if counts else None)
    is_same_redrive = latest_run.state.ended and latest_run.generation == run.generation > 0
    # Other counts show that a redrive has moved shards since.
    if counts and is_same_redrive and deployment.ledger.shards.count(run.run_id) != counts:
        latest_run = reopen(deployment, latest_run, stays_cancelled=state is RunState.CANCELLED)
    if latest_run.generation != run.generation and latest_run.state.ended:
        summary = write_manifests(deployment, latest_run, latest_run.state)  # a redrive began and ended meanwhile
    # Schema, check and commit runs claim no output.
    if latest_run.state.ended and not run.is_task:
        release_outputs(deployment, latest_run)
    unnotified = notify(deployment, latest_run, summary) if needs_notice(deployment, latest_run) else ""
    report = replace(report, run=latest_run, counts=summary.counts, summary=summary)
    return replace(report, just_ended=latest_run.state.ended, unnotified=unnotified)


def log_unnotified(report: CheckReport) -> None:
    """Log that the notice of a run's end was not sent; an alarm counts these lines."""
    if report.unnotified:
        Log().error("a notice was not sent", subject=report.run.run_id, error=report.unnotified)
