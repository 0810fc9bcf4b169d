"""The local stack with the template's own state machines, and a worker that counts lines instead of starting Spark."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from sparklet.local.local_template import parse_template, to_json
from sparklet.local.stack import LocalStack
from tests.functional.local.conftest import make_lab
from tests.stand_ins.formation import deploy
from tests.waiting import eventually

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
ENDED = ("SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED")


@dataclass
class Stack:
    """The stack, and what a user does with it."""

    local: LocalStack
    outputs: Mapping[str, str]

    @property
    def bucket(self) -> str:
        return self.local.info.bucket

    def client(self, service: str) -> Any:
        return boto3.Session().client(service)  # type: ignore[call-overload]

    def put(self, key: str, body: Any) -> str:
        """Put an object into the stack's bucket; its address."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.client("s3").put_object(Bucket=self.bucket, Key=key, Body=data)
        return f"s3://{self.bucket}/{key}"

    def get(self, uri: str) -> Any:
        """An object, read as JSON."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return json.loads(self.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read())

    def keys(self, prefix: str) -> list[str]:
        found = self.client("s3").list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return [each["Key"] for each in found]

    def start(self, machine: str, request: Any) -> str:
        """Begin an execution; its ARN."""
        given = {"stateMachineArn": machine, "input": json.dumps(request)}
        return str(self.client("stepfunctions").start_execution(**given)["executionArn"])

    def ended(self, execution: str) -> Any:
        """How an execution has ended, its output read."""

        def promise() -> Any:
            found = self.client("stepfunctions").describe_execution(executionArn=execution)
            return found if found["status"] in ENDED else None

        found = eventually(promise, f"{execution} has ended", 40)
        return {**found, "output": json.loads(found["output"]) if found.get("output") else None}

    def executions(self, machine: str) -> list[str]:
        found = self.client("stepfunctions").list_executions(stateMachineArn=machine)["executions"]
        return [each["executionArn"] for each in found]

    def deploy(self, name: str, **parameters: str) -> Mapping[str, str]:
        """A stack of sam/schedule.yaml beside the main one; its outputs."""
        return deploy(name, to_json(parse_template((ROOT / "sam" / "schedule.yaml").read_text())), parameters).outputs


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with make_lab(tmp_path_factory.mktemp("orchestration")) as lab, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(HERE / "probes"), os.environ.get("PYTHONPATH")])))
        handlers = {"WorkerFunction": "counting_worker.worker"}
        with lab.attach(handlers=handlers, workers=4, timeout_s=60) as local:
            (main,) = boto3.Session().client("cloudformation").describe_stacks(StackName="sparklet")["Stacks"]
            outputs = {output["OutputKey"]: output["OutputValue"] for output in main["Outputs"]}
            yield Stack(local, outputs)
