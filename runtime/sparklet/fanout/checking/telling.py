"""Whoever wants to hear is told how a run ended: after its end, at least once, and never at the expense of the run.

That nobody was told yet stands in the ledger, so a checker that dies in between is made good by the next one.
"""

from sparklet.errors import NoticeError
from sparklet.fanout.checking.follow_ups import checked, next_run
from sparklet.fanout.checking.manifest import MANIFEST
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.planning.follow_up_ids import is_check
from sparklet.fanout.reporting.figures import figures
from sparklet.fanout.reporting.summary import Summary, summarize
from sparklet.model import Notice, Run

TOLD_WITHIN_S = 24 * 3600.0  # a notice that cannot be sent for so long is not sent any more


def owes_notice(at: Deployment, run: Run) -> bool:
    """Whether somebody is still to be told of a run's end; of a check run its parent's notice tells."""
    if at.notifier is None or not run.state.ended or run.notified_s is not None or is_check(run.run_id):
        return False
    return at.clock.now_s() - (run.ended_s or run.created_s) <= TOLD_WITHIN_S


def is_time_to_tell(at: Deployment, run: Run) -> bool:
    """Whether a scheduled check should tell now: ever more seldom, since telling costs a pass over all shards.

    At 0, 1, 2, 4, 8, … minutes after the end, and each time in the minute after it, should a check have come late.
    """
    if not owes_notice(at, run):
        return False
    minutes = max(0, int((at.clock.now_s() - (run.ended_s or run.created_s)) // 60))
    return any(power & (power - 1) == 0 for power in (minutes, minutes - 1))


def tell(at: Deployment, run: Run, summary: Summary | None = None) -> str:
    """Tell how a run ended and note that; why nobody could be told, "" if all went well."""
    if at.notifier is None:
        return ""
    summary = summary or summarize(run, at.ledger)
    judged, follower = checked(at, run), next_run(at, run)
    follow_ups = {
        "check": judged.to_document() if judged else None,
        "next_run_id": follower.run_id if follower else "",
        "manifest": at.run_uri(run.run_id, MANIFEST),
    }
    try:
        at.notifier.notify(Notice.of_run(run, {**figures(run, summary), **follow_ups}))
    except NoticeError as error:
        return str(error)
    at.ledger.runs.mark_notified(run.run_id, run.generation)
    return ""
