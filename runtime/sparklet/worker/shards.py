"""A shard's way through a worker: claim → execute → win → publish → succeed; else fail or release.

Each step is fenced by the ledger. The lease is renewed from the claim to the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from sparklet.errors import (
    EventError,
    LeaseLostError,
    LedgerError,
    PlanError,
    SettingsError,
    SparkletError,
)
from sparklet.events import Outcome, Task
from sparklet.ledger_rules import LEASE_S
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
from sparklet.worker.lease import Lease
from sparklet.worker.log import Log
from sparklet.worker.publishing import StagedOutput
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
    lease_s: float = LEASE_S
    meter: Meter | None = None
    open_inputs: Callable[[Access], ObjectStore] | None = None  # stores for inputs that need another access
    _runs: dict[str, Run] = field(default_factory=dict)
    _regions: dict[str, str] = field(default_factory=dict)  # of buckets: "" where it is the worker's own

    def do(self, task: Task, ref: ShardRef, attempt_id: str, deadline: Deadline, log: Log) -> Outcome:
        """Bring the shard to its end, or say when it should come back."""
        try:
            run = self._run(ref)
            claim = self.ledger.attempts.claim(ref, attempt_id, self.lease_s, run.options.max_attempts, self.log_stream)
        except LedgerError as error:
            log.error("the ledger could not be asked for the shard", error=str(error))
            self._come_back(task, back_off_s(task.receive_count), log)
            return Outcome(task, error, acknowledged=False)
        log.info("claim answered", status=claim.status, attempts=claim.record.attempts)
        if claim.status is not ClaimStatus.GRANTED:
            return self._turned_away(task, claim)
        return self._granted(task, ref, run, claim, attempt_id, deadline, log)

    def put_back(self, task: Task, log: Log) -> None:
        """Make the message of a shard that was not claimed visible again."""
        self._come_back(task, 0, log)

    def _run(self, ref: ShardRef) -> Run:
        """The shard's run; read again when a generation is named that was not there yet."""
        run = self._runs.get(ref.run_id)
        if run is None or run.generation < ref.generation:
            run = self._runs[ref.run_id] = self.ledger.runs.get(ref.run_id)
        if run.generation < ref.generation:
            raise LedgerError(
                f"run {ref.run_id} is at generation {run.generation}, but a message names {ref.generation}"
            )
        return run

    def _turned_away(self, task: Task, claim: Claim) -> Outcome:
        """Acknowledge a message, also one of a shard that is in work: if its worker is lost, the checker sends another.

        Only who came without a message, a Map's child, is told to ask again.
        """
        record = claim.record
        self._measure(SHARDS_FAILED if claim.status is ClaimStatus.EXHAUSTED else SHARDS_TURNED_AWAY)
        if claim.status is ClaimStatus.HELD and not task.receipt:
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
        record, renew = (
            claim.record,
            partial(self.ledger.attempts.renew, ref.run_id, ref.shard, attempt_id, self.lease_s),
        )
        staged = StagedOutput.of(self.store, self.bucket, run, ref.shard, record.winner or attempt_id)
        with Lease(renew, self.clock, log, self.lease_s, record.lease_end_s) as lease:
            try:
                result, files = self._worked(ref, run, record, staged, lease, deadline, log)
                lease.check()
                staged.publish(files, lease.check)
                self._persist(
                    lambda: self.ledger.attempts.succeed(ref.run_id, ref.shard, attempt_id, result), deadline, log
                )
            except SparkletError as error:
                return self._not_done(task, run, record, attempt_id, lease.lost or error, deadline, log)
        staged.discard(files)
        log.info("shard succeeded", rows=result.rows)
        self._measure_success(record, result)
        return Outcome(task, answer={"shard": ref.shard, "state": str(ShardState.SUCCEEDED), "rows": result.rows})

    def _worked(
        self,
        ref: ShardRef,
        run: Run,
        record: ShardRecord,
        staged: StagedOutput,
        lease: Lease,
        deadline: Deadline,
        log: Log,
    ) -> tuple[ShardResult, Sequence[str]]:
        """The result of the attempt that has won, and the files that it has staged; the script runs if none has yet."""
        if record.winner:
            log.info("an earlier attempt has won; its output is published", winner=record.winner)
            if not (files := staged.files()):
                raise PlanError(
                    f"what the winning attempt wrote is gone from {staged.staged}; start another run for it"
                )
            return ShardResult(record.rows, record.output_bytes, record.outputs), files
        try:
            execution = self._execution(ref, run, record, staged.staged, lease)
            result = staged.readable(self.execute(execution, deadline, log))
        except SparkletError:
            staged.discard()
            raise
        if files := staged.files():
            self._persist(lambda: lease.win(result), deadline, log)
        return result, files

    def _execution(self, ref: ShardRef, run: Run, record: ShardRecord, output: str, lease: Lease) -> Execution:
        shard = self._planned(record)
        script_ref = run.scripts[ref.generation]
        script, py_files = self.scripts.fetch_ref(script_ref)
        inputs = [o.uri for o in shard.objects]
        identity = {"run": run.run_id, "shard": ref.shard, "attempt": record.attempt_id, "generation": ref.generation}
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
            record.attempt_id,
            script_ref.source_uri,
            script,
            event,
            run.args,
            py_files,
            run.env,
            own_paths=True,
            staging=staging,
            input_size=size,
            work_end_s=lease.work_end_s,
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
        if isinstance(error, LeaseLostError):
            log.error("the lease was lost; what this attempt did does not count", error=str(error))
            return Outcome(task, error, acknowledged=False)
        if isinstance(error, LedgerError) and error.retryable:
            log.error("the ledger did not answer; the lease will lapse", error=str(error))
            return Outcome(task, error, acknowledged=False)
        failure = failure_of(error)
        final = not error.retryable or record.attempts >= run.options.max_attempts
        write = self.ledger.attempts.fail if final else self.ledger.attempts.release
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
        persist(write, self.clock, deadline.end_s + self.grace_s, log)

    def _come_back(self, task: Task, delay_s: float, log: Log) -> None:
        come_back(self.queue, task, delay_s, log)
