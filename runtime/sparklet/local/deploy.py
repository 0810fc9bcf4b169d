"""Deploy the local template into the emulator, read its outputs, and restart interrupted executions."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sparklet.aws.clients import AwsClients, failing_as
from sparklet.aws.orchestrator import StepFunctionsOrchestrator
from sparklet.aws.stacks import described_stack
from sparklet.errors import ExecutionExistsError, LocalStackError, NotDeployedError
from sparklet.local.spark_installation import stack_file
from sparklet.model import MAX_NAME, successor

STACK_NAME = "sparklet"
TEMPLATE_BUCKET, TEMPLATE = "sparklet-templates", "template.json"  # above 51,200 bytes it must lie in S3
MIN_MAPPED = 2  # the least MaximumConcurrency of an SQS mapping
CUT_OFF = "States.ServiceRestart"  # the emulator's own error
CANNOT = "the local stack cannot be deployed"
WAITING: Any = {"Delay": 0.05, "MaxAttempts": 6000}  # seconds; five minutes in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """The resources that the stack's outputs name."""

    bucket: str
    ledger_table: str
    queue_url: str
    dlq_url: str
    worker_function: str
    run_machine: str
    engines: str = "{}"  # that the template makes, as SPARKLET_ENGINES


def parameters_of(request: Mapping[str, Any]) -> dict[str, str]:
    """The template's parameters for a client's request."""
    return {
        "ImageUri": "local",
        "Stack": stack_file().stem,
        "LargeFunction": "yes",
        "FunctionMemoryMB": str(request["memory_mb"]),
        "FunctionTimeoutS": str(request["timeout_s"]),
        "MaximumConcurrency": str(max(MIN_MAPPED, request["workers"])),
        "MapConcurrency": str(request["workers"]),
        "MaxReceiveCount": str(request["max_receive_count"]),
        "WorkerSettings": json.dumps({"SPARKLET_RUNNER": request["runner"]}),
    }


def deploy(clients: AwsClients, template_body: str, parameters: Mapping[str, str], workers: int) -> Deployed:
    """Create or update the stack and wait for it; LocalStackError with the emulator's reasons."""
    formation: Any = clients.cloudformation
    try:
        described_stack(clients, STACK_NAME, ())
        change = "update"
    except NotDeployedError:
        change = "create"
    request = {
        "StackName": STACK_NAME,
        "TemplateURL": f"{clients.s3.meta.endpoint_url}/{TEMPLATE_BUCKET}/{TEMPLATE}",
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        "Capabilities": ["CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
    }
    try:
        with failing_as(LocalStackError, CANNOT):
            # In us-east-1 S3 accepts a request to make a bucket that is one's own already.
            clients.s3.create_bucket(Bucket=TEMPLATE_BUCKET)
            clients.s3.put_object(Bucket=TEMPLATE_BUCKET, Key=TEMPLATE, Body=template_body)
            getattr(formation, f"{change}_stack")(**request)
    except LocalStackError as error:
        # CloudFormation has no code of its own for this.
        if "No updates are to be performed" not in str(error):
            raise
    else:
        _await_end(formation, change)
    deployed = _outputs(clients)
    # The emulator's CloudFormation does not know reserved concurrency, and a mapping allows no fewer than two.
    function = {"FunctionName": deployed.worker_function}
    if workers < MIN_MAPPED:
        clients.functions.put_function_concurrency(**function, ReservedConcurrentExecutions=workers)
    else:
        # A state folder that had one worker still has the reservation.
        clients.functions.delete_function_concurrency(**function)
    return deployed


def _await_end(formation: Any, change: str) -> None:
    try:
        with failing_as(LocalStackError, CANNOT):
            formation.get_waiter(f"stack_{change}_complete").wait(StackName=STACK_NAME, WaiterConfig=WAITING)
    except LocalStackError as error:
        events = formation.describe_stack_events(StackName=STACK_NAME)["StackEvents"]
        failed = [event for event in events if event["ResourceStatus"].endswith("_FAILED")]
        reasons = [f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', '')}" for event in failed]
        reasons = reasons or [str(error)]
        if change == "update":
            reasons.append("should its kept state be at fault: name another --state-dir, or delete this one")
        raise LocalStackError(f"{CANNOT}: {'; '.join(dict.fromkeys(reasons))}") from error


def _outputs(clients: AwsClients) -> Deployed:
    values, _ = described_stack(clients, STACK_NAME)
    # The emulator's addresses of queues have another port; only account and name count.
    endpoint_url = clients.sqs.meta.endpoint_url
    queues = {name: "/".join([endpoint_url, *values[name].split("/")[-2:]]) for name in ("QueueUrl", "DlqUrl")}
    return Deployed(
        bucket=values["BucketName"],
        ledger_table=values["LedgerTable"],
        queue_url=queues["QueueUrl"],
        dlq_url=queues["DlqUrl"],
        worker_function=values["WorkerFunctionName"],
        run_machine=values["RunMachineArn"],
        engines=values["Engines"],
    )


def restart_executions(clients: AwsClients, machine: str) -> None:
    """Start a state machine's executions again that a stop of the local stack interrupted, each for the same run.

    When the emulator starts, RUNNING executions have FAILED, and it has no redrive. A new execution with the same run
    continues from the ledger's state; a superfluous one does no harm.
    """
    orchestrator = StepFunctionsOrchestrator(clients)
    for failed in clients.states.list_executions(stateMachineArn=machine, statusFilter="FAILED")["executions"]:
        status, name = orchestrator.status(failed["executionArn"]), successor(failed["name"])
        # Each restart numbers the name, and Step Functions refuses names of more than 80 characters.
        if status.error == CUT_OFF and len(name) <= MAX_NAME:
            with suppress(ExecutionExistsError):  # it was started earlier, and has ended
                orchestrator.start(machine, name, same_run(failed["name"], status.input))


def same_run(name: str, execution_input: Any) -> Any:
    """An execution's input for another execution of the same run: the first execution's name was the run's key."""
    if not isinstance(execution_input, dict) or "run_id" in execution_input or "idempotency_key" in execution_input:
        return execution_input
    return {**execution_input, "idempotency_key": name}
