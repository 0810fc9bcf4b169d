"""Create or update CloudFormation stacks in a stand-in, and wait until they are complete."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import boto3

from tests.waiting import eventually

TEMPLATES = "test-templates"  # a bucket, since a template within a request is limited to 51,200 bytes


@dataclass(frozen=True)
class Stack:
    """A stack as CloudFormation shows it."""

    name: str
    ids: Mapping[str, str]  # logical id → physical id
    outputs: Mapping[str, str]


def deploy(name: str, body: str, parameters: Mapping[str, str], *, update: bool = False) -> Stack:
    """Create or update a stack, and return it; AssertionError with CloudFormation's reasons if that fails."""
    formation: Any = boto3.Session().client("cloudformation")
    (formation.update_stack if update else formation.create_stack)(
        StackName=name,
        TemplateURL=_template_url(body),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
    )

    def ended() -> Any:
        (stack,) = formation.describe_stacks(StackName=name)["Stacks"]
        return None if stack["StackStatus"].endswith("_IN_PROGRESS") else stack

    stack = eventually(ended)
    events = formation.describe_stack_events(StackName=name)["StackEvents"]
    reasons = [event.get("ResourceStatusReason") for event in events if event["ResourceStatus"].endswith("FAILED")]
    assert stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), reasons
    resources = formation.describe_stack_resources(StackName=name)["StackResources"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())}
    return Stack(name, {r["LogicalResourceId"]: r["PhysicalResourceId"] for r in resources}, outputs)


def _template_url(body: str) -> str:
    s3: Any = boto3.Session().client("s3")
    if TEMPLATES not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=TEMPLATES)
    key = f"{hashlib.sha256(body.encode()).hexdigest()[:16]}.json"
    s3.put_object(Bucket=TEMPLATES, Key=key, Body=body.encode())
    return f"{s3.meta.endpoint_url}/{TEMPLATES}/{key}"
