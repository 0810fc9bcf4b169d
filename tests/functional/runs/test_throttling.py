"""A published experiment with throttling, repeated on the stand-in: messages become dead letters though no code ran.

In the experiment 15,000 messages took two minutes each, with a visibility of ten minutes and one allowed receive. 103
of them were received while workers were throttled, and went to the dead-letter queue; the dashboard showed 100 %
success.
"""

import io
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sparklet.app.documents import result_document
from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.cli.render import summary_table
from sparklet.events import parse_event
from sparklet.job.outcome import EVENT
from sparklet.ledger.clock import SystemClock
from sparklet.log import Log
from sparklet.model import Counts, RunOptions, RunState
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.planning.request import RunRequest
from sparklet.ports.deployment import Deployment
from sparklet.ports.metrics import Emitter, Meter
from sparklet.runs.checker import check
from sparklet.runs.handlers import handle_check, handle_dead_letters
from sparklet.runs.manifest import verify
from sparklet.runs.summary import summarize
from sparklet.settings import worker_settings
from sparklet.spark.runner import Deadline, Output, Runner, ScriptCall, ScriptResult
from sparklet.worker.executor import Executor, ScriptCache
from sparklet.worker.handler import Measuring
from sparklet.worker.shards import ShardClaims
from sparklet.worker.worker import Worker
from tests.stand_ins.ledger_table import create_table
from tests.stand_ins.ministack import ministack
from tests.stand_ins.read_queues import ReadSqsQueue, Received, readable
from tests.unit.test_metrics import METRICS, check_emf

pytestmark = pytest.mark.stack

SHARDS = 23  # two full receives of ten messages, and a smaller one
RECEIVES = 2
WORKERS = 3


@dataclass
class Account:
    """A queue whose messages soon become dead letters under throttling, these letters, and the functions' metrics."""

    deployment: Deployment
    letters: ReadSqsQueue
    repair: Callable[[], object]  # sets the settings that the experiment should have had
    sent_ms: int = field(default_factory=lambda: int(time.time() * 1000))  # when the present messages were sent
    lines: list[str] = field(default_factory=list)  # of metrics
    runs: Counter[int] = field(default_factory=Counter)  # how often each shard's script ran

    def measured(self, name: str) -> float:
        """The sum of a metric so far."""
        assert name in METRICS
        documents = [check_emf(line) for line in self.lines]
        return sum(sum(v) if isinstance(v := each.get(name, 0), list) else v for each in documents)

    def meter(self, emitter: Emitter) -> Meter:
        return Meter("Sparklet/test", emitter, self.lines.append)

    def check(self) -> dict[str, Any]:
        """Make a scheduled check; return its metrics."""
        meter = self.meter(Emitter.CHECKER)
        handle_check(replace(self.deployment, meter=meter))
        meter.emit()
        return check_emf(self.lines[-1])


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    name = f"throttled-{uuid.uuid4().hex[:8]}"
    with pytest.MonkeyPatch.context() as patch, ministack(tmp_path) as endpoint:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        clients = AwsClients(8, endpoint_url=endpoint, region="us-east-1")
        clients.s3.create_bucket(Bucket=name)
        create_table(clients.dynamodb, name)
        dead_url = clients.sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
        arn = clients.sqs.get_queue_attributes(QueueUrl=dead_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": RECEIVES})
        attributes: Any = {"VisibilityTimeout": "1", "RedrivePolicy": policy}
        url = clients.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        store, letters = S3ObjectStore(clients), ReadSqsQueue(clients, dead_url)
        deployment = Deployment(name, store, DynamoLedger(clients, name), ReadSqsQueue(clients, url), SystemClock())
        store.put(f"s3://{name}/job.py", b"print('x')\n")
        for number in range(SHARDS):
            store.put(f"s3://{name}/in/{number:03d}.csv", b"0123456789")
        request = RunRequest(
            f"s3://{name}/job.py",
            (f"s3://{name}/in/",),
            f"s3://{name}/out/",
            run_id="run-1",
            options=RunOptions(max_objects=1),
        )
        plan(deployment, new_run(deployment, request).run_id)
        repaired: Any = {"VisibilityTimeout": "60", "RedrivePolicy": policy.replace(f": {RECEIVES}", ": 20")}
        yield Account(deployment, letters, lambda: clients.sqs.set_queue_attributes(QueueUrl=url, Attributes=repaired))


def record_of(message: Received, sent_ms: int) -> dict[str, Any]:
    """A message's record in Lambda's event; a dead letter has the time at which its message was sent."""
    attributes = {"ApproximateReceiveCount": str(message.receive_count), "SentTimestamp": str(sent_ms)}
    record = {"messageId": message.message_id, "receiptHandle": message.receipt, "body": message.body}
    return {**record, "attributes": attributes, "eventSource": "aws:sqs"}


def throttle(account: Account) -> int:
    """Receive messages without running a worker, as throttled pollers do, until the queue is empty.

    Return the number of received messages.
    """
    receives = 0
    while len(readable(account.deployment.queue)):
        receives += len(readable(account.deployment.queue).receive(10, wait_s=1))
    return receives


def consume(account: Account, twice: int = 0) -> int:
    """Invoke the dead letters' consumer as Lambda does, with the first ``twice`` letters twice.

    Return the number of letters.
    """
    consumed = 0
    while letters := account.letters.receive(10):
        again = list(letters[: max(0, twice - consumed)])
        records = [record_of(m, account.sent_ms) for m in [*letters, *again]]
        meter = account.meter(Emitter.DLQ_CONSUMER)
        assert handle_dead_letters(replace(account.deployment, meter=meter), {"Records": records}) == {
            "batchItemFailures": []
        }
        meter.emit()
        for letter in letters:
            account.letters.delete(letter.receipt)
        consumed += len(letters)
    account.sent_ms = int(time.time() * 1000)
    return consumed


@dataclass
class Scripts(Runner):
    """A runner whose script writes one file with one row; the account counts its runs."""

    account: Account

    def start(self) -> None:
        pass

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        event = json.loads(call.env[EVENT])
        self.account.deployment.store.put(f"{event['output_path']}/part-0.csv", b"1\n")
        self.account.runs[event["sparklet"]["shard"]] += 1
        Path(call.env["SPARKLET_OUTCOME_FILE"]).write_text('{"rows": 1, "output_bytes": 2}')
        return ScriptResult(0)

    def close(self) -> None:
        pass


def work(account: Account, folder: Path) -> None:
    """Let one worker, which is real except for Spark, do messages until the queue is empty."""
    deployment, runner, scratch = account.deployment, Scripts(account), str(folder / "scratch")
    env = {"SPARKLET_BUCKET": deployment.bucket, "SPARKLET_LEDGER_TABLE": "t", "SPARKLET_SCRATCH": scratch}
    settings = worker_settings(env)
    settings.scratch.mkdir(parents=True)
    scripts = ScriptCache(deployment.store, settings.scratch / "scripts", settings.script_prefixes)
    executor, measuring = Executor(settings, runner, scripts), Measuring(account.meter(Emitter.WORKER))
    shards = ShardClaims(replace(deployment, meter=measuring.meter), executor)
    worker = Worker(executor, shards, None, Log(io.BytesIO()))
    while messages := readable(deployment.queue).receive(1):
        (message,) = messages
        tasks = parse_event({"Records": [record_of(message, account.sent_ms)]})
        outcomes = [worker.run(task, Deadline.within(60, now_s=deployment.clock.now_s()), "r") for task in tasks]
        if all(outcome.acknowledged for outcome in outcomes):
            readable(deployment.queue).delete(message.receipt)
        measuring.invocation(outcomes, runner, "r")


def test_throttled_dead_letters_are_neither_lost_nor_doubled(account: Account, tmp_path: Path) -> None:
    """GIVEN messages that were received too often while no worker ran, THEN each shard runs once, as metrics show."""
    assert throttle(account) == SHARDS * RECEIVES
    assert len(account.letters) == SHARDS
    assert account.deployment.ledger.shards.count("run-1") == Counts(pending=SHARDS)
    assert all(record.attempts == 0 for record in account.deployment.ledger.shards.list("run-1"))
    during = account.check()
    assert (during["ShardsPending"], during["RunsOpen"]) == (SHARDS, 1)  # no metric shows success

    assert consume(account, twice=3) == SHARDS
    assert len(readable(account.deployment.queue)) == SHARDS
    assert throttle(account) == SHARDS * RECEIVES  # the workers are still throttled
    assert consume(account) == SHARDS
    assert (account.measured("DeadLettersResent"), account.measured("DeadLettersDropped")) == (2 * SHARDS, 3)
    assert account.measured("ShardsFailed") == account.measured("DeadLettersFailed") == 0

    account.repair()
    # Send a second message for five shards.
    account.deployment.queue.send(
        record.ref.to_body() for record in islice(account.deployment.ledger.shards.list("run-1"), 5)
    )
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda n: work(account, tmp_path / f"worker-{n}"), range(WORKERS)))

    assert account.runs == Counter(range(SHARDS))  # each shard ran once
    assert check(account.deployment, "run-1").run.state is RunState.SUCCEEDED
    assert account.deployment.ledger.shards.count("run-1") == Counts(succeeded=SHARDS)
    assert len(readable(account.deployment.queue)) == len(account.letters) == 0
    assert account.measured("ShardsSucceeded") == account.measured("RowsWritten") == SHARDS
    assert account.measured("ShardsTurnedAway") == 5
    assert list(verify(account.deployment, "run-1")) == []

    run = account.deployment.ledger.runs.get("run-1")
    summary = summarize(account.deployment, run)
    assert summary.unrun == 2 * SHARDS
    env: Any = SimpleNamespace(deployment=account.deployment, state=None)
    assert result_document(env, run, summary)["came_back_unrun"] == summary.unrun
    shown = Console(file=io.StringIO(), width=200)
    shown.print(summary_table(env, run, summary))
    assert f"{summary.unrun} messages" in shown.file.getvalue()  # type: ignore[attr-defined]
    manifest = json.loads(account.deployment.store.get(account.deployment.run_uri("run-1", "manifest.json")))
    assert (manifest["run"]["came_back_unrun"], manifest["run"]["counts"]["succeeded"]) == (summary.unrun, SHARDS)
