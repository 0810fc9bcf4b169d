"""What starts a run without a person: a rule of S3's events, a schedule, another state machine."""

import json
import re
from typing import Any

import pytest

from tests.functional.orchestration.conftest import ROOT, Stack
from tests.waiting import eventually

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def script(stack: Stack) -> str:
    return stack.put("scripts/job.py", b"print('not run: the worker counts')\n")


def begun(stack: Stack, below: str) -> Any:
    """The one execution of the loop machine whose request has this in it, once it is there."""

    def promise() -> Any:
        sfn = stack.client("stepfunctions")
        for arn in stack.executions(stack.outputs["LoopMachineArn"]):
            found = sfn.describe_execution(executionArn=arn)
            if below in found["input"]:
                return found
        return None

    return eventually(promise)


def test_a_new_object_starts_one_run_despite_duplicate_events(stack: Stack, script: str) -> None:
    watched = {"SourceBucket": stack.bucket, "SourcePrefix": "incoming/", "SourceSuffix": ".csv"}
    output = f"s3://{stack.bucket}/output/each/{{run_id}}/"
    stack.deploy("each", Script=script, Output=output, JobName="each", **watched)
    stack.client("s3").put_bucket_notification_configuration(
        Bucket=stack.bucket, NotificationConfiguration={"EventBridgeConfiguration": {}}
    )

    stack.put("incoming/not this.txt", b"1\n")
    stack.put('incoming/odd "name".csv', b"1\n2\n")
    first = begun(stack, "of_event")

    ended = stack.ended(first["executionArn"])
    assert (ended["status"], ended["output"]["state"]) == ("SUCCEEDED", "SUCCEEDED"), ended
    run_id = ended["output"]["run_id"]
    assert run_id.startswith("each-")
    again = stack.ended(stack.start(stack.outputs["LoopMachineArn"], json.loads(first["input"])))
    assert again["output"]["run_id"] == run_id
    assert stack.local.deployment().ledger.runs.get(run_id).inputs == (f's3://{stack.bucket}/incoming/odd "name".csv',)
    written = [key for key in stack.keys("output/each/") if key.endswith("/lines")]
    run = stack.local.deployment().ledger.runs.get(run_id)
    assert written == [f"output/each/{run_id}/{run.shard_prefix}000000/lines"]
    assert len([run for run in stack.local.deployment().ledger.runs.list() if run.name == "each"]) == 1


def test_a_schedule_starts_a_run(stack: Stack, script: str) -> None:
    """The stand-in puts no time into a request, so that the key's last word stays as it is written."""
    source = stack.put("input/scheduled/a.csv", b"1\n2\n3\n")

    stack.deploy(
        "nightly",
        Script=script,
        Output=f"s3://{stack.bucket}/output/nightly/{{run_id}}/",
        ScheduleExpression="at(2020-01-01T00:00:00)",
        Inputs=source,
        JobName="nightly",
        FurtherKeys='"max_objects": 7',
    )

    ended = stack.ended(begun(stack, "nightly <")["executionArn"])
    assert (ended["status"], ended["output"]["state"]) == ("SUCCEEDED", "SUCCEEDED"), ended
    assert stack.local.deployment().ledger.runs.get(ended["output"]["run_id"]).options.max_objects == 7


def test_another_state_machine_can_start_a_run_and_wait_for_it(stack: Stack, script: str) -> None:
    guide = (ROOT / "docs" / "guide" / "runs.md").read_text()
    (snippet,) = re.findall(r"```json\n(\{\s+\"Type\": \"Task\",.*?)```", guide, re.DOTALL)
    state = json.loads(snippet.replace("LOOP_MACHINE_ARN", stack.outputs["LoopMachineArn"]))
    after = {"Type": "Pass", "End": True}
    sfn = stack.client("stepfunctions")
    roles = stack.client("iam").list_roles()["Roles"]
    (role,) = (each["Arn"] for each in roles if "LoopMachineRole" in each["RoleName"])
    parent = sfn.create_state_machine(
        name="parent",
        roleArn=role,
        definition=json.dumps({"StartAt": "Clean", "States": {"Clean": state, state["Next"]: after}}),
    )["stateMachineArn"]
    source = stack.put("input/parent/a.csv", b"1\n")

    ended = stack.ended(
        stack.start(parent, {"script": script, "source": source, "output": f"s3://{stack.bucket}/output/parent/"})
    )

    assert ended["status"] == "SUCCEEDED", ended
    assert ended["output"]["cleaned"]["state"] == "SUCCEEDED"
    run = stack.local.deployment().ledger.runs.get(ended["output"]["cleaned"]["run_id"])
    assert stack.keys("output/parent/") == [f"output/parent/{run.shard_prefix}000000/lines"]
