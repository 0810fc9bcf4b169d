"""The fan-out over the AWS adapters and the stand-in: what holds in memory holds there."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from sparklet.app.object_status import object_status
from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.object_store import S3ObjectStore
from sparklet.model import ClaimStatus, Counts, Dispatch, Failure, RunOptions, RunState, Shard, ShardRef, ShardResult
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.planning.request import RunRequest
from sparklet.ports.deployment import Deployment
from sparklet.runs.checker import check
from sparklet.runs.redrive import redrive
from sparklet.runs.state_machine_steps import take_step
from tests.stand_ins.ledger_table import table_definition
from tests.stand_ins.memory import FakeClock, MemoryNotifier
from tests.stand_ins.ministack import ministack
from tests.stand_ins.read_queues import ReadSqsQueue, readable
from tests.world import Fault, KilledError

pytestmark = pytest.mark.stack

OBJECTS = 23
BROKEN = Failure("ValueError", "bad", retryable=False)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsClients]:
    folder: Path = tmp_path_factory.mktemp("ministack")
    with pytest.MonkeyPatch.context() as patch, ministack(folder) as endpoint:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield AwsClients(8, endpoint_url=endpoint, region="us-east-1")


@pytest.fixture
def at(clients: AwsClients) -> Deployment:
    """A bucket, a queue and a table of the test's own; leases and stalls by a clock that is moved by hand."""
    name, clock = f"fanout-{uuid.uuid4().hex[:8]}", FakeClock(time.time())  # the stand-in's objects have its time
    clients.s3.create_bucket(Bucket=name)
    clients.dynamodb.create_table(**table_definition(name))
    queue_url = clients.sqs.create_queue(QueueName=name)["QueueUrl"]
    store = S3ObjectStore(clients)
    store.put(f"s3://{name}/job.py", b"print('x')\n")
    for number in range(OBJECTS):
        store.put(f"s3://{name}/in/{number:03d} ü.csv", b"0123456789")
    return Deployment(name, store, DynamoLedger(clients, name, clock), ReadSqsQueue(clients, queue_url), clock)


def request(at: Deployment, **options: float) -> RunRequest:
    inputs, output = (f"s3://{at.bucket}/in/",), f"s3://{at.bucket}/out/"
    run_options = RunOptions(max_objects=2, **options)  # type: ignore[arg-type]
    return RunRequest(f"s3://{at.bucket}/job.py", inputs, output, run_id="run-1", options=run_options)


def work(
    at: Deployment, do: Callable[[int], ShardResult | Failure | None] = lambda _: ShardResult(rows=1)
) -> list[int]:
    """Do every message in the queue; a shard that ``do`` answers None for is left as by a killed worker."""
    done = []
    while messages := readable(at.queue).receive():
        for message in messages:
            ref = ShardRef.from_document(json.loads(message.body))
            assert ref is not None
            attempt_id = uuid.uuid4().hex
            claim = at.ledger.attempts.claim(ref, attempt_id, lease_s=100, max_attempts=3)
            if claim.status is ClaimStatus.GRANTED:
                done.append(ref.shard)
                outcome = do(ref.shard)
                if isinstance(outcome, ShardResult):
                    at.ledger.attempts.succeed(ref.run_id, ref.shard, attempt_id, outcome)
                elif outcome:
                    at.ledger.attempts.fail(ref.run_id, ref.shard, attempt_id, outcome)
            readable(at.queue).delete(message.receipt)
    return sorted(done)


def planned(at: Deployment) -> list[str]:
    records = at.ledger.shards.list("run-1")
    lines = (at.store.get(at.part_uri("run-1", r.part), r.offset, r.length) for r in records)
    return [item.uri for line in lines for item in Shard.from_line(line).objects]


def test_a_run_goes_through_failures_and_redrive_to_its_end(at: Deployment) -> None:
    run = plan(at, new_run(at, request(at)).run_id, part_shards=5)
    assert (run.shard_count, run.object_count, run.size_bytes) == (12, OBJECTS, 230)
    assert planned(at) == [f"s3://{at.bucket}/in/{n:03d} ü.csv" for n in range(OBJECTS)]

    assert work(at, lambda n: BROKEN if n == 3 else None if n == 7 else ShardResult(rows=1)) == list(range(12))
    assert check(at, "run-1").counts == Counts(running=1, succeeded=10, failed=1)
    at.clock.sleep(101)
    assert check(at, "run-1").expired == 1
    assert work(at) == [7]
    report = check(at, "run-1")
    assert report.run.state is RunState.FAILED and report.summary is not None
    assert (report.summary.counts, report.summary.rows) == (Counts(succeeded=11, failed=1), 11)

    assert redrive(at, "run-1").shards == 1
    assert work(at) == [3]
    assert check(at, "run-1").run.state is RunState.SUCCEEDED
    manifest = json.loads(at.store.get(at.run_uri("run-1", "manifest.json")))
    assert manifest["ItemCounts"]["Succeeded"] == 12 and manifest["ResultFiles"]["FAILED"] == []
    fate = object_status(at, "run-1", f"s3://{at.bucket}/in/007 ü.csv")
    (found,) = fate.shards
    assert found.record is not None and found.record.number == 3 and found.record.generation == 1


def test_checks_follow_ups_and_notices_survive_a_dying_checker(at: Deployment) -> None:
    script, ear = f"s3://{at.bucket}/job.py", MemoryNotifier()
    at = replace(at, notifier=ear)
    follow_ups = {"check": script, "next": script, "next_output": f"s3://{at.bucket}/next/"}
    plan(at, new_run(at, replace(request(at), **follow_ups)).run_id)  # type: ignore[arg-type]
    for number in work(at):
        at.store.put(f"{at.ledger.runs.get('run-1').shard_output(number)}/part-0.parquet", b"rows")

    for at_call in range(1, 400, 3):
        with suppress(KilledError):
            check(Fault(at_call, after_effect=bool(at_call % 2)).deployment(at), "run-1")
        at.clock.sleep(1000)  # who planned the check or next run is silent by then
        work(at)
        if at.ledger.runs.get("run-1").notified_s is not None:
            break

    assert {notice.state for notice in ear.notices} == {"SUCCEEDED"}
    manifest = json.loads(at.store.get(at.run_uri("run-1", "manifest.json")))
    assert manifest["Check"] == {"RunId": "run-1-check-0", "Status": "SUCCEEDED"}
    (judged,) = at.ledger.shards.list("run-1-check-0")
    assert (judged.object_count, judged.attempts) == (1, 1)
    follower = plan(at, "run-1-next-0")
    assert (follower.parent, follower.object_count) == ("run-1", 12)


def test_lost_messages_are_resent_until_the_time_limit(at: Deployment, clients: AwsClients) -> None:
    plan(at, new_run(at, request(at, time_limit_s=3600.0)).run_id)
    for _ in range(12):
        for message in readable(at.queue).receive():
            readable(at.queue).delete(message.receipt)
    at.clock.sleep(61)
    assert check(at, "run-1").requeued == 12
    assert work(at, lambda n: ShardResult() if n < 10 else None) == list(range(12))
    at.clock.sleep(3600)
    report = check(at, "run-1")  # the two leases expire, and what is PENDING then has no time left
    assert report.expired == 2
    at.clock.sleep(1)
    report = check(at, "run-1")
    assert report.run.state is RunState.FAILED
    assert report.counts == Counts(succeeded=10, failed=2)


def test_batches_alone_bring_a_run_to_its_end(at: Deployment) -> None:
    plan(at, new_run(at, replace(request(at), dispatch=Dispatch.MAP)).run_id, part_shards=5)
    killed, failed, batches = 7, 3, []
    for number in range(9):
        answer = take_step(at, 10, {"step": "batch", "run_id": "run-1", "batch": number})
        if answer["ended"]:
            break
        body = at.store.get(f"s3://{answer['bucket']}/{answer['key']}") if answer["count"] else b""
        items = [json.loads(line) for line in body.splitlines()]
        assert answer["items"] == (items if answer["how"] == "inline" else [])
        batches.append([item["shard"] for item in items])
        for item in items:
            ref, attempt_id = ShardRef.from_document(item), uuid.uuid4().hex
            assert ref is not None
            assert at.ledger.attempts.claim(ref, attempt_id, lease_s=100, max_attempts=3).status is ClaimStatus.GRANTED
            if ref.shard == failed:
                at.ledger.attempts.fail("run-1", ref.shard, attempt_id, BROKEN)
            elif ref.shard != killed or number:
                at.ledger.attempts.succeed("run-1", ref.shard, attempt_id, ShardResult(rows=1))
        at.clock.sleep(60)

    assert [batch for batch in batches if batch] == [list(range(12)), [killed]]
    assert (answer["state"], answer["counts"]["succeeded"]) == ("FAILED", 11)
    assert list(readable(at.queue).receive()) == []
