"""Shards of runs: how an attempt claims, executes, publishes and records a shard.

claim → execute → win → publish → succeed; else fail or release. The lease is renewed from the claim to the end.
Writes to tables that the script declares are stored before the win: a run's commit takes them from the winner.

Each attempt writes to its own staging folder, which nobody reads. Once the ledger has recorded an attempt as the
winner, its files are copied to the run's output; any attempt can repeat this copy. The staged files are deleted last
(``docs/decisions/0029``).
"""

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sparklet.errors import (
    EventError,
    LeaseLostError,
    LedgerError,
    MixedInputsError,
    ObjectChangedError,
    ObjectForbiddenError,
    ObjectNotFoundError,
    ObjectStoreError,
    PlanError,
    SparkletError,
)
from sparklet.events import Outcome, Task
from sparklet.job.fields import CHANGES
from sparklet.ledger.rules import (
    LEASE_S,
    WARNING_BYTES,
    cut,
    is_conclusive,
    is_conflict,
    lease_s,
    outgrown,
    splits,
)
from sparklet.model import (
    APART,
    EVENTS,
    HALVES,
    MAX_NAMED,
    NAMES,
    NOTHING,
    OF_SPLIT,
    OWNER,
    WITH_MEMBERS,
    Claim,
    ClaimStatus,
    Dispatch,
    ExecutionResult,
    Failure,
    InputObject,
    JobOutcome,
    Run,
    Shard,
    ShardRecord,
    ShardResult,
    ShardState,
    next_of,
    s3_address,
)
from sparklet.model.options import FAIL
from sparklet.model.schemas import output_schemas, reader_schemas
from sparklet.planning.inputs.partitions import seen_partitions
from sparklet.planning.inputs.selection import Filter
from sparklet.planning.outputs import is_named, may_replace, output_name
from sparklet.ports import ObjectInfo, ObjectStore, TaskQueue, metrics
from sparklet.ports.deployment import Deployment, put_once
from sparklet.worker.attempt import Attempt, Lease, persist
from sparklet.worker.executor import Execution, Executor, shard_event
from sparklet.worker.inputs import ShardInputs, description_of
from sparklet.worker.left_behind import OF_THE_RUN
from sparklet.worker.origins import outputs_by_input

MAX_ANSWER_BYTES = 256 * 1024  # the largest answer of a shard
MAX_MEMBERS = 20_000  # the most archive files that become inputs of a shard: its plan line has 100 bytes for each
MIXED = MixedInputsError.__name__
COMMITTED_BEFORE = "CommittedBeforeException"  # thrown by ``DeltaCommit``
CLOCKS_DIFFER_S = 60.0  # how much the ledger's clock and S3's may differ
MARKER = "_SUCCESS"  # left by jobs of RDDs and MLlib; it is not needed, since the ledger decides which files count
SINK_LOG = "_spark_metadata"  # a stream's list of its files by their staged addresses, which readers would not find
FOLDER_MARKERS = ("/", "_$folder$")  # the last one is EMRFS's
OF_ICEBERG = re.compile(r".*/metadata/(v\d+|\d{5}-[\da-f-]{36})(\.gz)?\.metadata\.json(\.gz)?")
WHOLE = "not split, since its script commits at once and not by a staged write: "
OF_SEVERAL = re.compile(r"-\d{5}(?!\d)[^/]*$")  # the name of an output file whose input has several, see ``origins``
UNFINISHED = "_temporary"  # the folder in which Hadoop's committers leave files of killed tasks


@dataclass
class ShardClaims:
    """Claims shards."""

    deployment: Deployment
    executor: Executor
    log_stream: str = ""
    lease_s: float = LEASE_S  # the shortest lease
    map_concurrency: int = 0  # how many shards of a run with a Map can be in work at once
    peak_mb: Callable[[], float] | None = None  # measures the peak memory of the worker's processes
    beside: Callable[[Callable[[], None]], object] = lambda work: work()  # does work for which no response waits
    _runs: dict[str, Run] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)  # addresses of the schemas that this worker has stored

    def __post_init__(self) -> None:
        self.clock = self.deployment.clock
        self.engine = self.executor.settings.engine  # the engine on which this worker runs; "" if it is a function

    def claim(self, attempt: Attempt) -> "ClaimedShard | Outcome":
        """Claim the task's shard; return an outcome if the shard has ended or another attempt holds it."""
        ref = attempt.task.shard
        assert ref is not None
        run = self._runs.get(ref.run_id)
        # A run is cached, since its options do not change. It is read again for a new generation, which adds a script.
        if run is None or len(run.scripts) <= ref.generation:
            run = self._runs[ref.run_id] = self.deployment.ledger.runs.get(ref.run_id)
        if len(run.scripts) <= ref.generation:
            raise LedgerError(
                f"run {ref.run_id} is at generation {run.generation}, but a message names {ref.generation}"
            )
        # All renewals of a run go to one partition of DynamoDB, which takes 1,000 writes a second. So the more workers
        # there are, the longer is a lease (docs/decisions/0079). Workers of the queue are 1,000 at most.
        workers = min(self.map_concurrency, run.shard_count or self.map_concurrency)
        length_s = max(self.lease_s, lease_s(workers) if run.dispatch is Dispatch.MAP else 0.0)
        terms = attempt.attempt_id, length_s, run.options.max_attempts, self.log_stream
        # The time is taken before the claim, so that the lease ends here no later than in the ledger.
        started_s = self.clock.now_s()
        claim = self.deployment.ledger.attempts.claim(
            ref, *terms, engine=self.engine, escalate=next_of(run.options.engine, self.engine)
        )
        attempt.log.info("claim answered", status=claim.status, attempts=claim.record.attempts)
        if claim.status is not ClaimStatus.GRANTED:
            return self._reject(attempt.task, claim)
        record = claim.record
        renew = partial(self.deployment.ledger.attempts.renew, ref.run_id, ref.shard, attempt.attempt_id, length_s)
        lease = Lease(renew, self.clock, attempt.deadline, attempt.log, length_s, started_s + length_s)
        winner = record.winner or attempt.attempt_id
        staging_folder = f"s3://{self.deployment.bucket}/staged/{ref.run_id}/{ref.shard:06d}-{winner}"
        output = StagedOutput(
            self.deployment.store, staging_folder, run.shard_output(ref.shard), redone=bool(record.redone)
        )
        # An output named after its input may collide with another file: the owner in an object's metadata prevents it.
        if run.options.output_per:
            owner = f"{run.owner_prefix(ref.shard)}-{winner}"
            output = replace(
                output, owner=owner, replaces=lambda other: may_replace(self.deployment, run, OWNER.fullmatch(other))
            )
        return ClaimedShard(self, attempt, run, record, lease, output)

    def queue_of(self, task: Task) -> TaskQueue | None:
        """The deployment's queue, which has the messages of all shards."""
        return self.deployment.queue

    def _reject(self, task: Task, claim: Claim[ShardRecord]) -> Outcome:
        """Acknowledge the message, even if another attempt holds the shard: the checker replaces lost messages.

        A Map's child execution has no message. It gets an error if the shard is held, so that it tries again.
        """
        record = claim.record
        self.deployment.measure(
            metrics.SHARDS_FAILED if claim.status is ClaimStatus.EXHAUSTED else metrics.SHARDS_REJECTED
        )
        # A shard that an engine is to do is not tried again: each retry would be HELD until the engine has done it.
        if claim.status is ClaimStatus.HELD and not task.receipt and record.engine in ("", self.engine):
            held_error = LeaseLostError(
                f"shard {record.number} is held by attempt {record.attempt_id} until {record.lease_end_s:.0f}"
            )
            return Outcome(task, held_error, acknowledged=False)
        answer = {"shard": record.number, "claim": str(claim.status), "state": str(record.state)}
        if record.state is ShardState.FAILED:
            answer["error"] = f"{record.error_class}: {record.error_message}"
        return Outcome(task, answer=answer)


@dataclass
class ClaimedShard:
    """A shard that one attempt owns."""

    claims: ShardClaims
    attempt: Attempt
    run: Run
    record: ShardRecord
    lease: Lease
    output: "StagedOutput"
    kind: str = "shard"
    _files: Sequence[ObjectInfo] = ()  # the winner's staged files
    _objects: Sequence[InputObject] = ()  # the inputs, in the order of the plan's line or of the file of members
    _has_members: bool = False  # whether some inputs are files of archives that the plan does not name

    def execute(self) -> ShardResult:
        """Run the script, unless an earlier attempt has won; publish the winner's output and return its result.

        If the attempt fails before it has won, its staged files are deleted. An incremental run also deletes the output
        files that earlier runs of the same name made from the same inputs.
        """
        # A winner never changes: readers may have some of its files already, and a second run may write other rows.
        if self.record.winner:
            result, self._files = self._earlier_winner()
        else:
            try:
                script_result = self.claims.executor.execute(self._execution(), self.attempt)
                # Stored before the win, since a commit run must find the declaration of each winner. If the worker is
                # killed in between, no winner names the file.
                self._store(script_result.outcome)
                staged_files = self.output.files(script_result.uncommitted)
                if any(info.uri == self.output.staged for info in staged_files):
                    raise PlanError(
                        "the script has written a file in the place of its output folder: a script that writes without "
                        "Spark must write to job.output + '/' and a name"
                    )
                if self.run.options.output_per:
                    staged_files = self._assign_to_inputs(script_result, staged_files)
                result = self._result(script_result, staged_files)
            except SparkletError:
                self.output.discard()
                raise
            self._files = staged_files
            # If there is nothing to publish, no winner is recorded, which saves a write. A redo always needs one: it
            # deletes the earlier output, which only the winner is allowed to do.
            if staged_files or script_result.outcome.writes or self.record.redone:
                persist(lambda: self.lease.extend(winner=result), self.claims.clock, self.attempt)
                # From now on no input is blamed for a failure.
                self.record = replace(self.record, winner=self.attempt.attempt_id)
        # A worker that Lambda has frozen stops here or before the next copy: another attempt may have published its
        # files and replaced them since.
        self.lease.check()
        self.output.publish(self._files, self.lease.check)
        # The copies have replaced earlier files of the same names. Now the files with other names are deleted.
        if self.run.options.output_per and self.run.options.incremental:
            self._delete_outputs_of_earlier_runs(self._planned_shard().objects)
        return result

    def _result(self, script_result: ExecutionResult, staged_files: Sequence[ObjectInfo]) -> ShardResult:
        """The result that the ledger keeps.

        Raises PlanError for a warning if the run is strict, or if the script has made an Iceberg table in its output.
        """
        if table := next((info.uri for info in staged_files if OF_ICEBERG.fullmatch(info.uri)), ""):
            raise PlanError(
                f"the script has made an Iceberg table below its output ({table[len(self.output.staged) + 1 :]}). The "
                "table's metadata holds paths of this attempt's staging folder, which is deleted after the attempt. "
                "Run with --table iceberg:NAME, write by job.append, or give the catalog a warehouse outside the "
                "output (docs/guide/tables.md)"
            )
        # Tasks of a run, such as checks, write nothing.
        is_expected = script_result.warning == NOTHING and (staged_files or self.run.is_task)
        warning = "" if is_expected else script_result.warning
        if warning and self.run.options.strict:
            raise PlanError(f"{warning} (--strict refuses that)")
        if warning:
            self.attempt.log.warning(warning)
        output_bytes, peak_mb = script_result.outcome.output_bytes, self.claims.peak_mb
        if (staged_files or self.record.redone) and output_bytes is None:
            output_bytes = sum(info.size_bytes for info in staged_files)
        return ShardResult(
            script_result.outcome.rows,
            output_bytes,
            tuple(map(self.output.published_uri, script_result.outcome.outputs)),
            schemas=self._keep_schemas(script_result, staged_files) if script_result.schema_reports else {},
            memory_mb=round(peak_mb()) if peak_mb else None,
            warning=cut(warning, WARNING_BYTES) if warning else "",
        )

    def _claim_addresses(self, addresses: Mapping[str, bool]) -> None:
        """Record the addresses outside the output that this shard's script has written, and whether it replaced files.

        Raises PlanError if another shard has written one of them, and one of the two replaced files: rows are lost.
        """
        deployment, number = self.claims.deployment, self.record.number
        for address, replaced in addresses.items():
            digest = hashlib.sha256(address.encode()).hexdigest()[:16]
            uri = self._run_file(f"addresses/{digest}.json")
            # Only the first writer's file is stored, and all shards read it: so two at once agree on who was first.
            put_once(deployment.store, (uri, _json({"address": address, "shard": number, "replaced": replaced})))
            first = json.loads(deployment.store.get(uri))
            if first["shard"] != number and (replaced or first["replaced"]):
                raise PlanError(
                    f"shards {first['shard']} and {number} both wrote s3://{address}, an address of the script's own, "
                    f"and one has replaced what the other wrote: {OF_THE_RUN}"
                )

    def _assign_to_inputs(
        self, script_result: ExecutionResult, staged_files: Sequence[ObjectInfo]
    ) -> Sequence[ObjectInfo]:
        """Store which staged files belong to which input; delete the files that do not count and return the others."""
        files = {info.uri[len(self.output.staged) :]: info for info in staged_files}
        names, inputs = outputs_by_input(self.run, self.record.number, files, self._objects, script_result.origins)
        # Stored before the win: a later attempt that only publishes reads the names from this file.
        self.claims.deployment.store.put(
            self._run_file(self.record.inputs_file), b"\n".join(map(_json, (names, *inputs)))
        )
        self.output = replace(self.output, names=names)
        self.output.discard([info for path, info in files.items() if path not in names])
        return [info for path, info in files.items() if path in names]

    def _delete_outputs_of_earlier_runs(self, inputs: Sequence[InputObject]) -> None:
        """Delete files that earlier runs of the same name published for this shard's inputs under other names."""
        store, base = self.claims.deployment.store, f"{self.output.published}/"
        own_uris = {base + name for name in self.output.names.values()}
        for item in inputs:
            name = base + output_name(self.run.run_id, self.run.options, self.run.inputs, item)
            other_uris = (
                info.uri for info in store.list(name) if info.uri not in own_uris and is_named(info.uri, name)
            )
            store.delete_all((uri for uri in other_uris if self._was_published_for(item, uri)), base)

    def _was_published_for(self, item: InputObject, uri: str) -> bool:
        """Whether an earlier run of the same name published the file ``uri`` for an input; False after its clean-up."""
        deployment, owner = self.claims.deployment, self.claims.deployment.store.head(uri).owner
        owner_match = OWNER.fullmatch(owner) if self.output.replaces(owner) else None
        if owner_match and (record := deployment.known_shard(owner_match["run_id"], int(owner_match["shard"]))):
            # The list is gone if that run was cleaned up. For a role without permission to list, S3 calls a missing
            # object forbidden.
            with suppress(ObjectNotFoundError, ObjectForbiddenError):
                lines = deployment.store.get(deployment.run_uri(record.run_id, record.inputs_file)).splitlines()[1:]
                return any(
                    # A file of an archive is an input ``ARCHIVE#FILE``, and the plan names the archive.
                    uri in line["outputs"] and item.uri in (line["input"], line["input"].partition("#")[0])
                    for line in map(json.loads, lines)
                )
        return False

    def _store(self, outcome: JobOutcome) -> None:
        """Store the script's answer and declared writes, if any, under this attempt's name; they count if it wins."""
        record = self.record
        if outcome.answer or outcome.quality:
            [answer] = outcome.answer or [{"data_quality": outcome.quality}]
            body = _json({"shard": record.number, "answer": answer})
            if len(body) > MAX_ANSWER_BYTES:
                raise EventError(
                    f"the script's answer has {len(body):,} bytes as JSON, and a run keeps at most "
                    f"{MAX_ANSWER_BYTES:,} of each shard: write it to job.output"
                )
            self.claims.deployment.store.put(self._run_file(record.answer_file), body)
        if outcome.writes:
            document = {"shard": record.number, "attempt": record.attempt_id, "writes": outcome.writes}
            self.claims.deployment.store.put(self._run_file(record.writes_file), _json(document))

    def _keep_schemas(self, script_result: ExecutionResult, staged_files: Sequence[ObjectInfo]) -> Mapping[str, str]:
        """Store the schemas of written and read data, each once per worker. Return a file with each, by name."""
        written_schemas = output_schemas(
            script_result.schema_reports, [info.uri for info in staged_files], self.output.staged
        )
        read_schemas = reader_schemas(script_result.schema_reports.values(), script_result.objects, self.run.inputs)
        for schema, _ in (*written_schemas, *read_schemas):
            if (uri := self._run_file(schema.file)) not in self.claims.stored:
                self.claims.deployment.store.put(uri, json.dumps(schema).encode())
                self.claims.stored.add(uri)
        files = {schema.name: self.output.names.get(f"/{file}", file) for schema, file in written_schemas}
        return files | {schema.name: uri for schema, uri in read_schemas}

    def _run_file(self, name: str) -> str:
        return self.claims.deployment.run_uri(self.record.run_id, name)

    def _earlier_winner(self) -> tuple[ShardResult, Sequence[ObjectInfo]]:
        """The recorded result and the staged files of the attempt that has won; PlanError if the files are gone."""
        record = self.record
        self.attempt.log.info("an earlier attempt has won; its output is published", winner=record.winner)
        # A redo that wrote no file also has a winner, since it deletes the earlier output.
        wrote_nothing = bool(record.redone) and record.output_bytes == 0
        if not (files := self.output.files()) and not (wrote_nothing or self._has_declared()):
            raise PlanError(f"the winner's output is gone from {self.output.staged}; start another run for it")
        if self.run.options.output_per:
            first_line = self.claims.deployment.store.get(self._run_file(record.inputs_file)).partition(b"\n")[0]
            self.output = replace(self.output, names=json.loads(first_line))
            files = [info for info in files if info.uri[len(self.output.staged) :] in self.output.names]
        recorded = ShardResult(
            record.rows, record.output_bytes, record.outputs, schemas=record.schemas, memory_mb=record.memory_mb
        )
        return recorded, files

    def _has_declared(self) -> bool:
        """Whether the winner declared writes to tables: then it may have no staged files."""
        # For a role without permission to list, as the worker's, S3 calls a missing object forbidden.
        with suppress(ObjectNotFoundError, ObjectForbiddenError):
            return bool(self.claims.deployment.store.head(self._run_file(self.record.writes_file)))
        return False

    def _execution(self) -> Execution:
        """What the executor needs to run the shard's script."""
        run, record, shard = self.run, self.record, self._planned_shard()
        self._objects = items = shard.objects
        # A redrive reads inputs as they are now, since they may have been repaired. Not so in an incremental run (the
        # next run would read them again), and not for slices, which were cut from the planned object.
        if record.generation and not run.options.incremental:
            items = tuple(item if item.slice else replace(item, etag="") for item in items)
        event = shard_event(run, record, shard, self.output.staged)
        inputs = ShardInputs(
            items,
            run.access,
            partial(self.claims.deployment.inputs, run.access),
            params=json.dumps(event["params"]),
            folders=tuple(event.get("input_folders", ())),
            partitions=seen_partitions(shard.inputs, run.inputs, run.partitions) if run.partitions else {},
            apart=bool(run.options.output_per),
            # An engine's worker has no function's limit, and with FAIL the user wants to try inputs that may not fit.
            max_bytes=0 if run.options.too_large == FAIL or self.claims.engine else run.options.max_shard_bytes,
            on_unpacked=self._take_members,
        )
        # The shard from which this one was split may have committed these rows, so its commits count as well.
        numbers = record.number, *map(int, re.findall(rf"^{OF_SPLIT}(\d+)", record.part))
        # Whoever redrives a shard after this error knows of the earlier commits, and wants a new one.
        allows_earlier = record.error_class.endswith(COMMITTED_BEFORE)
        return Execution(
            script=run.scripts[record.generation],
            event=event,
            args=run.args,
            env=run.env,
            is_shard=True,
            inputs=inputs,
            committers=tuple(f"{run.identity}/{number}/" for number in numbers),
            since_s=record.changed_s if allows_earlier else run.created_s - CLOCKS_DIFFER_S,
            # Only then can there be an earlier commit. The search for it takes a listing of the table's log.
            is_again=record.attempts > 1 or bool(record.error_class or record.redone),
            empty_outputs=bool(run.options.output_per) and run.options.empty_outputs == "file",
            verify=self._refuse_changed if run.options.incremental else None,
            # Read from the ledger, since the cached run has no count if it was read before its plan was sealed.
            is_alone=lambda: self.claims.deployment.ledger.runs.get(run.run_id).shard_count == 1,
            is_planned=self._is_planned,
            claim=self._claim_addresses,
            discard=self.output.discard,
            keep_events=self._keep_events if run.options.event_log else None,
        )

    def _planned_shard(self) -> Shard:
        """The claimed shard: from the message's copy of its plan line if that is current, else from the plan."""
        ref, record = self.attempt.task.shard, self.record
        part_uri = f"s3://{self.claims.deployment.bucket}/runs/{record.run_id}/plan/{record.part}"
        line = ref.line.encode() if ref else b""
        # A message's copy of the line is used only if the ledger names the same place in the plan. The generation may
        # differ: a later one has the same line.
        if not ref or len(line) != record.length or replace(ref, line="", generation=record.generation) != record.ref:
            line = self.claims.deployment.store.get(part_uri, record.offset, record.length)
        return record.planned(line, part_uri)

    def _is_planned(self, uri: str) -> bool:
        """Whether an address is below an input folder of the run, and its filters (--include, --exclude) keep it."""
        options = self.run.options
        name_filter = Filter(options.include, options.exclude)
        return any(name_filter.keeps(uri.removeprefix(prefix)) for prefix in self.run.inputs if uri.startswith(prefix))

    def _refuse_changed(self, read_by_etag: Collection[str]) -> None:
        """Raise ObjectChangedError if an input was replaced since it was planned.

        The next incremental run of the same name will take the new version, so this run must not publish its rows as
        well. Inputs in ``read_by_etag`` need no check. A deleted input is no error: the script has read it before, or
        has failed.
        """
        etags = {item.object_uri: item.etag for item in self._objects if item.etag and not item.version_id}
        unchecked_uris = [uri for uri in etags if uri not in read_by_etag]
        heads = self.claims.deployment.inputs(self.run.access).head_all([(uri, "") for uri in unchecked_uris])
        for uri, info in zip(unchecked_uris, heads, strict=True):
            if info and info.etag.strip('"') != etags[uri].strip('"'):
                raise ObjectChangedError(
                    f"{uri} was replaced after it was planned, and the script may have read its new content. The next "
                    "incremental run will process the new version"
                )

    def _take_members(self, inputs: Sequence[InputObject]) -> None:
        """Take the files of unpacked archives as the shard's inputs, with their archive's ETag, unless too many."""
        if len(self._objects) < len(inputs) <= MAX_MEMBERS:
            etags = {(item.object_uri, item.version_id): item.etag for item in self._objects}
            self._objects = [replace(item, etag=etags[item.object_uri, item.version_id]) for item in inputs]
            self._has_members = True
            # A shard can be split if this count is above 1: so a shard of one archive with several files can, too.
            self.record = replace(self.record, object_count=len(inputs))

    def _keep_events(self, folder: Path) -> None:
        """Store Spark's event log under this attempt's name; if that fails, only a warning is logged."""
        for index, path in enumerate(sorted(folder.iterdir())):  # one file, unless the script makes several sessions
            name = f"{EVENTS}{self.record.number:09d}-{self.attempt.attempt_id}-{index}.gz"
            try:
                self.claims.deployment.store.put(self._run_file(name), gzip.compress(path.read_bytes(), 6))
            except (ObjectStoreError, OSError) as error:
                self.attempt.log.warning("Spark's event log could not be stored", cause=str(error))

    def succeed(self, result: ShardResult) -> None:
        """Record SUCCEEDED."""
        own_attempt = self.record.run_id, self.record.number, self.attempt.attempt_id
        inherited = self.record.attempts == 1 and self.record.part.startswith(OF_SPLIT)
        self.claims.deployment.ledger.attempts.succeed(*own_attempt, result, inherited=inherited)

    def is_final(self, failure: Failure) -> bool:
        """Whether no attempt can help or none is left."""
        # A conflict does not use up an attempt; this failure is not recorded yet, so it is counted here.
        record = replace(self.record, conflicts=self.record.conflicts + is_conflict(failure))
        has_no_attempt_left = record.used_attempts >= self.run.options.max_attempts
        return not failure.retryable or has_no_attempt_left or is_conclusive(self.record, failure)

    def fail(self, failure: Failure, *, final: bool) -> str:
        """Record FAILED or PENDING; see ``Claimed.fail``."""
        attempts, record = self.claims.deployment.ledger.attempts, self.record
        own_attempt = (record.run_id, record.number, self.attempt.attempt_id)
        # This comes first: if only memory or time was too short, no input is at fault.
        if (larger_engine := next_of(self.run.options.engine, self.claims.engine)) and outgrown(failure):
            attempts.escalate(*own_attempt, failure, larger_engine)
            return larger_engine
        # The shard is split even if attempts are left, since each would mix the inputs. It is not split after a direct
        # commit, which the pieces would repeat, or in a redo, whose pieces would publish beside the earlier output.
        if failure.error_class == MIXED and not (self.run.options.strict or failure.direct or record.redone):
            reason = failure.message.partition(": ")[0]
            one_by_one = f"its {record.object_count} inputs are done one by one, each by a job of its own"
            failure = replace(failure, message=f"{reason}; {one_by_one} (--strict refuses that)")
            attempts.release(*own_attempt, failure, record.engine, self._stored_split(APART))
            return "a check that splits it"
        if final and splits(record, failure):
            attempts.release(
                *own_attempt,
                failure,
                record.engine,
                self._stored_split(self._positions_of_named_inputs(failure) or HALVES),
            )
            return "a check that splits it"
        if final:
            if failure.direct and splits(record, replace(failure, direct=False)):
                failure = replace(failure, message=f"{WHOLE}{failure.message}")
            attempts.fail(*own_attempt, failure)
        else:
            attempts.release(*own_attempt, failure, record.engine)
        return ""

    def _stored_split(self, split: str) -> str:
        """Return how the check is to split the shard; files of archives are stored for the check first.

        Raises LedgerError if they cannot be stored.
        """
        if not self._has_members:
            return split
        line = Shard(self.record.number, tuple(self._objects)).to_line()
        try:
            self.claims.deployment.store.put(self._run_file(self.record.members_file), line)
        except ObjectStoreError as error:  # as a LedgerError, after which the caller tries again
            raise LedgerError(f"how to split the shard could not be stored: {error}") from error
        return WITH_MEMBERS + split

    def _positions_of_named_inputs(self, failure: Failure) -> str:
        """The positions of the inputs that a failure names, joined by spaces.

        "" if a name is not that of an input, if none is named, or if more than ``MAX_NAMED`` are.
        """
        names, indexes = {s3_address(file) or file for file in failure.files}, list[str]()
        for index, item in enumerate(self._objects):
            if names & {item.uri, description_of(item)}:
                indexes.append(str(index))
        return " ".join(indexes) if len(indexes) == len(names) <= MAX_NAMED else ""

    def succeeded(self, result: ShardResult) -> Outcome:
        """Delete the staged files, emit the metrics and return the outcome."""
        # Nobody reads staged files, so the response does not wait for this; ``clean`` deletes what a freeze leaves.
        self.claims.beside(lambda: self.output.discard(self._files))
        measure = self.claims.deployment.measure
        measure(metrics.SHARDS_SUCCEEDED)
        measure(metrics.ATTEMPT_SECONDS, self.claims.clock.now_s() - self.record.started_s)
        measure(metrics.BYTES_READ, self.record.size_bytes)
        if result.rows is not None:
            measure(metrics.ROWS_WRITTEN, result.rows)
        if result.output_bytes is not None:
            measure(metrics.BYTES_WRITTEN, result.output_bytes)
        answer = {"shard": self.record.number, "state": str(ShardState.SUCCEEDED), "rows": result.rows}
        return Outcome(self.attempt.task, answer=answer)

    def failed(self, *, final: bool) -> None:
        """Count the failed or retried attempt, and its duration."""
        self.claims.deployment.measure(metrics.SHARDS_FAILED if final else metrics.SHARDS_RETRIED)
        self.claims.deployment.measure(metrics.ATTEMPT_SECONDS, self.claims.clock.now_s() - self.record.started_s)


@dataclass(frozen=True, slots=True)
class StagedOutput:
    """The output of one attempt: its staging folder and the published one, as URIs without a slash at the end."""

    store: ObjectStore
    staged: str
    published: str
    names: Mapping[str, str] = field(default_factory=dict)  # published names by staged paths, see ``outputs_by_input``
    owner: str = ""  # the owner of files that are named after inputs, see ``ObjectStore.copy_all``; else ""
    replaces: Callable[[str], bool] = lambda _: False  # whether files of another owner may be replaced
    redone: bool = False  # whether this output replaces what earlier attempts of its shard have published

    def files(self, uncommitted: Sequence[str] = (), *, changes: bool = False) -> Sequence[ObjectInfo]:
        """Return the staged files that may be published; with ``changes`` also the files of declared changes.

        Folder markers and unfinished files are left out. A file that has the staging folder's own name is included, so
        that its loss is noticed. This also deletes what is never published: the files of ``uncommitted`` write jobs,
        the markers of completed jobs (_SUCCESS), and the logs of streaming queries.
        """
        left_out_prefixes = () if changes else (f"{self.staged}/{CHANGES}/",)
        files: list[ObjectInfo] = []
        never_published: list[ObjectInfo] = []
        # Listed without a slash at the end, so that a file in the folder's place is found.
        for info in self.store.list(self.staged):
            is_outside = not f"{info.uri}/".startswith(f"{self.staged}/")
            is_left_out = info.uri.endswith(FOLDER_MARKERS) or f"/{UNFINISHED}/" in info.uri
            if is_outside or is_left_out or info.uri.startswith(left_out_prefixes):
                continue
            name = info.uri.rpartition("/")[2]
            is_marker = name == MARKER or f"/{SINK_LOG}/" in info.uri
            is_published = not is_marker and not any(job in name for job in uncommitted)
            (files if is_published else never_published).append(info)
        # They are deleted, since a later attempt that only publishes does not know which jobs were unfinished.
        if never_published:
            self.store.delete_all((info.uri for info in never_published), self.staged)
        return files

    def publish(self, files: Sequence[ObjectInfo], check: Callable[[], None]) -> None:
        """Copy the staged files to the published folder; ``check`` is called before each copy.

        Files that are named after inputs are first listed in a file. A redo deletes what the shard's earlier attempts
        have staged and published. Raises PlanError, since no attempt can help, if a staged file is gone or another
        owner's file has its name.
        """

        def name_of(file: ObjectInfo) -> str:
            path = file.uri[len(self.staged) :]
            return self.names[path] if self.owner else path[1:]

        def checked_copy(file: ObjectInfo) -> tuple[ObjectInfo, str]:
            check()
            return file, f"{self.published}/{name_of(file)}"

        ownership: dict[str, Any] = {"owner": self.owner, "replaces": self._may_replace} if self.owner else {}
        # Stored before the first copy, so that each published file is in a list, also if this worker is killed.
        if files and self.owner:
            self.store.put(self._list_uri, _json({name_of(file): file.size_bytes for file in files}))
        # The earlier attempts' staged files are deleted first, so that a late attempt cannot publish them. Then their
        # published files: rows are missing for a moment, which is better than old rows beside new (decision 0087).
        if self.redone:
            self._delete_staged_by_earlier(check)
            # A single file is replaced by the copy itself. With several, a row could be in an old and a new file.
            names = [name_of(file) for file in files if len(files) == 1 or self.owner]
            self._delete_published_by_earlier(
                {f"{self.published}/{name}" for name in names if not OF_SEVERAL.search(name)}, check
            )
        try:
            self.store.copy_all(map(checked_copy, files), **ownership)
        # A permanent error, since no script runs after a win. A late attempt can get here as well, after its successor
        # has deleted its staged files; then the ledger refuses to record the failure.
        except ObjectNotFoundError as error:
            raise PlanError(f"the winner's output is gone, start another run for it: {error}") from error
        except ObjectChangedError as error:
            raise PlanError(
                f"{error}: move it away, then redrive the run; or start a run with another --output-name"
            ) from error

        # The lists are deleted last: if this worker is killed before, the next attempt still needs them.
        if self.redone and self.owner:
            self.store.delete_all(self._earlier_list_uris(), f"{self.published}/{NAMES}")

    @property
    def _list_uri(self) -> str:
        return f"{self.published}/{NAMES}{self.owner}.json"

    @property
    def _owner_prefix(self) -> str:
        """The prefix that the owner names of all attempts of this shard have in common."""
        return f"{self.owner.rpartition('-')[0]}-"

    def _may_replace(self, owner: str) -> bool:
        return self.replaces(owner) or (self.redone and owner.startswith(self._owner_prefix))

    def _delete_staged_by_earlier(self, check: Callable[[], None]) -> None:
        """Delete the staged files of this shard's earlier attempts, so that none of them can publish any more."""
        folder, _, name = self.staged.rpartition("/")
        staged_files = self.store.list(f"{folder}/{name.partition('-')[0]}-")
        uris = [info.uri for info in staged_files if not info.uri.startswith(f"{self.staged}/")]
        # The check comes as late as possible, since S3's DELETE cannot depend on the lease.
        check()
        self.store.delete_all(uris, folder)

    def _delete_published_by_earlier(self, kept_uris: Collection[str], check: Callable[[], None]) -> None:
        """Delete the published files of this shard's earlier attempts, so that no row is there twice.

        The files at ``kept_uris`` stay: they are replaced by the copies.
        """
        if self.owner:
            names = (name for body in self.store.get_all(self._earlier_list_uris()) for name in json.loads(body))
            uris = {f"{self.published}/{name}" for name in names}.difference(kept_uris)
            # The owner in each object's metadata is checked, since users may have put their own files there.
            heads = self.store.head_all([(uri, "") for uri in sorted(uris)])
            earlier_uris = [info.uri for info in heads if info and info.owner.startswith(self._owner_prefix)]
        else:
            earlier_uris = [info.uri for info in self.store.list(f"{self.published}/") if info.uri not in kept_uris]
        check()
        self.store.delete_all(earlier_uris, self.published)

    def _earlier_list_uris(self) -> list[str]:
        lists = self.store.list(f"{self.published}/{NAMES}{self._owner_prefix}")
        return [info.uri for info in lists if info.uri != self._list_uri]

    def discard(self, files: Sequence[ObjectInfo] | None = None) -> None:
        """Delete the given staged files, or all; if this fails, ``clean`` deletes them later."""
        with suppress(ObjectStoreError):
            staged_files = self.files(changes=True) if files is None else files
            self.store.delete_all((info.uri for info in staged_files), self.staged)

    def published_uri(self, uri: str) -> str:
        """The published address of a staged file; any other address is returned unchanged."""
        is_staged = uri == self.staged or uri.startswith(f"{self.staged}/")
        return self.published + uri[len(self.staged) :] if is_staged else uri


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
