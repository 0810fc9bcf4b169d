"""Stacks of CloudFormation in a stand-in: created or updated, and waited for."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import boto3

from tests.waiting import eventually

TEMPLATES = "test-templates"  # a bucket: in a request a template may have 51,200 bytes


@dataclass(frozen=True)
class Stack:
    """A stack as CloudFormation shows it."""

    name: str
    ids: Mapping[str, str]  # logical id → physical id
    outputs: Mapping[str, str]


def deploy(name: str, body: str, parameters: Mapping[str, str], *, update: bool = False) -> Stack:
    """Create or update a stack; fails with the reasons that CloudFormation gives."""
    formation: Any = boto3.Session().client("cloudformation")
    (formation.update_stack if update else formation.create_stack)(
        StackName=name,
        TemplateURL=_template_url(body),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
    )

    def ended() -> Any:
        (found,) = formation.describe_stacks(StackName=name)["Stacks"]
        return None if found["StackStatus"].endswith("_IN_PROGRESS") else found

    found = eventually(ended)
    events = formation.describe_stack_events(StackName=name)["StackEvents"]
    reasons = [event.get("ResourceStatusReason") for event in events if event["ResourceStatus"].endswith("FAILED")]
    assert found["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), reasons
    resources = formation.describe_stack_resources(StackName=name)["StackResources"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", ())}
    return Stack(name, {r["LogicalResourceId"]: r["PhysicalResourceId"] for r in resources}, outputs)


def _template_url(body: str) -> str:
    s3: Any = boto3.Session().client("s3")
    if TEMPLATES not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=TEMPLATES)
    key = f"{hashlib.sha256(body.encode()).hexdigest()[:16]}.json"
    s3.put_object(Bucket=TEMPLATES, Key=key, Body=body.encode())
    return f"{s3.meta.endpoint_url}/{TEMPLATES}/{key}"
