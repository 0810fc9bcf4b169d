"""From an event's tasks to their outcomes, in order; each task has a share of the invocation's time.

No task can use up the time of later ones. Each has an equal share of the remaining time, but at least ``MIN_SHARE_S``.
With each redelivery of a message this minimum is four times as long, up to half of the invocation, since the share may
have been too short. A task for which less remains does not start, and its message comes back: the
source delivers it again. The first task always starts.
"""

import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparklet.errors import DeadlineExceededError, EventError, ScriptError, SettingsError, SparkletError
from sparklet.events import Outcome, Source, Task
from sparklet.events.sqs import as_one, failed_messages, joined
from sparklet.job.event_objects import event_objects
from sparklet.log import Log
from sparklet.spark.runner import Deadline
from sparklet.worker.attempt import Attempt, Claims, make_attempt, return_message
from sparklet.worker.executor import Executor
from sparklet.worker.shards import ShardClaims
from sparklet.worker.task_requests import RequestClaims

S3_EVENT_SOURCES = (Source.S3, Source.SNS, Source.SQS, Source.EVENTBRIDGE)  # they deliver S3 events
MIN_TIME_S = 1.0  # no task starts with less time than this before its deadline
MIN_SHARE_S = 60.0  # enough for a cold JVM and a small record
GROWTH = 4.0  # the factor of the minimum share, each time that a message comes back
MAX_GROWTHS = 10
MAX_CAUSES = 5  # causes of failed messages that an error lists


def _split_by_commit(task: Task, committed: Sequence[str]) -> tuple[Task, ...]:
    """Split a batch into two tasks, the messages whose rows a table already has, and the others; () if one is empty.

    Both are run. Also for messages whose rows are in the table, a lost script may not have done all of its work.
    """
    committed_messages = [message for message in task.messages if message.record_ids[0] in committed]
    other_messages = [message for message in task.messages if message.record_ids[0] not in committed]
    if not (committed_messages and other_messages):
        return ()
    return tuple(as_one(half, sparklet={"committed": [*committed]}) for half in (committed_messages, other_messages))


@dataclass
class Worker:
    """Does tasks one after the other."""

    executor: Executor
    shards: ShardClaims | None  # None: no ledger is configured
    requests: RequestClaims | None  # None: no ledger is configured
    log: Log

    def do(
        self, tasks: Sequence[Task], deadline: Deadline, request_id: str, now_s: Callable[[], float] = time.time
    ) -> list[Outcome]:
        """Do the tasks of one event; if a message comes back, the rest of its FIFO group comes back without a try."""
        chosen_handling = (tasks[0].chosen or {}).get("batch_handling") if tasks else None
        handling = chosen_handling or self.executor.settings.batch_handling
        if tasks and tasks[0].source is Source.SQS and handling == "batch":
            # Outputs are looked for before the messages are joined: a batch is skipped only if all its objects are
            # outputs of this function.
            tasks = joined([replace(task, skip=task.skip or self._own_output_reason(task)) for task in tasks])
        outcomes: list[Outcome] = []
        held_groups: dict[str, Outcome] = {}  # by FIFO group with a message that comes back: the first one's outcome
        todo, index, whole_s = deque(tasks), -1, deadline.remaining_s(now_s())
        while todo:
            task, index = todo.popleft(), index + 1
            messages = task.messages or (task,)
            for message in (message for message in messages if message.group in held_groups):
                # A message must not overtake an earlier one of its group that comes back, and Lambda deletes each
                # message that is not reported as failed.
                outcomes.append(Outcome(message, held_groups[message.group].error, acknowledged=False))
                reason = "not run: an earlier message of its group comes back"
                self.log.warning(reason, record=message.record_ids[0], group=message.group)
            if not (free_messages := [message for message in messages if message.group not in held_groups]):
                continue
            task = as_one(free_messages) if len(free_messages) < len(messages) else task
            min_s = min(MIN_SHARE_S * GROWTH ** min(task.receive_count - 1, MAX_GROWTHS), whole_s / 2)
            left_s = deadline.remaining_s(now_s())
            share_s = 0.0 if index > 0 and left_s < min_s else max(left_s / (len(todo) + 1), min_s)
            outcome = self.run(task, deadline.share(share_s, now_s()), request_id)
            # The parts come next and in order: in a FIFO queue no later message may be done before them.
            todo.extendleft(reversed(outcome.parts))
            if not outcome.parts:
                outcomes.append(outcome)
                returned_ids = () if outcome.acknowledged else outcome.task.record_ids
                in_groups = (message for message in free_messages if message.group)
                held_groups |= {
                    message.group: outcome for message in in_groups if message.record_ids[0] in returned_ids
                }
        return outcomes

    def run(self, task: Task, deadline: Deadline, request_id: str) -> Outcome:
        """Do one task. A SparkletError becomes part of the outcome; any other error is a bug and is raised."""
        fields: dict[str, Any] = {"request_id": request_id, "attempt": uuid.uuid4().hex[:12]}
        claims: Claims | None = None
        if task.record_ids:
            fields["record"] = task.record_ids[0]
        if task.shard is not None:
            fields |= {"run": task.shard.run_id, "shard": task.shard.shard}
            claims = self.shards
        elif task.request is not None:
            fields["task"] = task.request.task_id
            claims = self.requests
        elif task.invocation:
            fields |= {"run": task.invocation, "shard": 0}  # `sparklet logs` finds the lines by these fields
        attempt = Attempt(fields["attempt"], task, deadline, self.log.bind(**fields))
        claimable = task.shard is not None or task.request is not None
        if reason := task.skip or ("" if claimable else self._own_output_reason(task)):
            attempt.log.warning("nothing is run for this event", reason=reason)
            return Outcome(task, answer={"state": "SKIPPED", "reason": reason})
        # Checked before the claim, which would count an attempt that can do nothing.
        if deadline.remaining_s() < MIN_TIME_S:
            return self._put_back(attempt, claims)
        if not claimable:
            return self._without_ledger(attempt)
        if claims is None:
            error = SettingsError("the task needs a ledger, but SPARKLET_LEDGER_TABLE and SPARKLET_BUCKET are not set")
            attempt.log.error(str(error))
            return Outcome(task, error, acknowledged=False)
        return make_attempt(claims, attempt)

    def _put_back(self, attempt: Attempt, claims: Claims | None) -> Outcome:
        """Make the task's message visible again at once, without counting an attempt."""
        error = DeadlineExceededError(
            "too little time is left in this invocation; the record goes back without an attempt"
        )
        attempt.log.warning(str(error))
        if claims is not None:
            return_message(claims, attempt, 0)
        return Outcome(attempt.task, error, acknowledged=False)

    def _without_ledger(self, attempt: Attempt) -> Outcome:
        """Do a task that needs no claim; each failure is reported to the task's source."""
        task, log = attempt.task, attempt.log
        if task.problem is not None:
            log.error("the record cannot be read", error=str(task.problem))
            return Outcome(task, task.problem, acknowledged=False)
        try:
            result = self.executor.execute_task(attempt)
            outcome = result.outcome
            may_have_failed = task.source is Source.SQS and (outcome.failed or outcome.answer)
            failed = failed_messages(task, outcome.failed, *outcome.answer) if may_have_failed else {}
        except SparkletError as error:
            log.error("task failed", error_class=type(error).__name__, error=str(error))
            parts = _split_by_commit(task, getattr(error, "committed", ()))
            return Outcome(task, error, acknowledged=False, parts=parts)
        log.info("task succeeded", rows=outcome.rows)
        answer: dict[str, Any] = {"state": "SUCCEEDED", "attempt": attempt.attempt_id, "rows": outcome.rows}
        answer |= {"output_bytes": outcome.output_bytes, "outputs": list(outcome.outputs)}
        if result.warning:
            answer["warning"] = result.warning
        if outcome.answer:
            answer["answer"] = outcome.answer[0]
        if not failed:
            return Outcome(task, answer=answer, state=outcome.state)
        for message_id, cause in failed.items():
            log.error("message failed", record=message_id, cause=cause)
        causes = "; ".join(f"{message_id}: {cause}" for message_id, cause in [*failed.items()][:MAX_CAUSES])
        partial_failure = ScriptError(f"{len(failed)} of {len(task.record_ids)} messages failed; {causes}")
        returned_task = as_one([message for message in task.messages or [task] if message.record_ids[0] in failed])
        return Outcome(returned_task, partial_failure, acknowledged=False, answer=answer)

    def _own_output_reason(self, task: Task) -> str:
        """Why no script is run for an S3 event: all its objects are this function's outputs, so it would call itself.

        "" if a script is to be run.
        """
        if task.source not in S3_EVENT_SOURCES or task.chosen or task.shard or task.request:
            return ""
        try:
            uris = event_objects(task.event)
        except EventError:
            return ""  # the script will report the error
        # A script is run for an event that also names another object: else that object would be lost.
        if uris and all(uri.startswith(self.executor.settings.output_prefixes) for uri in uris):
            return f"its object is an output of this function: {uris[0][:200]}"
        return ""
