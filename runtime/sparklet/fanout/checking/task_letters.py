"""Dead letters of the asynchronous API: each ends its task as FAILED, with the last cause there is."""

from sparklet.errors import LeaseLostError, LedgerError, SettingsError
from sparklet.events import TaskRequest
from sparklet.fanout.checking.recovery import MOST_TRIES, LetterFate
from sparklet.fanout.deployment import Deployment
from sparklet.ledger_rules import is_held, task_failure
from sparklet.model import Notice, TaskRecord


def consume_task(at: Deployment, request: TaskRequest) -> LetterFate:
    """Bring the task of a dead letter to its end, and tell whoever wants to hear.

    Raises
    ------
    LeaseLostError
        If an attempt still holds the task: the letter must come back when it has ended or lapsed.
    LedgerError
        If the ledger did not answer.
    NoticeError
        If nobody could be told; the task has ended nevertheless.
    """
    if at.tasks is None:
        raise SettingsError("a letter of the asynchronous API came, but this deployment keeps no tasks")
    for _ in range(MOST_TRIES):
        was = at.tasks.get_task(request.task_id)
        record = was or TaskRecord(request.task_id, accepted_s=request.accepted_s)
        if record.state.ended:
            return LetterFate.DROPPED
        now_s = at.clock.now_s()
        if is_held(record, now_s):
            raise LeaseLostError(f"attempt {record.attempt_id} still holds task {request.task_id}")
        failed = record.failed(task_failure(record), now_s)
        if at.tasks.replace_task(failed, was):
            if at.notifier is not None:
                at.notifier.notify(Notice.of_task(failed))
            return LetterFate.FAILED
    raise LedgerError(f"task {request.task_id} changed {MOST_TRIES} times while its letter was read")
