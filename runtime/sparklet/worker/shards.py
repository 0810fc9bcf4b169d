"""A shard's way through a worker: claim → execute → succeed, fail or release, each step fenced by the ledger."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from sparklet.errors import (
    EventError,
    LeaseLostError,
    LedgerError,
    PlanError,
    SettingsError,
    SparkletError,
)
from sparklet.events import Outcome, Task
from sparklet.ledger_rules import LEASE_GRACE_S
from sparklet.metrics import (
    ATTEMPT_SECONDS,
    BYTES_READ,
    BYTES_WRITTEN,
    ROWS_WRITTEN,
    SHARDS_FAILED,
    SHARDS_RETRIED,
    SHARDS_SUCCEEDED,
    SHARDS_TURNED_AWAY,
    Meter,
    Metric,
)
from sparklet.model import (
    Access,
    Claim,
    ClaimStatus,
    Run,
    Shard,
    ShardRecord,
    ShardRef,
    ShardResult,
    ShardState,
)
from sparklet.ports import Clock, Ledger, ObjectStore, TaskQueue
from sparklet.s3_uri import SCHEME, split_uri
from sparklet.worker.execution import Execution
from sparklet.worker.guards import Deadline
from sparklet.worker.log import Log
from sparklet.worker.script_cache import ScriptCache
from sparklet.worker.shard_conf import InputSize
from sparklet.worker.staging import Staging, needs_staging
from sparklet.worker.verdicts import back_off_s, come_back, failure_of, persist

Execute = Callable[[Execution, Deadline, Log], ShardResult]


@dataclass
class ShardDesk:
    """Does shards: everything that stands between a message and the ledger's verdict."""

    ledger: Ledger
    store: ObjectStore
    queue: TaskQueue | None  # None: no message whose visibility could be changed
    scripts: ScriptCache
    bucket: str
    execute: Execute
    clock: Clock
    grace_s: float  # between the guard's deadline and the function's own
    log_stream: str = ""
    meter: Meter | None = None
    open_inputs: Callable[[Access], ObjectStore] | None = None  # stores for inputs that need another access
    _runs: dict[str, Run] = field(default_factory=dict)
    _regions: dict[str, str] = field(default_factory=dict)  # of buckets: "" where it is the worker's own

    def do(self, task: Task, ref: ShardRef, attempt_id: str, deadline: Deadline, log: Log) -> Outcome:
        """Bring the shard to its end, or say when it should come back."""
        try:
            run = self._run(ref)
            claim = self._claim(ref, run, attempt_id, deadline)
        except LedgerError as error:
            log.error("the ledger could not be asked for the shard", error=str(error))
            self._come_back(task, back_off_s(task.receive_count), log)
            return Outcome(task, error, acknowledged=False)
        log.info("claim answered", status=claim.status, attempts=claim.record.attempts)
        if claim.status is not ClaimStatus.GRANTED:
            return self._turned_away(task, claim, log)
        return self._granted(task, ref, run, claim, attempt_id, deadline, log)

    def put_back(self, task: Task, log: Log) -> None:
        """Make the message of a shard that was not claimed visible again."""
        self._come_back(task, 0, log)

    def _run(self, ref: ShardRef) -> Run:
        """The shard's run; read again when a generation is named that was not there yet."""
        run = self._runs.get(ref.run_id)
        if run is None or run.generation < ref.generation:
            run = self._runs[ref.run_id] = self.ledger.get_run(ref.run_id)
        if run.generation < ref.generation:
            raise LedgerError(
                f"run {ref.run_id} is at generation {run.generation}, but a message names {ref.generation}"
            )
        return run

    def _claim(self, ref: ShardRef, run: Run, attempt_id: str, deadline: Deadline) -> Claim:
        lease_s = max(1.0, self._function_end_s(deadline) - self.clock.now_s())
        return self.ledger.claim(ref, attempt_id, lease_s, run.options.max_attempts, self.log_stream)

    def _function_end_s(self, deadline: Deadline) -> float:
        """When Lambda ends this worker, whatever share of its time the shard has; no lease needs to be longer."""
        return deadline.end_s + self.grace_s

    def _turned_away(self, task: Task, claim: Claim, log: Log) -> Outcome:
        record = claim.record
        self._measure(SHARDS_FAILED if claim.status is ClaimStatus.EXHAUSTED else SHARDS_TURNED_AWAY)
        if claim.status is ClaimStatus.HELD:
            now_s = self.clock.now_s()
            end_s = record.lease_end_s if record.lease_end_s > now_s else record.lease_end_s + LEASE_GRACE_S
            self._come_back(task, max(1.0, end_s - now_s) + random.uniform(0, 5), log)
            held = LeaseLostError(
                f"shard {record.number} is held by attempt {record.attempt_id} until {record.lease_end_s:.0f}"
            )
            return Outcome(task, held, acknowledged=False)
        answer = {"shard": record.number, "claim": str(claim.status), "state": str(record.state)}
        if record.state is ShardState.FAILED:
            answer["error"] = f"{record.error_class}: {record.error_message}"
        return Outcome(task, answer=answer)

    def _granted(
        self, task: Task, ref: ShardRef, run: Run, claim: Claim, attempt_id: str, deadline: Deadline, log: Log
    ) -> Outcome:
        try:
            result = self.execute(self._execution(ref, run, claim.record, attempt_id), deadline, log)
            self._persist(lambda: self.ledger.succeed(ref.run_id, ref.shard, attempt_id, result), deadline, log)
        except LeaseLostError as error:
            log.error("the lease was lost; what this attempt did does not count", error=str(error))
            return Outcome(task, error, acknowledged=False)
        except LedgerError as error:
            log.error("the ledger did not take the result; the lease will lapse", error=str(error))
            return Outcome(task, error, acknowledged=False)
        except SparkletError as error:
            return self._not_done(task, run, claim.record, attempt_id, error, deadline, log)
        log.info("shard succeeded", rows=result.rows)
        self._measure_success(claim.record, result)
        return Outcome(task, answer={"shard": ref.shard, "state": str(ShardState.SUCCEEDED), "rows": result.rows})

    def _execution(self, ref: ShardRef, run: Run, record: ShardRecord, attempt_id: str) -> Execution:
        shard = self._planned(record)
        script_ref = run.scripts[ref.generation]
        script, py_files = self.scripts.fetch_ref(script_ref)
        inputs = [o.uri for o in shard.objects]
        output = run.shard_output(ref.shard)
        identity = {"run": run.run_id, "shard": ref.shard, "attempt": attempt_id, "generation": ref.generation}
        event = {
            "sparklet": identity,
            "inputs": inputs,
            "input_path": inputs[0] if len(inputs) == 1 else None,
            "output_path": output,
            "params": dict(run.params),
        }
        staging = self._staging(shard, run)
        size = InputSize.of(shard.objects, run.options.compression_factor)
        return Execution(
            attempt_id,
            script_ref.source_uri,
            script,
            event,
            run.args,
            py_files,
            run.env,
            own_paths=True,
            staging=staging,
            input_size=size,
            turns=f"run {run.run_id}, generation {ref.generation}",
        )

    def _staging(self, shard: Shard, run: Run) -> Staging | None:
        """What of the shard's inputs must be fetched; None if Spark reads all of them itself."""
        access, abroad = run.access, self._abroad(shard, run)
        if not any(needs_staging(item, access, abroad) for item in shard.objects):
            return None
        return Staging(shard.objects, access, self._inputs(access), abroad)

    def _abroad(self, shard: Shard, run: Run) -> frozenset[str]:
        """The shard's buckets of other regions; only a run that may read from there is worth the question."""
        if not run.options.other_region:
            return frozenset()
        store = self._inputs(run.access)
        for bucket in {split_uri(item.uri)[0] for item in shard.objects} - self._regions.keys():
            self._regions[bucket] = store.foreign_region(f"{SCHEME}{bucket}/")
        return frozenset(bucket for bucket, foreign in self._regions.items() if foreign)

    def _inputs(self, access: Access) -> ObjectStore:
        if access == Access():
            return self.store
        if self.open_inputs is None:
            raise SettingsError("this worker reads inputs with its own access only, not with another role or payer")
        return self.open_inputs(access)

    def _planned(self, record: ShardRecord) -> Shard:
        """The shard's line of its plan part; PlanError if that is not what was planned, which no retry mends."""
        part_uri = f"s3://{self.bucket}/runs/{record.run_id}/plan/{record.part}"
        try:
            return record.planned(self.store.get(part_uri, record.offset, record.length))
        except EventError as error:
            raise PlanError(f"the plan part {part_uri} is damaged at byte {record.offset}: {error}") from error

    def _not_done(
        self,
        task: Task,
        run: Run,
        record: ShardRecord,
        attempt_id: str,
        error: SparkletError,
        deadline: Deadline,
        log: Log,
    ) -> Outcome:
        """FAILED if no attempt can help or none is left, else PENDING and the message back after a while."""
        failure = failure_of(error)
        final = not error.retryable or record.attempts >= run.options.max_attempts
        write = self.ledger.fail if final else self.ledger.release
        try:
            self._persist(lambda: write(record.run_id, record.number, attempt_id, failure), deadline, log)
        except LedgerError as ledger_error:
            log.error(
                "the ledger did not take the failure; the lease will lapse",
                error=str(ledger_error),
                cause=failure.message,
            )
            return Outcome(task, error, acknowledged=False)
        except LeaseLostError as lost:
            log.error("the lease was lost", error=str(lost), cause=failure.message)
            return Outcome(task, error, acknowledged=False)
        self._measure(SHARDS_FAILED if final else SHARDS_RETRIED)
        self._measure(ATTEMPT_SECONDS, self.clock.now_s() - record.started_s)
        if final:
            log.error("shard failed", error_class=failure.error_class, cause=failure.message)
            return Outcome(task, error)
        log.warning("attempt failed, shard released", error_class=failure.error_class, cause=failure.message)
        self._come_back(task, back_off_s(record.attempts), log)
        return Outcome(task, error, acknowledged=False)

    def _measure_success(self, record: ShardRecord, result: ShardResult) -> None:
        self._measure(SHARDS_SUCCEEDED)
        self._measure(ATTEMPT_SECONDS, self.clock.now_s() - record.started_s)
        self._measure(BYTES_READ, record.size_bytes)
        for metric, value in ((ROWS_WRITTEN, result.rows), (BYTES_WRITTEN, result.output_bytes)):
            if value is not None:
                self._measure(metric, value)

    def _measure(self, metric: Metric, value: float = 1) -> None:
        if self.meter is not None:
            self.meter.add(metric, value)

    def _persist(self, write: Callable[[], None], deadline: Deadline, log: Log) -> None:
        persist(write, self.clock, self._function_end_s(deadline), log)

    def _come_back(self, task: Task, delay_s: float, log: Log) -> None:
        come_back(self.queue, task, delay_s, log)
