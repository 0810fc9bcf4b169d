"""From a task to its outcome: which script, under which name, with or without a ledger."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparklet.errors import DeadlineExceededError, EventError, SettingsError, SparkletError
from sparklet.events import Order, Outcome, Source, Task
from sparklet.job.event_objects import event_objects
from sparklet.model import ShardResult
from sparklet.settings import WorkerSettings, script_environment, strings
from sparklet.worker.batch import do_batch
from sparklet.worker.execution import Execution, execute
from sparklet.worker.guards import Deadline
from sparklet.worker.log import Log
from sparklet.worker.runner import Runner
from sparklet.worker.script_cache import ScriptCache
from sparklet.worker.shards import ShardDesk
from sparklet.worker.tasks import TaskDesk

OF_OBJECTS = (Source.S3, Source.SNS, Source.SQS, Source.EVENTBRIDGE)  # what events of S3 come by
LEAST_TIME_S = 1.0  # with less than this before the deadline no further task of a batch is begun


@dataclass
class Worker:
    """Does tasks one after the other; one outcome for each, whatever happens."""

    settings: WorkerSettings
    runner: Runner
    scripts: ScriptCache
    shards: ShardDesk | None  # None: no ledger is configured
    log: Log
    tasks: TaskDesk | None = None  # None: no ledger, or nobody asks through the asynchronous API

    def do(self, tasks: Sequence[Task], deadline: Deadline, request_id: str) -> list[Outcome]:
        """Do the tasks of one event."""
        return do_batch(tasks, lambda task, share: self.run(task, share, request_id), deadline, self.log)

    def run(self, task: Task, deadline: Deadline, request_id: str) -> Outcome:
        """Do one task; a SparkletError becomes part of the outcome, anything else is a bug and passes."""
        attempt_id = uuid.uuid4().hex[:12]
        log = self.log.bind(request_id=request_id, attempt=attempt_id)
        if task.record_ids:
            log = log.bind(record=task.record_ids[0])
        if reason := task.skip or self._own_output(task):
            log.warning("nothing is run for this event", reason=reason)
            return Outcome(task, answer={"state": "SKIPPED", "reason": reason})
        if deadline.remaining_s() < LEAST_TIME_S:
            return self._put_back(task, log)
        if task.order is not None:
            return self._ordered(task, task.order, attempt_id, deadline, log.bind(task=task.order.task_id))
        if task.problem is not None:
            log.error("the record cannot be read", error=str(task.problem))
            return Outcome(task, task.problem, acknowledged=False)
        if task.shard is not None:
            return self._shard(task, attempt_id, deadline, log.bind(run=task.shard.run_id, shard=task.shard.shard))
        return self._plain(task, attempt_id, deadline, log)

    def execute(self, execution: Execution, deadline: Deadline, log: Log) -> ShardResult:
        """Run a script with this worker's runner and scratch space."""
        return execute(execution, self.runner, deadline, self.settings.scratch, self.settings.min_free_bytes, log)

    def _put_back(self, task: Task, log: Log) -> Outcome:
        """Let somebody else have the task at once: nothing was begun, no attempt is counted."""
        error = DeadlineExceededError("too little time was left in this invocation; the record goes back untouched")
        log.warning(str(error))
        if self.shards is not None and task.shard is not None:
            self.shards.put_back(task, log)
        if self.tasks is not None and task.order is not None:
            self.tasks.put_back(task, task.order, log)
        return Outcome(task, error, acknowledged=False)

    def _shard(self, task: Task, attempt_id: str, deadline: Deadline, log: Log) -> Outcome:
        if self.shards is None or task.shard is None:
            error = SettingsError("a shard message came, but SPARKLET_LEDGER_TABLE and SPARKLET_BUCKET are not set")
            return Outcome(task, error, acknowledged=False)
        return self.shards.do(task, task.shard, attempt_id, deadline, log)

    def _ordered(self, task: Task, order: Order, attempt_id: str, deadline: Deadline, log: Log) -> Outcome:
        if self.tasks is None:
            error = SettingsError("a task of the asynchronous API came, but SPARKLET_LEDGER_TABLE is not set")
            log.error(str(error))
            return Outcome(task, error, acknowledged=False)
        return self.tasks.do(task, order, attempt_id, deadline, log)

    def run_script(self, task: Task, attempt_id: str, deadline: Deadline, log: Log) -> ShardResult:
        """Run the script that a task is for, without a record of it."""
        script_uri, args = self._choose_script(task)
        script, env = self.scripts.fetch(script_uri), self._environment(task.chosen or {})
        execution = Execution(attempt_id, script_uri, script, task.event, args, env=env)
        return self.execute(execution, deadline, log)

    def _environment(self, wish: Mapping[str, Any]) -> Mapping[str, str]:
        """What the operator put beside scripts for this invocation: the event only says where it lies."""
        if "env" not in wish:
            return {}
        uri = str(wish["env"])
        text = self.scripts.fetch(uri).read_text(encoding="utf-8", errors="replace")
        return script_environment(strings({uri: text}, uri), uri)

    def _plain(self, task: Task, attempt_id: str, deadline: Deadline, log: Log) -> Outcome:
        """Without a ledger every failure goes back to the source."""
        try:
            result = self.run_script(task, attempt_id, deadline, log)
        except SparkletError as error:
            log.error("task failed", error_class=type(error).__name__, error=str(error))
            return Outcome(task, error, acknowledged=False)
        log.info("task succeeded", rows=result.rows)
        told = {"rows": result.rows, "output_bytes": result.output_bytes, "outputs": list(result.outputs)}
        given = {"answer": result.answer[0]} if result.answer else {}
        return Outcome(task, answer={"state": "SUCCEEDED", "attempt": attempt_id, **told, **given}, state=result.state)

    def _own_output(self, task: Task) -> str:
        """Why an event of S3 is not followed: about nothing but what this function writes, it would never end."""
        if task.source not in OF_OBJECTS or task.shard or task.order or task.chosen:
            return ""
        try:
            uris = event_objects(task.event)
        except EventError:
            return ""  # the script is told what is wrong with it
        if uris and all(uri.startswith(self.settings.output_prefixes) for uri in uris):
            return f"it is about an object that this function writes: {uris[0][:200]}"
        return ""

    def _choose_script(self, task: Task) -> tuple[str, tuple[str, ...]]:
        """The function's own script, or the one that a direct event or the API names under an allowed prefix."""
        wish: Any = task.chosen
        if wish is None and isinstance(task.event, dict) and (task.source is Source.DIRECT or task.order is not None):
            wish = task.event.get("sparklet")
        if isinstance(wish, dict) and "script" in wish:
            uri, args = wish["script"], wish.get("args", [])
            if not isinstance(uri, str) or not isinstance(args, list) or not all(isinstance(a, str) for a in args):
                raise EventError("the event's sparklet.script must be a URI and sparklet.args a list of strings")
            return uri, tuple(args)
        if not self.settings.default_script:
            raise SettingsError(
                "no script to run: set SCRIPT_LOCATION (or SCRIPT_BUCKET and SPARK_SCRIPT) on the function"
            )
        return self.settings.default_script, ()
