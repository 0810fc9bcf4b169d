"""After the end of a run: its notice is sent at least once, then the run is finalized.

The ledger records which notices were sent, so after a crash the next check continues. A run is unfinalized from its
creation until it has ended and its notice was sent: so the cost of a check depends on the open runs, not on the number
of all runs (docs/decisions/0079).
"""

from collections.abc import Iterable, Sequence

from sparklet.errors import NoticeError
from sparklet.model import Notice, Run
from sparklet.ports.deployment import Deployment
from sparklet.runs.manifest import MANIFEST
from sparklet.runs.phases import outcome
from sparklet.runs.summary import Summary, summarize

NOTIFY_WITHIN_S = 24 * 3600.0  # after the end
MAX_FINALIZED = 20  # a check


def needs_notice(deployment: Deployment, run: Run) -> bool:
    """Whether the notice of a run's end must still be sent; check and commit runs have none."""
    if deployment.notifier is None or not run.state.ended or run.notified_s is not None or run.is_task:
        return False
    return deployment.clock.now_s() - (run.ended_s or run.created_s) <= NOTIFY_WITHIN_S


def is_notice_due(deployment: Deployment, run: Run) -> bool:
    """Whether a scheduled check should send the notice: 0, 1, 2, 4, 8, … minutes after the end, or a minute later."""
    if not needs_notice(deployment, run):
        return False
    minutes = max(0, int((deployment.clock.now_s() - (run.ended_s or run.created_s)) // 60))
    return any(power & (power - 1) == 0 for power in (minutes, minutes - 1))


def notify(deployment: Deployment, run: Run, summary: Summary | None = None) -> str:
    """Send the notice of a run's end and record that; why it could not be sent, "" if it was."""
    if deployment.notifier is None:
        return ""
    summary = summary or summarize(deployment, run)
    document = outcome(deployment, run, summary) | {"manifest": deployment.run_uri(run.run_id, MANIFEST)}
    try:
        deployment.notifier.notify(Notice.of_run(run, document))
    except NoticeError as error:
        return str(error)
    deployment.ledger.runs.mark_notified(run.run_id, run.generation)
    return ""


def due(deployment: Deployment, unfinalized: Iterable[Run]) -> Sequence[Run]:
    """Runs that need a check: open ones, first those with a sealed plan, then ended ones whose notice is due."""
    runs = [run for run in unfinalized if not run.state.ended or is_notice_due(deployment, run)]
    return sorted(runs, key=lambda run: (run.state.ended, not run.sealed))


def finalizable(deployment: Deployment, unfinalized: Iterable[Run]) -> Sequence[Run]:
    """Ended runs whose notice is not due any more, the oldest end first, at most ``MAX_FINALIZED``."""
    ended = [run for run in unfinalized if run.state.ended and not needs_notice(deployment, run)]
    return sorted(ended, key=lambda run: run.ended_s or run.created_s)[:MAX_FINALIZED]
