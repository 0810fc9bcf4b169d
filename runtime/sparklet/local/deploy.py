"""Deploy the localised template into the stand-in, read its outputs, and restart executions that were cut off."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sparklet.errors import LocalStackError
from sparklet.local.control import Control, RefusedError, texts
from sparklet.model import MAX_NAME, successor

STACK_NAME = "sparklet"
TEMPLATE_BUCKET = "sparklet-templates"  # a template of more than 51,200 bytes is taken from S3 only
MIN_MAPPED = 2  # what SQS mappings allow as MaximumConcurrency
CUT_OFF = "States.ServiceRestart"  # the stand-in's own error
_WITHIN_S = 300.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """The resources that the stack's outputs name."""

    bucket: str
    ledger_table: str
    queue_url: str
    dlq_url: str
    worker_function: str
    checker_function: str
    dlq_function: str
    loop_machine: str
    map_machine: str


def parameters_of(request: Mapping[str, Any]) -> dict[str, str]:
    """The template's parameters for what a client requests."""
    return {
        "ImageUri": "local",
        "FunctionMemoryMB": str(request["memory_mb"]),
        "FunctionTimeoutS": str(request["timeout_s"]),
        "MaximumConcurrency": str(max(MIN_MAPPED, request["workers"])),
        "MapConcurrency": str(request["workers"]),
        "MaxReceiveCount": str(request["max_receive_count"]),
        "Runner": str(request["runner"]),
    }


def deploy(control: Control, template_body: str, parameters: Mapping[str, str], workers: int) -> Deployed:
    """Create or update the stack and wait for it; LocalStackError with the stand-in's reasons."""
    existing = _status(control)
    action = "UpdateStack" if existing and not existing.startswith("DELETE") else "CreateStack"
    try:
        template_url = control.put_object(TEMPLATE_BUCKET, "template.json", template_body.encode())
        control.formation(action, _arguments(template_url, parameters))
    except RefusedError as error:
        if "No updates are to be performed" not in str(error):
            raise LocalStackError(f"the local stack cannot be deployed: {error}") from error
    status = _await_end(control)
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        reasons = "; ".join(dict.fromkeys(_failures(control))) or status
        if action == "UpdateStack":
            reasons += "; should its kept state be at fault: name another folder with --state-dir, or delete this one"
        raise LocalStackError(f"the local stack cannot be deployed: {reasons}")
    deployed = _outputs(control)
    # The stand-in's CloudFormation does not know reserved concurrency, and a mapping allows no fewer than two.
    control.reserve_concurrency(deployed.worker_function, workers if workers < MIN_MAPPED else None)
    return deployed


def _arguments(template_url: str, parameters: Mapping[str, str]) -> dict[str, str]:
    arguments = {"StackName": STACK_NAME, "TemplateURL": template_url}
    for number, (key, value) in enumerate(sorted(parameters.items()), start=1):
        arguments[f"Parameters.member.{number}.ParameterKey"] = key
        arguments[f"Parameters.member.{number}.ParameterValue"] = value
    for number, capability in enumerate(("CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"), start=1):
        arguments[f"Capabilities.member.{number}"] = capability
    return arguments


def _status(control: Control) -> str:
    """The stack's status; empty if there is none."""
    try:
        answer = control.formation("DescribeStacks", {"StackName": STACK_NAME})
    except RefusedError:
        return ""
    return answer.findtext(".//StackStatus", "")


def _await_end(control: Control) -> str:
    end_s = time.monotonic() + _WITHIN_S
    while (status := _status(control)).endswith("_IN_PROGRESS"):
        if time.monotonic() > end_s:
            raise LocalStackError(f"the local stack is {status} for {_WITHIN_S:.0f} s")
        time.sleep(_POLL_S)
    return status


def _outputs(control: Control) -> Deployed:
    answer = control.formation("DescribeStacks", {"StackName": STACK_NAME})
    values = {output["OutputKey"]: output["OutputValue"] for output in texts(answer, "OutputKey", "OutputValue")}
    # The stand-in's addresses of queues have another port; only account and name count.
    queues = {name: "/".join([control.endpoint_url, *values[name].split("/")[-2:]]) for name in ("QueueUrl", "DlqUrl")}
    return Deployed(
        bucket=values["BucketName"],
        ledger_table=values["LedgerTable"],
        queue_url=queues["QueueUrl"],
        dlq_url=queues["DlqUrl"],
        worker_function=values["WorkerFunctionName"],
        checker_function=values["CheckerFunctionName"],
        dlq_function=values["DlqConsumerFunctionName"],
        loop_machine=values["LoopMachineArn"],
        map_machine=values["MapMachineArn"],
    )


def _failures(control: Control) -> Iterator[str]:
    answer = control.formation("DescribeStackEvents", {"StackName": STACK_NAME})
    for event in texts(answer, "ResourceStatus", "LogicalResourceId", "ResourceStatusReason"):
        if event["ResourceStatus"].endswith("_FAILED"):
            yield f"{event['LogicalResourceId']}: {event['ResourceStatusReason']}"


def restart_executions(control: Control, machines: Iterable[str]) -> None:
    """Start anew the executions of state machines that a stop of the local stack cut off, each for the same run.

    The stand-in keeps no thread of an execution beyond its own end: a RUNNING one has FAILED when it comes up
    again, and it has no redrive. A run is driven from where its ledger stands, so a new execution with
    the same run goes on, and one too many does no harm.
    """
    for machine in machines:
        failed = control.states("ListExecutions", {"stateMachineArn": machine, "statusFilter": "FAILED"})
        for execution in failed["executions"]:
            found = control.states("DescribeExecution", {"executionArn": execution["executionArn"]})
            if found.get("error") == CUT_OFF:
                _start_successor(control, machine, found)


def same_run(name: str, given: Any) -> Any:
    """An execution's input, so that another execution requests the same run: the first one's name was its key."""
    if not isinstance(given, dict) or "run_id" in given or "idempotency_key" in given:
        return given
    return {**given, "idempotency_key": name}


def _start_successor(control: Control, machine: str, found: Any) -> None:
    """Start the execution that follows one, unless it was started before."""
    name = successor(found["name"])
    if len(name) > MAX_NAME:
        return
    body = json.dumps(same_run(found["name"], json.loads(found["input"])))
    try:
        control.states("StartExecution", {"stateMachineArn": machine, "name": name, "input": body})
    except RefusedError as error:
        if "already exists" not in str(error):
            raise
