"""Each function asks for what its role allows, and its role allows nothing that the function never asks for.

The functions run as they are deployed, with their own roles' credentials, through everything that makes a difference
in calls. The stand-in enforces the policies and writes every decision down; here they are compared both ways. A
function that comes into the template without a scenario fails: nothing that its role grants was used.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from sparklet.fanout.new_run import RunRequest, new_run
from sparklet.fanout.redrive import redrive
from sparklet.local.local_template import load_template
from sparklet.model import (
    Access,
    ClaimStatus,
    InputObject,
    PartRecord,
    Position,
    RunOptions,
    RunState,
    Shard,
    ShardRef,
    ShardState,
)
from tests.deploy.policies import Call, Grant, grants
from tests.deploy.recorded_stack import OUTSIDE, ROLE, THEIRS, Earlier, RecordedStack, recorded_stack

pytestmark = pytest.mark.stack

JOB = Path(__file__).parent / "scripts" / "job.py"
CSV = b"".join(b"%d,row\n" % n for n in range(20))
RUNS = {
    "work": "CANCELLED",
    "ends": "SUCCEEDED",
    "versions": "CANCELLED",
    "theirs": "SUCCEEDED",
    "cut-off": "CANCELLED",
}  # and how they end
CUT = RunOptions(max_objects=1, split="csv", target_bytes=64)
ROLES = {
    name: body["Properties"]["Role"]["Fn::GetAtt"][0]
    for name, body in load_template()["Resources"].items()
    if body["Type"] == "AWS::Serverless::Function"
}

# What a role needs although no function's code asks for it, or the stand-in does not show it asking: action, statement
# (patterns), and why. Each must still be granted, and still be unseen.
UNSEEN = (
    (r"logs:.*", r"Log", "Lambda writes a function's log with the function's role"),
    (
        r"sqs:(ReceiveMessage|DeleteMessage|GetQueueAttributes)",
        r"Take(Shards|Letters)",
        "Lambda polls for the mapping, with the function's role; the stand-in polls with nobody's",
    ),
    (r"kinesis:.*", r"ReadTheStream", "Lambda reads the stream for the mapping, with the function's role"),
    (r"sqs:SendMessage", r"ReportLostBatches", "Lambda sends a batch that is given up to its on-failure destination"),
)


# --- what the functions are led through ---


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedStack]:
    """The stack after all scenarios."""
    with recorded_stack(tmp_path_factory.mktemp("policies")) as stack:
        lead_through(stack)
        yield stack


def lead_through(stack: RecordedStack) -> None:
    """Every path of every function that makes calls of its own."""
    place_inputs(stack)
    do_tasks(stack)  # first, while there is no output/ yet: S3A then asks further
    enter_runs(stack)
    report = stack.invoke("CheckerFunction", {})  # it continues what planners left, two hours ago
    assert {name for name, run in report["runs"].items() if run["planned"]} == set(RUNS) - {"cut-off"}, report
    do_shards(stack, received(stack))
    settle_letters(stack)
    end_runs(stack)


def place_inputs(stack: RecordedStack) -> None:
    store, own = stack.at().store, f"s3://{stack.bucket}"
    for uri in (
        *(f"{own}/input/{name}.csv" for name in ("work", "released", "failed/failed")),
        f"s3://{OUTSIDE}/in/data/work.csv",
        f"s3://{THEIRS}/data/rows.csv",
    ):
        store.put(uri, b"1,row\n")
    for uri in (f"s3://{OUTSIDE}/in/data/large.csv", *[f"s3://{OUTSIDE}/in/versions/work.csv"] * 2):
        store.put(uri, CSV)
    for uri in (f"{own}/scripts/job.py", f"s3://{OUTSIDE}/in/jobs/job.py"):
        store.put(uri, JOB.read_bytes())


def do_tasks(stack: RecordedStack) -> None:
    """A plain event that names a script and reads outside the stack's bucket; a batch of a stream."""
    event = {
        "sparklet": {"script": f"s3://{stack.bucket}/scripts/job.py"},
        "inputs": [f"s3://{OUTSIDE}/in/data/work.csv"],
        "params": {"folder": f"s3://{OUTSIDE}/in/data/"},
        "output_path": f"s3://{stack.bucket}/output/plain",
    }
    answer = stack.invoke("WorkerFunction", event)
    assert answer["state"] == "SUCCEEDED", answer
    event["sparklet"] = {"script": f"s3://{stack.bucket}/scripts/mistyped.py"}
    assert "is not there" in stack.failure("WorkerFunction", event)
    data = {"data": "e30=", "partitionKey": "1", "sequenceNumber": "1"}
    stream = {"eventSource": "aws:kinesis", "eventID": "shardId-0:1", "kinesis": data}
    assert stack.invoke("WorkerFunction", {"Records": [stream]}) == {"batchItemFailures": []}


def enter_runs(stack: RecordedStack) -> None:
    """Runs whose planners died at once; of one, a part was sealed already, and it is cancelled."""
    own, at = f"s3://{stack.bucket}", stack.at(Earlier())
    at.store.put(f"{own}/output/earlier/large.csv", CSV)
    versions = RunOptions(max_objects=1, split="csv", target_bytes=64, all_versions=True, other_region=True)
    works = (f"{own}/input/work.csv", f"{own}/input/released.csv", f"{own}/output/earlier/", f"s3://{OUTSIDE}/in/data/")
    for run_id, inputs, output, options, access in (
        ("work", works, own, CUT, Access()),
        ("ends", (f"{own}/input/failed/",), own, CUT, Access()),
        ("versions", (f"s3://{OUTSIDE}/in/versions/",), f"s3://{OUTSIDE}", versions, Access()),
        ("theirs", (f"s3://{THEIRS}/data/",), own, CUT, Access(role_arn=ROLE)),
        ("cut-off", (f"{own}/input/failed/",), own, CUT, Access()),
    ):
        written, params = f"{output}/output/{run_id}/", {"folder": f"{own}/input/"}
        new_run(at, RunRequest(str(JOB), inputs, written, run_id, params=params, options=options, access=access))
    line = Shard(0, (InputObject(f"{own}/input/work.csv", 6),)).to_line()
    at.store.put(at.part_uri("cut-off", "part-00000-x.jsonl"), line)
    at.ledger.add_part("cut-off", PartRecord(0, "part-00000-x.jsonl", 0, 1, 1, 6, Position(0, "input/work.csv")))
    at.ledger.cancel_run("cut-off")


def received(stack: RecordedStack) -> dict[tuple[str, int], dict[str, Any]]:
    """The queue's messages as records of an event, by run and shard."""
    records = {}
    while messages := stack.at().queue.receive():
        for message in messages:
            ref = ShardRef.from_document(json.loads(message.body))
            assert ref is not None
            records[ref.run_id, ref.shard] = {
                "messageId": f"{ref.run_id}-{ref.shard}",
                "receiptHandle": message.receipt,
                "body": message.body,
                "attributes": {"ApproximateReceiveCount": "1"},
                "eventSource": "aws:sqs",
            }
    return records


def do_shards(stack: RecordedStack, messages: dict[tuple[str, int], dict[str, Any]]) -> None:
    """One that works, one that is released, one that fails, one of each kind that is staged."""
    ledger = stack.at().ledger
    for shard, comes_back, state in (
        (("work", 0), False, ShardState.SUCCEEDED),
        (("work", 1), True, ShardState.PENDING),
        (("work", 2), False, ShardState.SUCCEEDED),  # a slice
        (("ends", 0), False, ShardState.FAILED),
        (("versions", 0), False, ShardState.SUCCEEDED),
        (("theirs", 0), False, ShardState.SUCCEEDED),
    ):
        answer = stack.invoke("WorkerFunction", {"Records": [messages[shard]]})
        record = ledger.get_shard(*shard)
        assert (bool(answer["batchItemFailures"]), record.state) == (comes_back, state), (shard, record)


def settle_letters(stack: RecordedStack) -> None:
    """Dead letters of each fate; a lease that ended is told apart only by reading the shard."""
    ledger = stack.at().ledger
    never, lost = ledger.get_shard("work", 3), ledger.get_shard("work", 4)
    assert ledger.claim(lost.ref, "killed", 1, 1).status is ClaimStatus.GRANTED
    wait_for_lapse(stack, lost.ref)
    bodies = ["?", ledger.get_shard("work", 0).ref.to_body(), never.ref.to_body(), lost.ref.to_body()]
    letters = [{"messageId": f"m{n}", "body": body, "receiptHandle": "r"} for n, body in enumerate(bodies)]

    assert stack.invoke("DlqConsumerFunction", {"Records": letters}) == {"batchItemFailures": []}

    store = stack.at().store
    assert len(list(store.list(f"s3://{stack.bucket}/dead-letters/"))) == 1
    assert ledger.get_shard("work", never.number).requeues == 1
    assert ledger.get_shard("work", lost.number).attempts == 1


def wait_for_lapse(stack: RecordedStack, ref: ShardRef) -> None:
    """Until the lease of an attempt is over."""
    clock = stack.at().clock
    while (rest_s := stack.at().ledger.get_shard(ref.run_id, ref.shard).lease_end_s - clock.now_s()) > 0:
        clock.sleep(rest_s)


def end_runs(stack: RecordedStack) -> None:
    """A lost worker, a run that fails and is redriven, one that is cancelled."""
    at = stack.at()
    lost = at.ledger.get_shard("versions", 1).ref
    assert at.ledger.claim(lost, "killed", 1, 3).status is ClaimStatus.GRANTED
    wait_for_lapse(stack, lost)
    report = stack.invoke("CheckerFunction", {})
    assert report["runs"]["versions"]["lapsed"] == 1
    assert at.ledger.get_run("ends").state is RunState.FAILED
    redrive(at, "ends")
    stack.invoke("WorkerFunction", {"Records": [received(stack)["ends", 0]]})
    for run_id in ("work", "versions"):
        at.ledger.cancel_run(run_id)
    stack.invoke("CheckerFunction", {})
    assert {run.run_id: str(run.state) for run in at.ledger.list_runs()} == RUNS


# --- and what came of it ---


def role_of(stack: RecordedStack, function: str) -> str:
    return stack.names[ROLES[function]]


def granted(stack: RecordedStack, function: str) -> list[Grant]:
    role = role_of(stack, function)
    return [grant for statement in stack.statements(role) for grant in grants(role, statement)]


def asked(stack: RecordedStack, function: str) -> list[Call]:
    return [call for call in stack.calls() if call.role == role_of(stack, function)]


def unseen(grant: Grant) -> bool:
    return any(re.fullmatch(action, grant.action) and re.fullmatch(sid, grant.sid) for action, sid, _ in UNSEEN)


def test_every_function_has_a_role_of_its_own() -> None:
    assert len(set(ROLES.values())) == len(ROLES)


@pytest.mark.parametrize("function", ROLES)
def test_a_function_was_allowed_everything_that_it_asked_for(stack: RecordedStack, function: str) -> None:
    calls, allows = asked(stack, function), granted(stack, function)

    assert calls, f"no scenario leads through {function}: lead_through must"
    refused = {(c.action, c.resource, c.keys.get("s3:prefix")) for c in calls if not c.allowed}
    assert not refused, f"the stand-in refused {function}: {refused}"
    missing = {(c.action, c.resource) for c in calls if not any(grant.covers(c) for grant in allows)}
    assert not missing, f"no statement of {ROLES[function]} allows {missing}"


@pytest.mark.parametrize("function", ROLES)
def test_a_function_is_granted_nothing_that_it_never_asks_for(stack: RecordedStack, function: str) -> None:
    calls = asked(stack, function)

    idle = [str(g) for g in granted(stack, function) if not unseen(g) and not any(g.covers(call) for call in calls)]

    assert not idle, f"{ROLES[function]} grants what no call uses:\n" + "\n".join(idle)


def test_what_is_excepted_is_granted_and_really_unseen(stack: RecordedStack) -> None:
    every = [grant for function in ROLES for grant in granted(stack, function)]
    calls = [call for function in ROLES for call in asked(stack, function)]
    for action, sid, why in UNSEEN:
        meant = [g for g in every if re.fullmatch(action, g.action) and re.fullmatch(sid, g.sid)]
        assert meant, f"nothing is granted that would need the exception {action} of {sid}"
        assert not [g for g in meant if any(g.covers(call) for call in calls)], f"seen after all: {action} ({why})"


def test_a_role_is_refused_what_another_one_may(stack: RecordedStack) -> None:
    """The records can tell: a function that asked for more would be seen."""
    worker = boto3.Session().client("lambda").get_function_configuration(FunctionName=stack.names["WorkerFunction"])
    role = worker["Role"].rpartition("/")[2]
    allows = [grant for statement in stack.statements(role) for grant in grants(role, statement)]
    plan = f"arn:aws:s3:::{stack.bucket}/runs/work/plan/part"

    assert any(grant.covers(Call(role, "s3:GetObject", plan)) for grant in allows)
    assert not any(grant.covers(Call(role, "s3:PutObject", plan)) for grant in allows)
