"""Scenarios for the deployed functions: everything that makes a difference in their calls to AWS."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparklet.aws.clients import AwsClients
from sparklet.model import (
    Access,
    ClaimStatus,
    Failure,
    InputObject,
    PartRecord,
    Position,
    RunOptions,
    RunState,
    Shard,
    ShardRef,
    ShardState,
)
from sparklet.planning.inputs.list_requests import ListRequest
from sparklet.planning.new_run import new_run
from sparklet.planning.request import RunRequest
from sparklet.runs.redrive import redrive
from tests.deploy.recorded_stack import OUTSIDE, ROLE, THEIRS, Earlier, RecordedStack
from tests.deploy.step_scenarios import take_steps
from tests.stand_ins.read_queues import readable
from tests.waiting import eventually

JOB = Path(__file__).parent / "scripts" / "job.py"
CSV = b"".join(b"%d,row\n" % n for n in range(20))
RUNS = {  # runs whose planners died, with their final states
    "work": "CANCELLED",
    "ends": "SUCCEEDED",
    "versions": "CANCELLED",
    "theirs": "SUCCEEDED",
    "cut-off": "SUCCEEDED",  # after a redrive
    "read-again": "CANCELLED",
}
FOLLOWING = {"ends-check-1": "SUCCEEDED", "ends-next-1": "CANCELLED"}
# Runs that the planner function enters or continues.
ASKED = (
    *("asked", "asked-versions", "asked-theirs", "asked-table", "asked-again", "asked-written", "asked-whole"),
    "half-planned",
)
VERSIONS = f"s3://{OUTSIDE}/in/versions.jsonl"  # a list that names versions of objects
CUT = RunOptions(max_objects=1, split="csv", target_bytes=64)


def lead_through(stack: RecordedStack) -> None:
    """Lead every function through all of its paths that make different calls."""
    place_inputs(stack)
    do_tasks(stack)  # first, while there is no output/ yet: S3A then makes further calls
    enter_runs(stack)
    report = stack.invoke("CheckerFunction", {})  # it continues the plans that were left two hours ago
    assert {name for name, run in report["runs"].items() if run["planned"]} == set(RUNS) - {"cut-off"}, report
    do_shards(stack, received(stack))
    ask_for_runs(stack)
    settle_letters(stack)
    do_large_shard(stack)
    end_runs(stack)
    take_steps(stack)


def place_inputs(stack: RecordedStack) -> None:
    store, own = stack.deployment().store, f"s3://{stack.bucket}"
    for uri in (
        *(f"{own}/input/{name}.csv" for name in ("work", "released", "failed/failed")),
        f"s3://{OUTSIDE}/in/data/work.csv",
        f"s3://{OUTSIDE}/in/visits/day=a/1.csv",
        f"s3://{THEIRS}/data/rows.csv",
    ):
        store.put(uri, b"1,row\n")
    for uri in (
        f"s3://{OUTSIDE}/in/data/large.csv",
        f"s3://{OUTSIDE}/out/earlier/rows.csv",
        *[f"s3://{OUTSIDE}/in/versions/work.csv"] * 2,
    ):
        store.put(uri, CSV)
    found = AwsClients().s3.list_object_versions(Bucket=OUTSIDE, Prefix="in/versions/")["Versions"]
    rows = [{"bucket": OUTSIDE, "key": each["Key"], "version_id": each["VersionId"]} for each in found]
    store.put(VERSIONS, "\n".join(map(json.dumps, rows)).encode())
    for uri in (f"{own}/scripts/job.py", f"s3://{OUTSIDE}/in/jobs/job.py"):
        store.put(uri, JOB.read_bytes())


def do_tasks(stack: RecordedStack) -> None:
    """Do tasks: a plain event that reads outside the stack's bucket, tables, an asynchronous task, a stream's batch."""
    event = {
        "sparklet": {"script": f"s3://{stack.bucket}/scripts/job.py"},
        "inputs": [f"s3://{OUTSIDE}/in/data/work.csv"],
        "params": {"folder": f"s3://{OUTSIDE}/in/data/"},
        "output_path": f"s3://{stack.bucket}/output/plain",
    }
    for bucket in (stack.bucket, OUTSIDE):
        answer = stack.invoke("WorkerFunction", {**event, "output_path": f"s3://{bucket}/output/plain"})
        assert answer["state"] == "SUCCEEDED", answer
    for params in ({"table": "lake.rows"}, {"looked_up": "sales.visits"}):
        answer = stack.invoke("WorkerFunction", {**event, "params": params})
        assert answer["state"] == "SUCCEEDED", answer
    event["sparklet"] = {"script": f"s3://{stack.bucket}/scripts/mistyped.py"}
    assert "is not there" in stack.failure("WorkerFunction", event)
    body = json.dumps({"sparklet": {"script": f"s3://{stack.bucket}/scripts/job.py"}})
    assert stack.invoke("WorkerFunction", {"Records": [task_record("t1", body)]}) == {"batchItemFailures": []}
    data = {"data": "e30=", "partitionKey": "1", "sequenceNumber": "1"}
    stream = {"eventSource": "aws:kinesis", "eventID": "shardId-0:1", "kinesis": data}
    assert stack.invoke("WorkerFunction", {"Records": [stream]}) == {"batchItemFailures": []}


def message_record(message_id: str, body: str, receipt: str = "r") -> dict[str, Any]:
    """The record of a queue's message in Lambda's event."""
    record = {"messageId": message_id, "receiptHandle": receipt, "body": body}
    return {**record, "attributes": {"ApproximateReceiveCount": "1"}, "eventSource": "aws:sqs"}


def task_record(task_id: str, body: str) -> dict[str, Any]:
    """The record of a task of the asynchronous API in Lambda's event."""
    attributes = {"sparklet-task": {"stringValue": task_id, "dataType": "String"}}
    return {**message_record(task_id, body), "messageAttributes": attributes}


def enter_runs(stack: RecordedStack) -> None:
    """Enter runs whose planners died at once; one of them has a sealed part and is cancelled."""
    own, deployment = f"s3://{stack.bucket}", stack.deployment(Earlier())
    deployment.store.put(f"{own}/output/earlier/large.csv", CSV)
    works = (f"{own}/input/work.csv", f"{own}/input/released.csv", f"{own}/output/earlier/", f"s3://{OUTSIDE}/in/data/")
    for run_id, inputs, output, options, access in (
        ("work", works, own, CUT, Access()),
        ("ends", (f"{own}/input/failed/",), own, CUT, Access()),
        ("versions", (), f"s3://{OUTSIDE}", CUT, Access()),
        ("theirs", (f"s3://{THEIRS}/data/",), own, CUT, Access(role_arn=ROLE)),
        ("cut-off", (f"{own}/input/failed/",), own, CUT, Access()),
        ("read-again", (f"s3://{OUTSIDE}/out/earlier/",), own, CUT, Access()),  # reads another run's output
    ):
        run_output, params = f"{output}/output/{run_id}/", {"folder": f"{own}/input/"}
        request = RunRequest(str(JOB), inputs, run_output, run_id, params=params, options=options, access=access)
        if run_id == "versions":
            request = replace(request, lists=(ListRequest(VERSIONS),))
        if run_id in ("work", "versions"):
            request = replace(request, options=replace(options, existing="overwrite"))
            put_earlier_output(stack, run_output)
        if run_id == "ends":
            request = replace(request, check=str(JOB), next=str(JOB), next_output=f"{own}/output/follows/")
        if run_id == "theirs":
            request = replace(request, options=replace(options, event_log=True))
        new_run(deployment, request)
    seal_first_part(stack, "cut-off")
    deployment.ledger.runs.cancel("cut-off")


def put_earlier_output(stack: RecordedStack, output: str) -> None:
    """Put a file of an earlier run, which a run replaces."""
    stack.deployment().store.put(f"{output}shard=old_1f_000000/part-0.parquet", b"rows")


def seal_first_part(stack: RecordedStack, run_id: str) -> None:
    """Leave a run in the state of a planner that died after it sealed a part, before it entered the part's shards."""
    deployment = stack.deployment()
    line = Shard(0, (InputObject(f"s3://{stack.bucket}/input/failed/failed.csv", 6),)).to_line()
    deployment.store.put(deployment.part_uri(run_id, "part-00000-x.jsonl"), line)
    deployment.ledger.runs.add_part(
        run_id, PartRecord(0, "part-00000-x.jsonl", 0, 1, 1, 6, Position(0, "input/failed/failed.csv"))
    )


def ask_for_runs(stack: RecordedStack) -> None:
    """Let the planner function enter runs, and continue one."""
    own, out = f"s3://{stack.bucket}", f"s3://{OUTSIDE}"
    every = [f"{own}/input/work.csv", f"{own}/output/earlier/", f"{out}/in/data/"]
    cut: dict[str, Any] = {"max_objects": 1, "split": "csv", "shard_size": 64, "overwrite": True}
    versions = {"lists": [VERSIONS], "output": f"{out}/output/asked-versions/"}
    whole = {"output": f"{out}/output/asked-whole/", "dispatch": "map"}  # for a Map the planner also writes an index
    for run_id, script, inputs, more in (
        ("asked", f"{own}/scripts/job.py", every, cut),
        ("asked-versions", f"{out}/in/jobs/job.py", [], {**cut, **versions}),
        ("asked-theirs", f"{own}/scripts/job.py", [f"s3://{THEIRS}/data/"], {"role": ROLE}),
        ("asked-table", f"{own}/scripts/job.py", ["glue:sales.visits"], {"where": "day = 'a'"}),
        ("asked-again", f"{own}/scripts/job.py", [f"{own}/input"], {"incremental": True, "name": "daily"}),
        ("asked-written", f"{own}/scripts/job.py", [f"{out}/out/earlier/"], cut),
        ("asked-whole", f"{own}/scripts/job.py", [f"{own}/output"], whole),
    ):
        event = {"run_id": run_id, "script": script, "inputs": inputs, "output": f"{own}/output/{run_id}/", **more}
        if "overwrite" in more:
            put_earlier_output(stack, event["output"])
        assert stack.invoke("PlannerFunction", event)["sealed"], run_id
    event["script"] = f"{own}/scripts/mistyped.py"
    assert "is not there" in stack.failure("PlannerFunction", {**event, "run_id": "mistyped"})
    request = RunRequest(str(JOB), (f"{own}/input/failed/",), f"{own}/output/half/", "half-planned")
    new_run(stack.deployment(), request)
    seal_first_part(stack, "half-planned")
    assert stack.invoke("PlannerFunction", {"run_id": "half-planned"})["sealed"]


def received(stack: RecordedStack) -> dict[tuple[str, int], dict[str, Any]]:
    """Receive the queue's messages; return them as records of an event, by run and shard."""
    records = {}
    while messages := readable(stack.deployment().queue).receive():
        for message in messages:
            ref = ShardRef.from_document(json.loads(message.body))
            assert ref is not None
            record = message_record(f"{ref.run_id}-{ref.shard}", message.body, message.receipt)
            records[ref.run_id, ref.shard] = record
    return records


def do_shards(stack: RecordedStack, messages: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Do shards: one succeeds, one is released, one fails, and one of each kind stages its inputs."""
    ledger = stack.deployment().ledger
    for shard, comes_back, state in (
        (("work", 0), False, ShardState.SUCCEEDED),
        (("work", 1), True, ShardState.PENDING),
        (("work", 2), False, ShardState.SUCCEEDED),  # a slice
        (("ends", 0), False, ShardState.FAILED),
        (("versions", 0), False, ShardState.SUCCEEDED),
        (("theirs", 0), False, ShardState.SUCCEEDED),
    ):
        answer = stack.invoke("WorkerFunction", {"Records": [messages[shard]]})
        record = ledger.shards.get(*shard)
        assert (bool(answer["batchItemFailures"]), record.state) == (comes_back, state), (shard, record)


def settle_letters(stack: RecordedStack) -> None:
    """Let the consumer handle dead letters of each kind; only the shard's record shows that a lease has ended."""
    ledger = stack.deployment().ledger
    never, lost = ledger.shards.get("work", 3), ledger.shards.get("work", 4)
    assert ledger.attempts.claim(lost.ref, "killed", 1, 1).status is ClaimStatus.GRANTED
    wait_for_expiry(stack, lost.ref)
    bodies = ["?", ledger.shards.get("work", 0).ref.to_body(), never.ref.to_body(), lost.ref.to_body()]
    letters = [{"messageId": f"m{n}", "body": body, "receiptHandle": "r"} for n, body in enumerate(bodies)]
    letters.append(task_record("t2", "{}"))

    assert stack.invoke("DlqConsumerFunction", {"Records": letters}) == {"batchItemFailures": []}

    store = stack.deployment().store
    assert len(list(store.list(f"s3://{stack.bucket}/dead-letters/"))) == 1
    assert ledger.shards.get("work", never.number).requeues == 1
    assert ledger.shards.get("work", lost.number).attempts == 1


def do_large_shard(stack: RecordedStack) -> None:
    """Do a shard for which a function had too little memory: the checker calls the large function, which does it."""
    deployment = stack.deployment()
    ref = deployment.ledger.shards.get("work", 5).ref
    assert deployment.ledger.attempts.claim(ref, "small", 60, 3).status is ClaimStatus.GRANTED
    deployment.ledger.attempts.escalate(
        ref.run_id, ref.shard, "small", Failure("OutOfMemoryError", "heap"), "lambda-large"
    )

    report = stack.invoke("CheckerFunction", {})

    assert report["runs"]["work"]["started"] == 1, report
    # It does the shard in a JVM of its own.
    eventually(lambda: deployment.ledger.shards.get(ref.run_id, ref.shard).state.ended, idle_s=60)
    record = deployment.ledger.shards.get(ref.run_id, ref.shard)
    assert (record.state, record.engine) == (ShardState.SUCCEEDED, "lambda-large"), record


def wait_for_expiry(stack: RecordedStack, ref: ShardRef) -> None:
    """Wait until the lease of a shard's attempt has ended."""
    clock = stack.deployment().clock
    while (rest_s := stack.deployment().ledger.shards.get(ref.run_id, ref.shard).lease_end_s - clock.now_s()) > 0:
        clock.sleep(rest_s)


def end_runs(stack: RecordedStack) -> None:
    """End runs: a lost worker; a failed run that is redriven, checked and followed by another; cancelled runs."""
    deployment = stack.deployment()
    lost = deployment.ledger.shards.get("versions", 1).ref
    assert deployment.ledger.attempts.claim(lost, "killed", 1, 3).status is ClaimStatus.GRANTED
    wait_for_expiry(stack, lost)
    report = stack.invoke("CheckerFunction", {})
    assert report["runs"]["versions"]["lapsed"] == 1
    assert deployment.ledger.runs.get("ends").state is RunState.FAILED
    redrive(deployment, "ends")
    for run_id in ("ends", "ends-check-1"):
        stack.invoke("WorkerFunction", {"Records": [received(stack)[run_id, 0]]})
        step = stack.invoke("StepFunction", {"step": "check", "run_id": "ends"})  # as a state machine does
    assert (step["state"], step["next_run_id"]) == ("SUCCEEDED", "ends-next-1"), step
    redrive(deployment, "cut-off")
    stack.invoke("WorkerFunction", {"Records": [received(stack)["cut-off", 0]]})
    for run_id in ("work", "versions", "read-again", "ends-next-1", *ASKED):
        deployment.ledger.runs.cancel(run_id)
    stack.invoke("StepFunction", {"step": "check", "run_id": "work"})
    stack.invoke("CheckerFunction", {})
    ended = {run.run_id: str(run.state) for run in deployment.ledger.runs.list()}
    assert ended == {**RUNS, **FOLLOWING, **dict.fromkeys(ASKED, "CANCELLED")}
    assert all(run.notified_s is not None for run in deployment.ledger.runs.list() if not run.is_task)
