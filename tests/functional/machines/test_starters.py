"""Runs that are not started by a person: by a rule for S3 events, a schedule, another state machine."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest

from sparklet.local.deploy import parse_template, to_json
from sparklet.model import ExecutionState, Run, RunState
from tests.functional.machines.conftest import Stage
from tests.stand_ins.formation import deploy
from tests.waiting import eventually

pytestmark = pytest.mark.stack

ROOT = Path(__file__).resolve().parents[3]


def deployed(stage: Stage, name: str, **parameters: str) -> None:
    """Deploy a stack of sam/schedule.yaml in addition to the main one."""
    job = {
        "Script": stage.script(),
        "Output": f"s3://{stage.deployment.bucket}/output/{name}/{{run_id}}/",
        "JobName": name,
    }
    deploy(name, to_json(parse_template((ROOT / "sam" / "schedule.yaml").read_text())), {**job, **parameters})


def begun(stage: Stage, text: str) -> Any:
    """Wait for an execution of the machine whose input contains a text; return its description."""
    sfn = boto3.Session().client("stepfunctions")

    def execution() -> Any:
        for each in sfn.list_executions(stateMachineArn=stage.machine)["executions"]:
            description = sfn.describe_execution(executionArn=each["executionArn"])
            if text in description["input"]:
                return description
        return None

    return eventually(execution)


def run_of(stage: Stage, execution: str) -> Run:
    """Wait until an execution has succeeded; return its run, which must have succeeded, too."""
    status = stage.ended(execution)
    assert (status.state, status.error) == (ExecutionState.SUCCEEDED, "")
    run = stage.run(status.output["run_id"])
    assert run.state is RunState.SUCCEEDED
    return run


def test_a_new_object_starts_one_run_despite_duplicate_events(stage: Stage) -> None:
    bucket = stage.deployment.bucket
    deployed(stage, "each", SourceBucket=bucket, SourcePrefix="incoming/", SourceSuffix=".csv")
    boto3.Session().client("s3").put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"EventBridgeConfiguration": {}}
    )

    stage.deployment.store.put(f"s3://{bucket}/incoming/not this.txt", b"1\n")
    stage.deployment.store.put(f's3://{bucket}/incoming/odd "name".csv', b"1\n2\n")
    first = begun(stage, "of_event")

    run = run_of(stage, first["executionArn"])
    assert run.run_id.startswith("each-")
    assert run.inputs == (f's3://{bucket}/incoming/odd "name".csv',)
    assert run_of(stage, stage.start(json.loads(first["input"]))).run_id == run.run_id
    assert len([each for each in stage.deployment.ledger.runs.list() if each.name == "each"]) == 1


def test_a_schedule_starts_a_run(stage: Stage) -> None:
    """The stand-in does not replace the time's placeholder in the request, which therefore contains "nightly <"."""
    schedule = {"ScheduleExpression": "at(2020-01-01T00:00:00)", "Inputs": stage.inputs("loop", "a")}

    deployed(stage, "nightly", **schedule, FurtherKeys='"max_objects": 7')

    assert run_of(stage, begun(stage, "nightly <")["executionArn"]).options.max_objects == 7


def test_another_state_machine_can_start_a_run_and_wait_for_it(stage: Stage) -> None:
    guide = (ROOT / "docs" / "guide" / "runs.md").read_text()
    (snippet,) = re.findall(r"```json\n(\{\s+\"Type\": \"Task\",.*?)```", guide, re.DOTALL)
    state = json.loads(re.sub(r"\w*MACHINE_ARN", stage.machine, snippet))
    states = {"Clean": state, state["Next"]: {"Type": "Pass", "End": True}}
    roles = boto3.Session().client("iam").list_roles()["Roles"]
    (role,) = (each["Arn"] for each in roles if "RunMachineRole" in each["RoleName"])
    sfn = boto3.Session().client("stepfunctions")
    definition = json.dumps({"StartAt": "Clean", "States": states})
    parent = sfn.create_state_machine(name="parent", roleArn=role, definition=definition)["stateMachineArn"]
    output = f"s3://{stage.deployment.bucket}/output/parent/"
    request: Mapping[str, Any] = {"script": stage.script(), "source": stage.inputs("loop", "a"), "output": output}

    status = stage.ended(stage.orchestrator.start(parent, "of-parent", request))

    assert status.state is ExecutionState.SUCCEEDED, status
    assert status.output["cleaned"]["state"] == "SUCCEEDED"
    assert stage.run(status.output["cleaned"]["run_id"]).output_uri == output
