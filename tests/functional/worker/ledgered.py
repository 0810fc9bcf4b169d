"""A deployed worker function with a ledger: the real handler in a separate process; tests enter shards by hand."""

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.errors import ObjectStoreError
from sparklet.ledger.clock import SystemClock
from sparklet.model import (
    InputObject,
    PartRecord,
    Position,
    Run,
    RunOptions,
    ScriptRef,
    Shard,
    ShardRecord,
    ShardRef,
    split_uri,
)
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.planning.request import RunRequest
from sparklet.ports.deployment import Deployment
from sparklet.spark.script_main import AS_IN_LAMBDA
from tests.functional.worker.conftest import MARK, processes_with
from tests.functional.worker.worker_process import WorkerProcess, stand_in, worker_process
from tests.stand_ins.ledger_table import create_table
from tests.stand_ins.memory import MemoryTaskQueue
from tests.waiting import eventually

BUCKET, TABLE, OTHERS = "sparklet-runs", "ledger", "somebody-elses"
DATA = "s3://other-data"  # the bucket with the inputs of runs
GRACE_S = 2.0


@dataclass
class Function:
    """A warm worker function, its ledger and its bucket."""

    worker: WorkerProcess
    clients: AwsClients
    others: S3ObjectStore  # the store of another account, whose bucket the function is not allowed to read
    scratch: Path
    mark: str
    read_bytes: int = field(default=0)  # how much of the log ``new_log`` has returned

    @property
    def store(self) -> S3ObjectStore:
        return S3ObjectStore(self.clients)

    @property
    def ledger(self) -> DynamoLedger:
        return DynamoLedger(self.clients, TABLE)

    @property
    def deployment(self) -> Deployment:
        """The deployment of the function's runs; each call has a new queue."""
        return Deployment(BUCKET, self.store, self.ledger, MemoryTaskQueue(SystemClock()), SystemClock())

    def plan(
        self, script: bytes, inputs: Sequence[str | InputObject] = (), script_uri: str = "", **options: Any
    ) -> ShardRef:
        """Enter a run of one shard and return the shard's reference."""
        run_id = f"run-{uuid.uuid4().hex[:8]}"
        digest = hashlib.sha256(script).hexdigest()
        uri = script_uri or f"s3://{BUCKET}/runs/{run_id}/script/{digest}/job.py"
        if not script_uri:
            self.store.put(uri, script)
        ref = ScriptRef(uri, digest, "s3://mine/job.py")
        run = Run(run_id, ("s3://in/",), f"s3://{BUCKET}/out/{run_id}/", (ref,), options=RunOptions(**options))
        items = tuple(each if isinstance(each, InputObject) else self.input_object(each) for each in inputs)
        return enter(self.store, self.ledger, run, items).ref

    def input_object(self, uri: str) -> InputObject:
        """Return an object as a listing has it; with a made-up size of 4 bytes if it does not exist."""
        try:
            info = self.store.head(uri)
        except ObjectStoreError:
            return InputObject(uri, 4)
        return InputObject(uri, info.size_bytes, info.etag, modified_s=info.modified_s)

    def with_line(self, ref: ShardRef) -> ShardRef:
        """Return the reference as the planner sends it, with the shard's line of the plan."""
        part = f"s3://{BUCKET}/runs/{ref.run_id}/plan/{ref.part}"
        return replace(ref, line=self.store.get(part, ref.offset, ref.length).decode())

    def plan_request(self, request: RunRequest) -> list[ShardRef]:
        """Plan a run as a user requests it, with schema inference; return the shards of the queue's messages."""
        queue = MemoryTaskQueue(SystemClock())
        deployment = replace(self.deployment, queue=queue)

        def sent() -> Iterator[ShardRef]:
            while batch := queue.receive():
                yield from filter(None, (ShardRef.from_document(json.loads(message.body)) for message in batch))

        new_run(deployment, request)
        plan(deployment, request.run_id, wait=lambda _: not self.deliver(*sent()))
        return list(sent())

    def redrive(self, record: ShardRecord) -> ShardRef:
        """Redrive a shard that has failed, and return the shard's new reference."""
        run, generation = self.ledger.runs.get(record.run_id), record.generation + 1
        self.ledger.runs.start_generation(record.run_id, generation, run.scripts[0])
        again = self.ledger.attempts.redrive(record.run_id, record.number, generation)
        assert again
        return again.ref

    def deliver(self, *refs: ShardRef) -> list[str]:
        """Invoke the function with a message for each shard; return the ids of the messages that have failed."""
        records = [
            {"eventSource": "aws:sqs", "messageId": str(place), "body": ref.to_body()} for place, ref in enumerate(refs)
        ]
        response = self.invoke({"Records": records})
        return [failure["itemIdentifier"] for failure in response["answer"]["batchItemFailures"]]

    def invoke(self, event: Any) -> Any:
        return self.worker.invoke(event)

    def shard(self, ref: ShardRef) -> ShardRecord:
        return self.ledger.shards.get(ref.run_id, ref.shard)

    def new_log(self) -> bytes:
        """Return the part of the log that was written since the last call."""
        with self.worker.log.open("rb") as file:
            file.seek(self.read_bytes)
            new = file.read()
        self.read_bytes += len(new)
        return new

    def skip_log(self) -> None:
        """Let the next ``new_log`` return only what is written from now on."""
        self.new_log()

    def printed(self, word: str) -> list[Any]:
        """Return the JSON values of the new lines of the log that begin with this word."""
        lines = [line.partition(b" ") for line in self.new_log().split(b"\n")]
        return [json.loads(text) for first, _, text in lines if first == word.encode()]

    def wait_for_scripts_to_end(self) -> None:
        """Wait until only the worker, its host and its JVM run.

        A forked daemon has the same command line as the host, and so has, for a moment, a JVM that the host starts in
        place of a lost one. So only one process of each command line counts as the worker's own.
        """
        eventually(lambda: not self._processes_of_scripts(), "scripts left nothing running")

    def _processes_of_scripts(self) -> dict[int, str]:
        commands = dict(sorted(processes_with(self.mark).items()))
        commands.pop(self.worker.process.pid, None)
        for own in ("-m sparklet.spark.script_host", "pyspark-shell"):
            first = next((pid for pid, command in commands.items() if own in command), None)
            if first is not None:
                del commands[first]
        return commands


def enter(store: S3ObjectStore, ledger: DynamoLedger, run: Run, items: tuple[InputObject, ...]) -> ShardRecord:
    """Enter a run of one shard, as ``new_run`` and ``plan`` do, and return the shard's record."""
    ledger.runs.create(run)
    size_bytes, line, part = sum(item.size_bytes for item in items), Shard(0, items).to_line(), "part-00000-test.jsonl"
    store.put(f"s3://{BUCKET}/runs/{run.run_id}/plan/{part}", line)
    ledger.runs.add_part(run.run_id, PartRecord(0, part, 0, 1, len(items), size_bytes, Position()))
    record = ShardRecord(run.run_id, 0, part, 0, len(line), len(items), size_bytes)
    ledger.shards.add([record])
    ledger.runs.seal_plan(run.run_id, 1, len(items), size_bytes)
    return record


@contextmanager
def deployed(folder: Path, scratch: Path, **env: str) -> Iterator[Function]:
    """Start a worker function on a new AWS stand-in."""
    mark = uuid.uuid4().hex
    own = {
        "SPARKLET_LEDGER_TABLE": TABLE,
        "SPARKLET_BUCKET": BUCKET,
        "SPARKLET_SCRIPT_PREFIXES": f"s3://{OTHERS}/scripts/",
        "SPARKLET_GRACE_S": str(GRACE_S),
        MARK: mark,
    }
    with stand_in(folder) as (endpoint, clients):
        for bucket in (BUCKET, split_uri(DATA)[0]):
            clients.s3.create_bucket(Bucket=bucket)
        create_table(clients.dynamodb, TABLE)
        env = {AS_IN_LAMBDA: "1", **own, **env}
        with worker_process(folder, endpoint, scratch, **env) as worker:
            yield Function(worker, clients, _another_account(endpoint), scratch, mark)


def _another_account(endpoint: str) -> S3ObjectStore:
    """Return the store of another account: the stand-in treats a twelve-digit access key as an account number."""
    clients = AwsClients(endpoint_url=endpoint, region="us-east-1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "111111111111")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        clients.s3.create_bucket(Bucket=OTHERS)
    return S3ObjectStore(clients)
