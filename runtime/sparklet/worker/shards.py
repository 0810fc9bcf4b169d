"""Shards of runs: how an attempt claims, executes, publishes and records one.

claim → execute → win → publish → succeed; else fail or release. The lease is renewed from the claim to the end.
Writes to tables that the script declares are stored before the win: a run's commit takes them from the winner.

Each attempt writes below its own folder, which has no readers. Once the ledger has recorded the winner, its files are
copied to the run's output; any attempt may repeat that. The staged files are deleted last (``docs/decisions/0029``).
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
from sparklet.worker.inputs import ShardInputs, described
from sparklet.worker.left_behind import OF_THE_RUN
from sparklet.worker.origins import by_input

MAX_ANSWER_BYTES = 256 * 1024  # of one shard, in a run
MAX_MEMBERS = 20_000  # of archives in one shard, which are inputs of their own: a shard's line has 100 bytes for each
MIXED = MixedInputsError.__name__
COMMITTED_BEFORE = "CommittedBeforeException"  # of ``DeltaCommit``
CLOCKS_DIFFER_S = 60.0  # the ledger's and S3's, at most
MARKER = "_SUCCESS"  # of a job of an RDD's or MLlib's; the ledger decides which files count
SINK_LOG = "_spark_metadata"  # a stream's list of its files, by their staged addresses: readers would find none
FOLDER_MARKERS = ("/", "_$folder$")  # the last are EMRFS's
OF_ICEBERG = re.compile(r".*/metadata/(v\d+|\d{5}-[\da-f-]{36})(\.gz)?\.metadata\.json(\.gz)?")
WHOLE = "not split, since its script commits at once and not by a staged write: "
OF_SEVERAL = re.compile(r"-\d{5}(?!\d)[^/]*$")  # the name of one of an input's files, see ``origins``
UNFINISHED = "_temporary"  # Hadoop's committers leave files of killed tasks here


@dataclass
class ShardClaims:
    """Claims shards."""

    deployment: Deployment
    executor: Executor
    log_stream: str = ""
    lease_s: float = LEASE_S  # at least
    map_concurrency: int = 0  # shards of a map's run that may be in work at once
    peak_mb: Callable[[], float] | None = None  # the memory of its processes
    beside: Callable[[Callable[[], None]], object] = lambda work: work()  # does what the answer need not wait for
    _runs: dict[str, Run] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)  # files of schemas

    def __post_init__(self) -> None:
        self.clock = self.deployment.clock
        self.engine = self.executor.settings.engine  # whose worker this is; "": a function

    def claim(self, attempt: Attempt) -> "ClaimedShard | Outcome":
        """The task's shard; the outcome if it has ended or another attempt has it."""
        ref = attempt.task.shard
        assert ref is not None
        run = self._runs.get(ref.run_id)
        # Kept, since a run's options do not change; but each generation adds a script.
        if run is None or len(run.scripts) <= ref.generation:
            run = self._runs[ref.run_id] = self.deployment.ledger.runs.get(ref.run_id)
        if len(run.scripts) <= ref.generation:
            raise LedgerError(
                f"run {ref.run_id} is at generation {run.generation}, but a message names {ref.generation}"
            )
        # Renewals of a run share a partition of DynamoDB, with 1,000 writes a second: more workers, longer leases
        # (docs/decisions/0079).
        workers = min(self.map_concurrency, run.shard_count or self.map_concurrency)  # the queue's are 1,000 at most
        length_s = max(self.lease_s, lease_s(workers) if run.dispatch is Dispatch.MAP else 0.0)
        terms = attempt.attempt_id, length_s, run.options.max_attempts, self.log_stream
        # Before the claim, so that the lease ends here no later than in the ledger.
        begun_s = self.clock.now_s()
        claim = self.deployment.ledger.attempts.claim(
            ref, *terms, engine=self.engine, escalate=next_of(run.options.engine, self.engine)
        )
        attempt.log.info("claim answered", status=claim.status, attempts=claim.record.attempts)
        if claim.status is not ClaimStatus.GRANTED:
            return self._reject(attempt.task, claim)
        record = claim.record
        renew = partial(self.deployment.ledger.attempts.renew, ref.run_id, ref.shard, attempt.attempt_id, length_s)
        lease = Lease(renew, self.clock, attempt.deadline, attempt.log, length_s, begun_s + length_s)
        winner = record.winner or attempt.attempt_id
        staged = f"s3://{self.deployment.bucket}/staged/{ref.run_id}/{ref.shard:06d}-{winner}"
        output = StagedOutput(self.deployment.store, staged, run.shard_output(ref.shard), redone=bool(record.redone))
        # Outputs of inputs have names that others may have taken: the owner in an object's metadata tells whose it is.
        if run.options.output_per:
            owner = f"{run.owner(ref.shard)}-{winner}"
            output = replace(
                output, owner=owner, replaces=lambda by: may_replace(self.deployment, run, OWNER.fullmatch(by))
            )
        return ClaimedShard(self, attempt, run, record, lease, output)

    def queue_of(self, task: Task) -> TaskQueue | None:
        """All shards' messages come by one queue."""
        return self.deployment.queue

    def _reject(self, task: Task, claim: Claim[ShardRecord]) -> Outcome:
        """Acknowledge a message, even if another attempt has the shard: the checker replaces lost messages.

        Only a caller without a message, a Map's child, must try again.
        """
        record = claim.record
        self.deployment.measure(
            metrics.SHARDS_FAILED if claim.status is ClaimStatus.EXHAUSTED else metrics.SHARDS_REJECTED
        )
        # What waits for an engine is no longer this caller's: each retry would be HELD until the engine has done it.
        if claim.status is ClaimStatus.HELD and not task.receipt and record.engine in ("", self.engine):
            held = LeaseLostError(
                f"shard {record.number} is held by attempt {record.attempt_id} until {record.lease_end_s:.0f}"
            )
            return Outcome(task, held, acknowledged=False)
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
    _files: Sequence[ObjectInfo] = ()  # of the winner, as they are staged
    _objects: Sequence[InputObject] = ()  # in the order of the plan's line, or of the file beside it
    _has_members: bool = False  # which no plan names

    def execute(self) -> ShardResult:
        """Run the script, unless an earlier attempt has won, and publish the winner's output."""
        # A winner is for good: readers may have some of its files already, and a second script may write other rows.
        if self.record.winner:
            result, self._files = self._won_before()
        else:
            try:
                done = self.claims.executor.execute(self._execution(), self.attempt)
                # Before the win: a commit run takes the declarations of winners, and must find each. A kill in between
                # leaves a file that no winner names.
                self._store(done.outcome)
                staged = self.output.files(done.uncommitted)
                if any(info.uri == self.output.staged for info in staged):
                    raise PlanError(
                        "the script has written a file in the place of its output folder: a script that writes without "
                        "Spark must write to job.output + '/' and a name"
                    )
                if self.run.options.output_per:
                    staged = self._tell_apart(done, staged)
                result = self._result(done, staged)
            except SparkletError:
                self.output.discard()
                raise
            self._files = staged
            # An attempt that leaves nothing saves the write: there is nothing that another one could publish.
            if staged or done.outcome.writes or self.record.redone:  # this deletes what is there: only the winner may
                persist(lambda: self.lease.extend(winner=result), self.claims.clock, self.attempt)
                self.record = replace(self.record, winner=self.attempt.attempt_id)  # what fails now is no input's fault
        # A worker that wakes late stops here and before each copy: what its successor has published may have been
        # replaced since.
        self.lease.check()
        self.output.publish(self._files, self.lease.check)
        # After the copies, which replace files of the same names at once: what is left has names that are not used
        # again.
        if self.run.options.output_per and self.run.options.incremental:
            self._replace_earlier(self._planned().objects)
        return result

    def _result(self, done: ExecutionResult, staged: Sequence[ObjectInfo]) -> ShardResult:
        """What the ledger keeps; PlanError for a warning if the run is strict, or for a table of Iceberg."""
        if table := next((info.uri for info in staged if OF_ICEBERG.fullmatch(info.uri)), ""):
            raise PlanError(
                f"the script has made an Iceberg table below its output ({table[len(self.output.staged) + 1 :]}): its "
                "metadata names files by the attempt's addresses, which end with it. Run with --table iceberg:NAME, "
                "write by job.append, or let the catalog have a warehouse elsewhere (docs/guide/tables.md)"
            )
        is_well = done.warning == NOTHING and (staged or self.run.is_task)  # checks write nothing
        warning = "" if is_well else done.warning
        if warning and self.run.options.strict:
            raise PlanError(f"{warning} (--strict refuses that)")
        if warning:
            self.attempt.log.warning(warning)
        output_bytes, peak_mb = done.outcome.output_bytes, self.claims.peak_mb
        if (staged or self.record.redone) and output_bytes is None:
            output_bytes = sum(info.size_bytes for info in staged)
        return ShardResult(
            done.outcome.rows,
            output_bytes,
            tuple(map(self.output.published_uri, done.outcome.outputs)),
            schemas=self._keep_schemas(done, staged) if done.schema_reports else {},
            memory_mb=round(peak_mb()) if peak_mb else None,
            warning=cut(warning, WARNING_BYTES) if warning else "",
        )

    def _claim(self, addresses: Mapping[str, bool]) -> None:
        """Note which addresses of its script's own this shard has written, and whether it has replaced what was there.

        PlanError if another shard has written one, and either has replaced what was there: rows are lost.
        """
        deployment, number = self.claims.deployment, self.record.number
        for address, replaced in addresses.items():
            digest = hashlib.sha256(address.encode()).hexdigest()[:16]
            uri = self._run_file(f"addresses/{digest}.json")
            # The first writer's file stays, and all read it back: two shards at once agree on who was first.
            put_once(deployment.store, (uri, _json({"address": address, "shard": number, "replaced": replaced})))
            first = json.loads(deployment.store.get(uri))
            if first["shard"] != number and (replaced or first["replaced"]):
                raise PlanError(
                    f"shards {first['shard']} and {number} both wrote s3://{address}, an address of the script's own, "
                    f"and one has replaced what the other wrote: {OF_THE_RUN}"
                )

    def _tell_apart(self, done: ExecutionResult, staged: Sequence[ObjectInfo]) -> Sequence[ObjectInfo]:
        """Keep under this attempt's name which file is of which input, and what each became; the files that count."""
        files = {info.uri[len(self.output.staged) :]: info for info in staged}
        names, inputs = by_input(self.run, self.record.number, files, self._objects, done.origins)
        # Before the win: an attempt that only publishes reads the names from this file.
        self.claims.deployment.store.put(
            self._run_file(self.record.inputs_file), b"\n".join(map(_json, (names, *inputs)))
        )
        self.output = replace(self.output, names=names)
        self.output.discard([info for path, info in files.items() if path not in names])
        return [info for path, info in files.items() if path in names]

    def _replace_earlier(self, inputs: Sequence[InputObject]) -> None:
        """Delete what earlier runs of the name have published for this shard's inputs under names not used again."""
        store, base = self.claims.deployment.store, f"{self.output.published}/"
        used = {base + name for name in self.output.names.values()}
        for item in inputs:
            name = base + output_name(self.run.run_id, self.run.options, self.run.inputs, item)
            others = (info.uri for info in store.list(name) if info.uri not in used and is_named(info.uri, name))
            store.delete_all((uri for uri in others if self._was_of(item, uri)), base)

    def _was_of(self, item: InputObject, uri: str) -> bool:
        """Whether an earlier run of the same name published the file ``uri`` for an input; no after its clean-up."""
        deployment, owner = self.claims.deployment, self.claims.deployment.store.head(uri).owner
        by = OWNER.fullmatch(owner) if self.output.replaces(owner) else None
        if by and (record := deployment.known_shard(by["run_id"], int(by["shard"]))):
            # The file is gone if that run was cleaned up; S3 calls a missing object forbidden where the role may not
            # list.
            with suppress(ObjectNotFoundError, ObjectForbiddenError):
                lines = deployment.store.get(deployment.run_uri(record.run_id, record.inputs_file)).splitlines()[1:]
                return any(
                    # A file of an archive is an input ``ARCHIVE#FILE``, and the plan names the archive.
                    uri in line["outputs"] and item.uri in (line["input"], line["input"].partition("#")[0])
                    for line in map(json.loads, lines)
                )
        return False

    def _store(self, outcome: JobOutcome) -> None:
        """Store answer and declared writes under this attempt's name, if any; they count if the attempt wins."""
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

    def _keep_schemas(self, done: ExecutionResult, staged: Sequence[ObjectInfo]) -> Mapping[str, str]:
        """Store the schemas of what is to be published and was read, each once a worker; their names, with a file."""
        written = output_schemas(done.schema_reports, [info.uri for info in staged], self.output.staged)
        read = reader_schemas(done.schema_reports.values(), done.objects, self.run.inputs)
        for schema, _ in (*written, *read):
            if (uri := self._run_file(schema.file)) not in self.claims.stored:
                self.claims.deployment.store.put(uri, json.dumps(schema).encode())
                self.claims.stored.add(uri)
        files = {schema.name: self.output.names.get(f"/{file}", file) for schema, file in written}
        return files | {schema.name: uri for schema, uri in read}

    def _run_file(self, name: str) -> str:
        return self.claims.deployment.run_uri(self.record.run_id, name)

    def _won_before(self) -> tuple[ShardResult, Sequence[ObjectInfo]]:
        record = self.record
        self.attempt.log.info("an earlier attempt has won; its output is published", winner=record.winner)
        # A redo that wrote nothing has a winner as well, since it deletes the earlier output: no file is no loss.
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
        """Whether the winner declared writes to tables: then it may have staged nothing to publish."""
        with suppress(ObjectNotFoundError, ObjectForbiddenError):  # forbidden: the worker's role lists no runs
            return bool(self.claims.deployment.store.head(self._run_file(self.record.writes_file)))
        return False

    def _execution(self) -> Execution:
        run, record, shard = self.run, self.record, self._planned()
        self._objects = items = shard.objects
        # A redrive takes what was repaired since the plan. Not in an incremental run, the next of which would take it
        # again, nor for a part, which is one of the object that was cut.
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
            # An engine's worker has no function's limit, and FAIL is the wish to try what may not fit.
            max_bytes=0 if run.options.too_large == FAIL or self.claims.engine else run.options.max_shard_bytes,
            tell=self._take_members,
        )
        # The shard from which this one was split may have committed its rows: commits of both count as its own.
        numbers = record.number, *map(int, re.findall(rf"^{OF_SPLIT}(\d+)", record.part))
        was_told = record.error_class.endswith(COMMITTED_BEFORE)  # whoever redrives it now wants what it writes
        return Execution(
            script=run.scripts[record.generation],
            event=event,
            args=run.args,
            env=run.env,
            is_shard=True,
            inputs=inputs,
            committers=tuple(f"{run.identity}/{number}/" for number in numbers),
            since_s=record.changed_s if was_told else run.created_s - CLOCKS_DIFFER_S,
            # Only then can an earlier commit be there, and to look for it takes a listing of the table's log.
            is_again=record.attempts > 1 or bool(record.error_class or record.redone),
            empty_outputs=bool(run.options.output_per) and run.options.empty_outputs == "file",
            verify=self._refuse_changed if run.options.incremental else None,
            # Asked of the ledger, since the cached run may be from before its plan was sealed, and has no count then.
            is_alone=lambda: self.claims.deployment.ledger.runs.get(run.run_id).shard_count == 1,
            is_planned=self._is_planned,
            claim=self._claim,
            discard=self.output.discard,
            keep_events=self._keep_events if run.options.event_log else None,
        )

    def _planned(self) -> Shard:
        """The claimed shard: from the message's copy of its plan line if that is current, else from the plan."""
        ref, record = self.attempt.task.shard, self.record
        part_uri = f"s3://{self.claims.deployment.bucket}/runs/{record.run_id}/plan/{record.part}"
        line = ref.line.encode() if ref else b""
        # The line in a message is a copy, and counts only if the ledger names the very same place in the plan. A later
        # generation has the same line.
        if not ref or len(line) != record.length or replace(ref, line="", generation=record.generation) != record.ref:
            line = self.claims.deployment.store.get(part_uri, record.offset, record.length)
        return record.planned(line, part_uri)

    def _is_planned(self, uri: str) -> bool:
        """Whether an object below the run's input is of it, by its name."""
        options = self.run.options
        name_filter = Filter(options.include, options.exclude)
        return any(name_filter.keeps(uri.removeprefix(prefix)) for prefix in self.run.inputs if uri.startswith(prefix))

    def _refuse_changed(self, read: Collection[str]) -> None:
        """ObjectChangedError if an input, but for those that were ``read`` by their ETags, has another one by now.

        The next run of the name would take it again. One that is deleted was read before, or has failed the script.
        """
        etags = {item.object_uri: item.etag for item in self._objects if item.etag and not item.version_id}
        unread = [uri for uri in etags if uri not in read]
        heads = self.claims.deployment.inputs(self.run.access).head_all([(uri, "") for uri in unread])
        for uri, info in zip(unread, heads, strict=True):
            if info and info.etag.strip('"') != etags[uri].strip('"'):
                raise ObjectChangedError(
                    f"{uri} was replaced after it was planned, and the script may have read its new content: the next "
                    "incremental run takes it"
                )

    def _take_members(self, inputs: Sequence[InputObject]) -> None:
        """Take the files of archives for inputs, from when they are known: each has what a planned one has."""
        if len(self._objects) < len(inputs) <= MAX_MEMBERS:
            etags = {(item.object_uri, item.version_id): item.etag for item in self._objects}
            self._objects = [replace(item, etag=etags[item.object_uri, item.version_id]) for item in inputs]
            self._has_members = True
            # Splitting goes by this count: an archive of several files can be split, too.
            self.record = replace(self.record, object_count=len(inputs))

    def _keep_events(self, folder: Path) -> None:
        """Store Spark's event log under this attempt's name; that it cannot be stored is no reason to fail."""
        for index, path in enumerate(sorted(folder.iterdir())):  # one, unless the script makes several sessions
            name = f"{EVENTS}{self.record.number:09d}-{self.attempt.attempt_id}-{index}.gz"
            try:
                self.claims.deployment.store.put(self._run_file(name), gzip.compress(path.read_bytes(), 6))
            except (ObjectStoreError, OSError) as error:
                self.attempt.log.warning("Spark's event log could not be stored", cause=str(error))

    def succeed(self, result: ShardResult) -> None:
        """Record SUCCEEDED."""
        mine = self.record.run_id, self.record.number, self.attempt.attempt_id
        inherited = self.record.attempts == 1 and self.record.part.startswith(OF_SPLIT)
        self.claims.deployment.ledger.attempts.succeed(*mine, result, inherited=inherited)

    def is_final(self, failure: Failure) -> bool:
        """Whether no attempt can help or none is left."""
        # A conflict uses up no attempt, and this one is not recorded yet.
        record = replace(self.record, conflicts=self.record.conflicts + is_conflict(failure))
        spent = record.used_attempts >= self.run.options.max_attempts
        return not failure.retryable or spent or is_conclusive(self.record, failure)

    def fail(self, failure: Failure, *, final: bool) -> str:
        """Record FAILED or PENDING; what goes on with the shard: an engine, or a check that splits it.

        "": another attempt, or nothing.
        """
        attempts, record = self.claims.deployment.ledger.attempts, self.record
        mine = (record.run_id, record.number, self.attempt.attempt_id)
        # First of all: what only lacks memory or time is the fault of no input.
        if (larger := next_of(self.run.options.engine, self.claims.engine)) and outgrown(failure):
            attempts.escalate(*mine, failure, larger)
            return larger
        # Whatever attempts are left: each would mix the inputs. Not after a direct commit, which the pieces would
        # repeat, nor in a redo: the pieces would publish beside the shard's earlier output.
        if failure.error_class == MIXED and not (self.run.options.strict or failure.direct or record.redone):
            why = failure.message.partition(": ")[0]
            one_by_one = f"its {record.object_count} inputs are done one by one, each by a job of its own"
            failure = replace(failure, message=f"{why}; {one_by_one} (--strict refuses that)")
            attempts.release(*mine, failure, record.engine, self._to_split(APART))
            return "a check that splits it"
        if final and splits(record, failure):
            attempts.release(*mine, failure, record.engine, self._to_split(self._named(failure) or HALVES))
            return "a check that splits it"
        if final:
            if failure.direct and splits(record, replace(failure, direct=False)):
                failure = replace(failure, message=f"{WHOLE}{failure.message}")
            attempts.fail(*mine, failure)
        else:
            attempts.release(*mine, failure, record.engine)
        return ""

    def _to_split(self, split: str) -> str:
        """How to split; the check finds the files of archives where this stores them. LedgerError if it cannot."""
        if not self._has_members:
            return split
        line = Shard(self.record.number, tuple(self._objects)).to_line()
        try:
            self.claims.deployment.store.put(self._run_file(self.record.members_file), line)
        except ObjectStoreError as error:  # the caller tries again, as it does while the ledger does not answer
            raise LedgerError(f"how to split the shard could not be stored: {error}") from error
        return WITH_MEMBERS + split

    def _named(self, failure: Failure) -> str:
        """The places of the inputs that a failure names; "" unless each name is that of one input, and they are few."""
        named, indexes = {s3_address(file) or file for file in failure.files}, list[str]()
        for index, item in enumerate(self._objects):
            if named & {item.uri, described(item)}:
                indexes.append(str(index))
        return " ".join(indexes) if len(indexes) == len(named) <= MAX_NAMED else ""

    def succeeded(self, result: ShardResult) -> Outcome:
        """Delete the staged files and measure."""
        # Staged files have no readers: the answer need not wait, and ``clean`` deletes what a freeze leaves.
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
        """Measure."""
        self.claims.deployment.measure(metrics.SHARDS_FAILED if final else metrics.SHARDS_RETRIED)
        self.claims.deployment.measure(metrics.ATTEMPT_SECONDS, self.claims.clock.now_s() - self.record.started_s)


@dataclass(frozen=True, slots=True)
class StagedOutput:
    """The output of one attempt: its staging folder and the published one, as URIs without a slash at the end."""

    store: ObjectStore
    staged: str
    published: str
    names: Mapping[str, str] = field(default_factory=dict)  # of an output for each input: see ``by_input``
    owner: str = ""  # then, of the files; see ``ObjectStore.copy_all``
    replaces: Callable[[str], bool] = lambda _: False
    redone: bool = False  # it replaces what earlier attempts of its shard have published

    def files(self, uncommitted: Sequence[str] = (), *, changes: bool = False) -> Sequence[ObjectInfo]:
        """The staged files, without folder markers and unfinished files; declared changes only with ``changes``.

        Also a file in the place of the folder, if there is one.

        Deleted, and never published: files of ``uncommitted`` write jobs, marks of complete ones, logs of streams.
        """
        left_out = () if changes else (f"{self.staged}/{CHANGES}/",)
        files: list[ObjectInfo] = []
        dropped: list[ObjectInfo] = []
        # Without a slash, since a script may have written a file in the folder's place, whose loss nobody would notice.
        for info in self.store.list(self.staged):
            is_other = not f"{info.uri}/".startswith(f"{self.staged}/")
            is_left_out = info.uri.endswith(FOLDER_MARKERS) or f"/{UNFINISHED}/" in info.uri
            if is_other or is_left_out or info.uri.startswith(left_out):
                continue
            name = info.uri.rpartition("/")[2]
            is_mark = name == MARKER or f"/{SINK_LOG}/" in info.uri
            counts = not is_mark and not any(job in name for job in uncommitted)
            (files if counts else dropped).append(info)
        # Deleted, not only left out: an attempt that publishes after the win does not know which jobs were unfinished.
        if dropped:
            self.store.delete_all((info.uri for info in dropped), self.staged)
        return files

    def publish(self, files: Sequence[ObjectInfo], check: Callable[[], None]) -> None:
        """Copy staged files, after ``check`` for each; names of inputs' own are listed before.

        PlanError, for no attempt can help, if a file is gone, or if another owner has its name.
        """

        def name(file: ObjectInfo) -> str:
            path = file.uri[len(self.staged) :]
            return self.names[path] if self.owner else path[1:]

        def checked(file: ObjectInfo) -> tuple[ObjectInfo, str]:
            check()
            return file, f"{self.published}/{name(file)}"

        of_owner: dict[str, Any] = {"owner": self.owner, "replaces": self._may_replace} if self.owner else {}
        # Before the first copy, so that after a kill, too, whoever finds a file can find its list.
        if files and self.owner:
            self.store.put(self._list, _json({name(file): file.size_bytes for file in files}))
        # First the earlier attempts' staged files: a copy of theirs that wakes late finds nothing. Then what they have
        # published, since old rows beside new ones are worse than a moment without (docs/decisions/0087).
        if self.redone:
            self._delete_staged(check)
            # One file takes its predecessor's place by the copy itself. Of several, old and new, a row could be there
            # twice.
            names = [name(file) for file in files if len(files) == 1 or self.owner]
            self._delete_earlier(
                {f"{self.published}/{file_name}" for file_name in names if not OF_SEVERAL.search(file_name)}, check
            )
        try:
            self.store.copy_all(map(checked, files), **of_owner)
        # Permanent, since no script runs after a win. A late publisher whose files its successor has deleted gets here
        # as well, and the ledger refuses its failure.
        except ObjectNotFoundError as error:
            raise PlanError(f"the winner's output is gone, start another run for it: {error}") from error
        except ObjectChangedError as error:
            raise PlanError(f"{error}: move it away, then redrive the run, or name outputs otherwise") from error

        # Last: after a kill before this the next attempt must still learn what earlier ones have published.
        if self.redone and self.owner:
            self.store.delete_all(self._earlier_lists(), f"{self.published}/{NAMES}")

    @property
    def _list(self) -> str:
        return f"{self.published}/{NAMES}{self.owner}.json"

    @property
    def _own(self) -> str:
        """The beginning of the owners' names of this shard's attempts."""
        return f"{self.owner.rpartition('-')[0]}-"

    def _may_replace(self, owner: str) -> bool:
        return self.replaces(owner) or (self.redone and owner.startswith(self._own))

    def _delete_staged(self, check: Callable[[], None]) -> None:
        """Delete what this shard's earlier attempts have staged: one that sleeps publishes nothing any more."""
        folder, _, name = self.staged.rpartition("/")
        others = self.store.list(f"{folder}/{name.partition('-')[0]}-")
        uris = [info.uri for info in others if not info.uri.startswith(f"{self.staged}/")]
        # As late as possible, since a DELETE of S3 cannot depend on the lease.
        check()
        self.store.delete_all(uris, folder)

    def _delete_earlier(self, kept_uris: Collection[str], check: Callable[[], None]) -> None:
        """Delete what they have published: all but what one file replaces at once, so that no row is there twice."""
        if self.owner:
            names = (name for body in self.store.get_all(self._earlier_lists()) for name in json.loads(body))
            uris = {f"{self.published}/{name}" for name in names}.difference(kept_uris)
            # By the owner in each object's metadata: users may have put files of their own under such names.
            heads = self.store.head_all([(uri, "") for uri in sorted(uris)])
            earlier_uris = [info.uri for info in heads if info and info.owner.startswith(self._own)]
        else:
            earlier_uris = [info.uri for info in self.store.list(f"{self.published}/") if info.uri not in kept_uris]
        check()
        self.store.delete_all(earlier_uris, self.published)

    def _earlier_lists(self) -> list[str]:
        lists = self.store.list(f"{self.published}/{NAMES}{self._own}")
        return [info.uri for info in lists if info.uri != self._list]

    def discard(self, files: Sequence[ObjectInfo] | None = None) -> None:
        """Delete all staged files or the given ones; ``clean`` deletes the rest later if this fails."""
        with suppress(ObjectStoreError):
            staged = self.files(changes=True) if files is None else files
            self.store.delete_all((info.uri for info in staged), self.staged)

    def published_uri(self, uri: str) -> str:
        """The published address of a staged file; other addresses do not change."""
        inside = uri == self.staged or uri.startswith(f"{self.staged}/")
        return self.published + uri[len(self.staged) :] if inside else uri


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
