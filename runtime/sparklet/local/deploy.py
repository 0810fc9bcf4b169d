"""Deploy the local template into the emulator, read its outputs, and restart interrupted executions.

``sam/template.yaml`` is changed for the emulator: each function's code becomes three lines, which call its real handler
in this installation. Nothing is built or published: there are no versions, and a reference to an alias becomes one to
its function (``_without_versions``). The emulator needs the concurrency of an event source mapping, and conditions on
lists, in another form. Timeouts need not be among the allowed values. Everything else, such as queues, policies,
alarms, mappings and state machines, is deployed as on AWS.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sparklet.aws.clients import AwsClients, failing_as
from sparklet.aws.services import StepFunctionsOrchestrator
from sparklet.aws.stacks import described_stack
from sparklet.errors import ExecutionExistsError, LocalStackError, NotDeployedError
from sparklet.local.environment import resource
from sparklet.local.spark_installation import stack_file
from sparklet.model import MAX_NAME, successor

STACK_NAME = "sparklet"
TEMPLATE_BUCKET, TEMPLATE = "sparklet-templates", "template.json"  # a template above 51,200 bytes must be in S3
MIN_MAPPED = 2  # the least MaximumConcurrency of an SQS mapping
CUT_OFF = "States.ServiceRestart"  # the emulator's error for an execution that its restart interrupted
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
    engines: str = "{}"  # the engines that the template creates, in the form of SPARKLET_ENGINES


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
    """Create or update the stack, and wait until that is done. LocalStackError, with the reasons, if it fails.

    Then set or remove the reserved concurrency of the worker function, by which a stack can have a single worker.
    """
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
            # In us-east-1, S3 accepts the creation of a bucket that the caller already owns.
            clients.s3.create_bucket(Bucket=TEMPLATE_BUCKET)
            clients.s3.put_object(Bucket=TEMPLATE_BUCKET, Key=TEMPLATE, Body=template_body)
            getattr(formation, f"{change}_stack")(**request)
    except LocalStackError as error:
        # CloudFormation has no error code of its own for an update without changes.
        if "No updates are to be performed" not in str(error):
            raise
    else:
        _await_end(formation, change)
    deployed = _outputs(clients)
    # A mapping has a concurrency of at least two, so fewer workers need reserved concurrency, which the emulator's
    # CloudFormation does not know.
    function = {"FunctionName": deployed.worker_function}
    if workers < MIN_MAPPED:
        clients.functions.put_function_concurrency(**function, ReservedConcurrentExecutions=workers)
    else:
        # An earlier stack with one worker has left its reservation in the state folder.
        clients.functions.delete_function_concurrency(**function)
    return deployed


def _await_end(formation: Any, change: str) -> None:
    """Wait until a ``create`` or ``update`` of the stack has ended; LocalStackError, with the reasons, if it failed."""
    try:
        with failing_as(LocalStackError, CANNOT):
            formation.get_waiter(f"stack_{change}_complete").wait(StackName=STACK_NAME, WaiterConfig=WAITING)
    except LocalStackError as error:
        events = formation.describe_stack_events(StackName=STACK_NAME)["StackEvents"]
        failed_events = [event for event in events if event["ResourceStatus"].endswith("_FAILED")]
        reasons = [f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', '')}" for event in failed_events]
        reasons = reasons or [str(error)]
        if change == "update":
            reasons.append("if the state folder is the cause, name another with --state-dir, or delete this one")
        raise LocalStackError(f"{CANNOT}: {'; '.join(dict.fromkeys(reasons))}") from error


def _outputs(clients: AwsClients) -> Deployed:
    values, _ = described_stack(clients, STACK_NAME)
    # The emulator writes queue URLs with another port, so only their account and name are used.
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
    """For each execution that a stop of the local stack interrupted, start another one for the same run.

    The emulator sets interrupted executions to FAILED at its next start, and cannot redrive them. A new execution of
    the same run continues from the ledger's state; a superfluous one does no harm.
    """
    orchestrator = StepFunctionsOrchestrator(clients)
    for execution in clients.states.list_executions(stateMachineArn=machine, statusFilter="FAILED")["executions"]:
        status, name = orchestrator.status(execution["executionArn"]), successor(execution["name"])
        # Each restart adds a number to the name, and Step Functions refuses names of more than 80 characters.
        if status.error == CUT_OFF and len(name) <= MAX_NAME:
            # ExecutionExistsError: an earlier start of the stack has restarted this execution; the new one has ended.
            with suppress(ExecutionExistsError):
                orchestrator.start(machine, name, same_run(execution["name"], status.input))


def same_run(name: str, execution_input: Any) -> Any:
    """The input for another execution of the same run. Without a run or key in it, the first one's name is the key."""
    if not isinstance(execution_input, dict) or "run_id" in execution_input or "idempotency_key" in execution_input:
        return execution_input
    return {**execution_input, "idempotency_key": name}


Template = dict[str, Any]

_FUNCTION = "AWS::Serverless::Function"
_MACHINE = "AWS::Serverless::StateMachine"
_CODE = ("PackageType", "ImageUri", "ImageConfig", "CodeUri", "Layers")
_PUBLISHING = (
    *("AutoPublishAlias", "AutoPublishAliasAllProperties", "VersionDescription"),
    *("ProvisionedConcurrencyConfig", "SnapStart"),
)
OF_THE_MACHINE = ("SPARKLET_CORES", "SPARKLET_ENGINES", "SPARKLET_METRICS_NAMESPACE", "SPARKLET_SCRATCH")
"""Variables that the template sets, and that functions inherit from the emulator instead."""
_HANDLER_CODE = """\
from sparklet.local.worker_process import prepare

handler = prepare({target!r}, {name!r})
"""


def load_template() -> Template:
    """The template, with the definitions of its state machines put in. LocalStackError if a file is missing."""
    template = parse_template(resource("sam/template.yaml").read_text(encoding="utf-8"))
    for body in template["Resources"].values():
        if body["Type"] == _MACHINE:
            path = f"sam/{body['Properties'].pop('DefinitionUri')}"
            body["Properties"]["Definition"] = json.loads(resource(path).read_text(encoding="utf-8"))
    return template


def parse_template(text: str) -> Template:
    """Read a CloudFormation template in YAML; short forms (``!Ref``) are written out (``{"Ref": …}``)."""
    # Both come with the extra `template`, which commands without a local stack need not have.
    import yaml
    from samtranslator.yaml_helper import intrinsics_multi_constructor

    loader_base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # every start reads the template twice
    loader: Any = type("CloudFormationLoader", (loader_base,), {})
    loader.add_multi_constructor("!", intrinsics_multi_constructor)
    document = yaml.load(text, Loader=loader)  # noqa: S506 - derived from SafeLoader
    if not isinstance(document, dict):
        raise LocalStackError("the template is not CloudFormation: its top level is not a mapping")
    return document


def localise(
    template: Template, parameters: Mapping[str, str], handlers: Mapping[str, str], worker_env: Mapping[str, str]
) -> Template:
    """A copy of the template, changed for the emulator.

    The timeout in ``parameters`` need not be one of the template's allowed values. ``handlers`` has dotted names by
    logical id, in place of the template's handlers. Functions inherit ``worker_env`` from the emulator, so these
    variables are removed.
    """
    local_template = _without_versions(template)
    for name, body in _functions(local_template).items():
        properties = body["Properties"]
        target = handlers.get(name) or handler_of(properties)
        body.pop("Metadata", None)  # instructions for a build
        for key in _CODE:
            properties.pop(key, None)
        properties["Runtime"] = "python3.12"  # ignored: the emulator runs its own Python
        properties["Handler"] = "index.handler"
        properties["InlineCode"] = _HANDLER_CODE.format(target=target, name=log_name(name))
        _set_scaling_numbers(properties, parameters)
    for settings in _function_properties(local_template):
        # A variable that a function sets would win over the one that it inherits.
        variables = settings.get("Environment", {}).get("Variables", {})
        for key in variables.keys() & worker_env.keys():
            del variables[key]
    local_template["Conditions"] = _without_joins(
        local_template.get("Conditions", {}), template["Parameters"], parameters
    )
    timeout_s = int(parameters["FunctionTimeoutS"])
    local_template["Parameters"]["FunctionTimeoutS"].pop("AllowedValues", None)
    # The template maps only its allowed timeouts to the queue's visibility: six times the timeout, as AWS advises.
    if mappings := local_template.get("Mappings"):
        mappings["VisibilityS"].setdefault(str(timeout_s), {"Queue": 6 * timeout_s})
    return local_template


def log_name(logical_id: str) -> str:
    """The prefix of a function's log files: ``WorkerFunction`` → ``worker``."""
    stem = logical_id.removesuffix("Function")
    return "".join(f"-{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(stem))


def to_json(template: Template) -> str:
    """The template as JSON; the same text for the same template."""
    return json.dumps(template, sort_keys=True, separators=(",", ":"))


def handler_of(properties: Mapping[str, Any]) -> str:
    """The dotted handler of a function with these properties."""
    if "ImageConfig" in properties:
        return str(properties["ImageConfig"]["Command"][0])
    return str(properties["Handler"])


def _without_versions(template: Template) -> Template:
    """A copy of the template that publishes no versions, and refers to a function instead of its alias."""
    functions = _functions(template)
    alias = template.get("Globals", {}).get("Function", {}).get("AutoPublishAlias")

    def rewrite(node: Any) -> Any:
        if isinstance(node, list):
            return [rewrite(child) for child in node]
        if not isinstance(node, dict):
            return node
        name, _, attribute = str(node.get("Ref", "")).partition(".")
        # SAM resolves ``NAME.Alias`` for published functions only.
        if attribute == "Alias" and name in functions:
            return {"Fn::GetAtt": [name, "Arn"]}
        return {key: rewrite(value) for key, value in node.items()}

    local_template: Template = rewrite(template)
    for settings in _function_properties(local_template):
        for key in _PUBLISHING:
            settings.pop(key, None)
    for output in local_template.get("Outputs", {}).values():
        if alias and output["Value"] == alias:
            output["Value"] = "$LATEST"
    return local_template


def _without_joins(node: Any, definitions: Mapping[str, Any], parameters: Mapping[str, str]) -> Any:
    """A copy of conditions with a list parameter's value in place of its ``Fn::Join``, which the emulator lacks."""
    if isinstance(node, list):
        return [_without_joins(child, definitions, parameters) for child in node]
    if not isinstance(node, dict):
        return node
    if "Fn::Join" in node:
        name = node["Fn::Join"][1]["Ref"]
        return parameters.get(name, definitions[name].get("Default", ""))
    return {key: _without_joins(value, definitions, parameters) for key, value in node.items()}


def _set_scaling_numbers(properties: Any, parameters: Mapping[str, str]) -> None:
    """Replace parameters in a mapping's concurrency by their numbers: the emulator would compare strings."""
    for event in properties.get("Events", {}).values():
        scaling = event["Properties"].get("ScalingConfig", {})
        if isinstance(limit := scaling.get("MaximumConcurrency"), dict):
            scaling["MaximumConcurrency"] = int(parameters[limit["Ref"]])


def _functions(template: Template) -> dict[str, Any]:
    return {name: body for name, body in template["Resources"].items() if body["Type"] == _FUNCTION}


def _function_properties(template: Template) -> list[Any]:
    """The properties of all functions: those that ``Globals`` has for every function, then each function's own."""
    shared_properties = template.get("Globals", {}).get("Function", {})
    return [shared_properties, *(body["Properties"] for body in _functions(template).values())]
