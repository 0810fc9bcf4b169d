"""After the end of a run: its notice is sent at least once, never at the expense of the run; then it is finalized.

The ledger knows which notices were not sent yet, so a checker that dies in between is made good by the next one. A run
is unfinalized from its creation until it has ended, its notice was sent and its manifest was found right: what a check
costs depends on what is open, not on how many runs there ever were. See ``docs/decisions/0025``.
"""

from collections.abc import Collection, Iterable, Sequence

from sparklet.errors import NoticeError
from sparklet.model import Notice, Run
from sparklet.planning.deployment import Deployment
from sparklet.planning.outputs import is_check
from sparklet.runs.follow_ups import checked, next_run
from sparklet.runs.manifest import MANIFEST
from sparklet.runs.summary import Summary, figures, summarize

NOTIFY_WITHIN_S = 24 * 3600.0  # a notice that cannot be sent for so long is not sent any more
MAX_FINALIZED = 20  # a check


def owes_notice(at: Deployment, run: Run) -> bool:
    """Whether the notice of a run's end is still to be sent; that of a check run is its parent's."""
    if at.notifier is None or not run.state.ended or run.notified_s is not None or is_check(run.run_id):
        return False
    return at.clock.now_s() - (run.ended_s or run.created_s) <= NOTIFY_WITHIN_S


def is_notice_due(at: Deployment, run: Run) -> bool:
    """Whether a scheduled check should send the notice now: ever more seldom, since it costs a pass over all shards.

    At 0, 1, 2, 4, 8, … minutes after the end, and each time in the minute after it, should a check have come late.
    """
    if not owes_notice(at, run):
        return False
    minutes = max(0, int((at.clock.now_s() - (run.ended_s or run.created_s)) // 60))
    return any(power & (power - 1) == 0 for power in (minutes, minutes - 1))


def notify(at: Deployment, run: Run, summary: Summary | None = None) -> str:
    """Send the notice of a run's end and note that; why it could not be sent, "" if it was."""
    if at.notifier is None:
        return ""
    summary = summary or summarize(run, at.ledger.shards)
    check, follower = checked(at, run), next_run(at, run)
    follow_ups = {
        "check": check.to_document() if check else None,
        "next_run_id": follower.run_id if follower else "",
        "manifest": at.run_uri(run.run_id, MANIFEST),
    }
    try:
        at.notifier.notify(Notice.of_run(run, {**figures(run, summary), **follow_ups}))
    except NoticeError as error:
        return str(error)
    at.ledger.runs.mark_notified(run.run_id, run.generation)
    return ""


# --- finalizing ---


def due(at: Deployment, unfinalized: Iterable[Run]) -> Sequence[Run]:
    """Runs that need a check, newest first: those that have not ended, then ended ones whose notice is due.

    Among the open ones those still planned come last, since continuing a plan takes long.
    """
    runs = [run for run in unfinalized if not run.state.ended or is_notice_due(at, run)]
    return sorted(runs, key=lambda run: (run.state.ended, not run.sealed))


def finalizable(at: Deployment, unfinalized: Iterable[Run]) -> Sequence[Run]:
    """Ended runs that owe no notice, the oldest end first; the next check takes what is too many."""
    ended = [run for run in unfinalized if run.state.ended and not owes_notice(at, run)]
    return sorted(ended, key=lambda run: run.ended_s or run.created_s)[:MAX_FINALIZED]


def finalize(at: Deployment, runs: Iterable[Run], differing: Collection[str]) -> None:
    """Leave these ended runs alone from now on, but for those that differ; a redrive since they were read wins."""
    for run in runs:
        if run.run_id not in differing:
            at.ledger.runs.finalize(run)


def find_forgotten(at: Deployment) -> int:
    """Unfinalize those of the next few finalized runs that have not ended or owe a notice; how many.

    An older Sparklet may have entered or redriven a run without marking it.
    """
    found = 0
    for run in at.ledger.runs.next_finalized():
        if not run.state.ended or owes_notice(at, run):
            at.ledger.runs.unfinalize(run)
            found += 1
    return found
