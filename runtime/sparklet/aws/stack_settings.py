"""The settings of a deployed stack, asked of the services themselves: somebody may have changed them by hand."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sparklet.aws.clients import AwsClients
from sparklet.aws.remedies import told
from sparklet.errors import SettingsError
from sparklet.model.stacks import MappingSettings, QueueSettings, StackSettings

DEFAULT_GRACE_S = 10.0


def stack_settings(clients: AwsClients, outputs: Mapping[str, str]) -> StackSettings:
    """Read what a stack's outputs lead to.

    Parameters
    ----------
    outputs
        Of a stack made from ``sam/template.yaml``.

    Raises
    ------
    SettingsError
        If something cannot be read; its message names what.
    """
    worker = _function(clients, outputs["WorkerAliasArn"])
    environment = worker.get("Environment", {}).get("Variables", {})
    queue, dead_letters = (_queue(clients, outputs[name]) for name in ("QueueUrl", "DlqUrl"))
    return StackSettings(
        queue=queue,
        dead_letters=dead_letters,
        dead_letters_arn=outputs["DlqArn"],
        worker_timeout_s=int(worker["Timeout"]),
        worker_grace_s=float(environment.get("SPARKLET_GRACE_S") or DEFAULT_GRACE_S),
        consumer_timeout_s=int(_function(clients, outputs["DlqConsumerArn"])["Timeout"]),
        worker_mapping=_mapping(clients, outputs["QueueArn"], outputs["WorkerAliasArn"]),
        consumer_mapping=_mapping(clients, outputs["DlqArn"], outputs["DlqConsumerArn"]),
        checker_scheduled=_scheduled(clients, outputs["CheckerAliasArn"]),
        reserved=_reserved(clients, outputs["WorkerFunctionName"]),
        unreserved=unreserved_concurrency(clients),
        further_queues=_further_queues(clients, outputs),
    )


def _queue(clients: AwsClients, url: str) -> QueueSettings:
    with _faults(f"the attributes of {url}"):
        found = clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    policy: dict[str, Any] = json.loads(found.get("RedrivePolicy") or "{}")
    receives = policy.get("maxReceiveCount")
    return QueueSettings(
        visibility_s=int(found["VisibilityTimeout"]),
        retention_s=int(found["MessageRetentionPeriod"]),
        max_receive_count=None if receives is None else int(receives),
        dead_letters_arn=policy.get("deadLetterTargetArn", ""),
    )


def _function(clients: AwsClients, name: str) -> Mapping[str, Any]:
    with _faults(f"the function {name}"):
        found: Mapping[str, Any] = clients.functions.get_function_configuration(FunctionName=name)
    return found


def _mapping(clients: AwsClients, queue_arn: str, function: str) -> MappingSettings | None:
    with _faults(f"the mappings of {function}"):
        found: Any = clients.functions.list_event_source_mappings(EventSourceArn=queue_arn, FunctionName=function)
    for mapping in found["EventSourceMappings"]:
        most = mapping.get("ScalingConfig", {}).get("MaximumConcurrency")
        return MappingSettings(
            enabled=mapping.get("State", "Enabled") in ("Enabled", "Enabling", "Updating", "Creating"),
            reports_failures="ReportBatchItemFailures" in (mapping.get("FunctionResponseTypes") or ()),
            most_at_once=None if most is None else int(most),
        )
    return None


def _scheduled(clients: AwsClients, function: str) -> bool:
    """Whether an enabled rule calls the function."""
    with _faults(f"the rules that call {function}"):
        names = clients.events.list_rule_names_by_target(TargetArn=function)["RuleNames"]
        return any(clients.events.describe_rule(Name=name)["State"] == "ENABLED" for name in names)


def _reserved(clients: AwsClients, name: str) -> int | None:
    with _faults(f"the concurrency of {name}"):
        return clients.functions.get_function_concurrency(FunctionName=name).get("ReservedConcurrentExecutions")


def _further_queues(clients: AwsClients, outputs: Mapping[str, str]) -> dict[str, QueueSettings]:
    """Those of this account that the worker reads beside the stack's own, such as the asynchronous API's."""
    with _faults("the mappings of the worker"):
        found: Any = clients.functions.list_event_source_mappings(FunctionName=outputs["WorkerAliasArn"])
    account, _, own = outputs["QueueArn"].rpartition(":")
    arns = [str(mapping.get("EventSourceArn", "")).rpartition(":") for mapping in found["EventSourceMappings"]]
    address = outputs["QueueUrl"].rpartition("/")[0]
    return {name: _queue(clients, f"{address}/{name}") for of, _, name in arns if of == account and name != own}


def unreserved_concurrency(clients: AwsClients) -> int | None:
    """What functions without a reserve share; None: not known."""
    with _faults("the account's concurrency"):
        limit: Any = clients.functions.get_account_settings().get("AccountLimit", {})
    unreserved: int | None = limit.get("UnreservedConcurrentExecutions")
    return unreserved


@contextmanager
def _faults(what: str) -> Iterator[None]:
    """Turn botocore's errors into ours, which name what could not be read."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise SettingsError(f"{what} cannot be read: {told(error)}") from error
