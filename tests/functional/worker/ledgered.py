"""A deployed worker function with a ledger: the real handler in a process of its own, shards entered by hand."""

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
from tests.functional.worker.conftest import MARK, marked
from tests.functional.worker.worker_process import WorkerProcess, stand_in, worker_process
from tests.stand_ins.ledger_table import create_table
from tests.stand_ins.memory import MemoryTaskQueue
from tests.waiting import eventually

BUCKET, TABLE, OTHERS = "sparklet-runs", "ledger", "somebody-elses"
DATA = "s3://other-data"  # which a run reads
GRACE_S = 2.0


@dataclass
class Function:
    """A warm worker function, its ledger and its bucket."""

    worker: WorkerProcess
    clients: AwsClients
    others: S3ObjectStore  # of another account, whose bucket the function may not read
    scratch: Path
    mark: str
    read_bytes: int = field(default=0)  # of the log, by ``said``

    @property
    def store(self) -> S3ObjectStore:
        return S3ObjectStore(self.clients)

    @property
    def ledger(self) -> DynamoLedger:
        return DynamoLedger(self.clients, TABLE)

    @property
    def deployment(self) -> Deployment:
        """Where the function's runs are, with a queue of whoever asks."""
        return Deployment(BUCKET, self.store, self.ledger, MemoryTaskQueue(SystemClock()), SystemClock())

    def plan(
        self, script: bytes, inputs: Sequence[str | InputObject] = (), script_uri: str = "", **options: Any
    ) -> ShardRef:
        """Enter a run of one shard."""
        run_id = f"run-{uuid.uuid4().hex[:8]}"
        digest = hashlib.sha256(script).hexdigest()
        uri = script_uri or f"s3://{BUCKET}/runs/{run_id}/script/{digest}/job.py"
        if not script_uri:
            self.store.put(uri, script)
        ref = ScriptRef(uri, digest, "s3://mine/job.py")
        run = Run(run_id, ("s3://in/",), f"s3://{BUCKET}/out/{run_id}/", (ref,), options=RunOptions(**options))
        items = tuple(each if isinstance(each, InputObject) else self.listed(each) for each in inputs)
        return enter(self.store, self.ledger, run, items).ref

    def listed(self, uri: str) -> InputObject:
        """An object as a listing has it; one that is not there as it was."""
        try:
            info = self.store.head(uri)
        except ObjectStoreError:
            return InputObject(uri, 4)
        return InputObject(uri, info.size_bytes, info.etag, modified_s=info.modified_s)

    def planned(self, request: RunRequest) -> list[ShardRef]:
        """Plan a run as a user requests it, its schema inferred; what its messages name."""
        queue = MemoryTaskQueue(SystemClock())
        deployment = replace(self.deployment, queue=queue)

        def sent() -> Iterator[ShardRef]:
            while batch := queue.receive():
                yield from filter(None, (ShardRef.from_document(json.loads(message.body)) for message in batch))

        new_run(deployment, request)
        plan(deployment, request.run_id, wait=lambda _: not self.deliver(*sent()))
        return list(sent())

    def redriven(self, record: ShardRecord) -> ShardRef:
        """Reopen a shard that has failed."""
        run, generation = self.ledger.runs.get(record.run_id), record.generation + 1
        self.ledger.runs.start_generation(record.run_id, generation, run.scripts[0])
        again = self.ledger.attempts.redrive(record.run_id, record.number, generation)
        assert again
        return again.ref

    def deliver(self, *refs: ShardRef) -> list[str]:
        """Invoke with a message for each; the messages that come back."""
        records = [
            {"eventSource": "aws:sqs", "messageId": str(place), "body": ref.to_body()} for place, ref in enumerate(refs)
        ]
        answer = self.invoke({"Records": records})
        return [failure["itemIdentifier"] for failure in answer["answer"]["batchItemFailures"]]

    def invoke(self, event: Any) -> Any:
        return self.worker.invoke(event)

    def shard(self, ref: ShardRef) -> ShardRecord:
        return self.ledger.shards.get(ref.run_id, ref.shard)

    def said(self) -> bytes:
        """What the log holds since this was last asked."""
        with self.worker.log.open("rb") as file:
            file.seek(self.read_bytes)
            new = file.read()
        self.read_bytes += len(new)
        return new

    def told(self, word: str) -> list[Any]:
        """The JSON behind a word at the beginning of new lines of the log."""
        lines = [line.partition(b" ") for line in self.said().split(b"\n")]
        return [json.loads(text) for first, _, text in lines if first == word.encode()]

    def await_own_alone(self) -> None:
        """Wait until nothing runs beside the worker, its host and its JVM, of which there is one each.

        A forked daemon bears the host's own command line; so does, for an instant, the JVM that the host starts in
        place of a lost one.
        """
        eventually(lambda: not self._beside_our_own(), "scripts left nothing running")

    def _beside_our_own(self) -> dict[int, str]:
        found = {pid: line for pid, line in sorted(marked(self.mark).items()) if pid != self.worker.process.pid}
        for own in ("-m sparklet.spark.script_host", "pyspark-shell"):
            first = next((pid for pid, line in found.items() if own in line), None)
            found.pop(first or 0, None)
        return found


def enter(store: S3ObjectStore, ledger: DynamoLedger, run: Run, items: tuple[InputObject, ...]) -> ShardRecord:
    """Enter a run of one shard, as ``new_run`` and ``plan`` do."""
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
    """A function on a stand-in of its own."""
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
    """The stand-in takes an access key of twelve digits for the number of an account."""
    clients = AwsClients(endpoint_url=endpoint, region="us-east-1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "111111111111")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        clients.s3.create_bucket(Bucket=OTHERS)
    return S3ObjectStore(clients)
