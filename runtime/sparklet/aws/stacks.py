"""A deployed CloudFormation stack: its outputs and parameters, and its settings as the services have them now.

The settings are read from the services themselves, since they may have been changed by hand.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import lru_cache
from itertools import chain
from typing import Any

from sparklet.aws.clients import FORBIDDEN, AwsClients, error_code, explain_error, failing_as, failing_with, remedy
from sparklet.errors import NotDeployedError, SettingsError
from sparklet.job.session import write_encryption
from sparklet.model.tasks import MappingSettings, QueueSettings, StackSettings
from sparklet.settings import GRACE_S, script_variables, with_worker_settings

FRESH_S = 60  # settings are read again after this time; AWS allows 15 such requests a second
OUTPUTS = ("BucketName", "LedgerTable", "QueueUrl", "WorkerAliasArn", "WorkerLogGroup")


def described_stack(
    clients: AwsClients, name: str, required_outputs: Sequence[str] = OUTPUTS, template: str = "template.yaml"
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """The outputs and the parameters of a stack.

    NotDeployedError if there is no such stack; SettingsError if it lacks one of the ``required_outputs``, or cannot be
    described. Afterwards the clients write with the encryption that the stack demands, and assume roles with its
    external id.
    """

    def convert(error: Exception) -> SettingsError:
        what_to_do = "" if remedy(error) else "; check --stack, the region and the credentials"
        error_class = NotDeployedError if "does not exist" in str(error) else SettingsError
        return error_class(f"the stack {name} cannot be described: {explain_error(error)}{what_to_do}")

    with failing_with(convert):
        (stack,) = clients.cloudformation.describe_stacks(StackName=name)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}
    parameters = {
        parameter["ParameterKey"]: parameter.get("ParameterValue", "") for parameter in stack.get("Parameters", [])
    }
    if encryption := parameters.get("WriteEncryption"):
        clients.write_encryption = write_encryption({"SPARKLET_WRITE_ENCRYPTION": encryption})
    clients.external_id = parameters.get("InputRoleExternalId") or clients.external_id
    if missing_outputs := [key for key in required_outputs if key not in outputs]:
        raise SettingsError(
            f"the stack {name} lacks the outputs {', '.join(missing_outputs)}: was it made from sam/{template}?"
        )
    return outputs, parameters


def demands_encryption(clients: AwsClients, bucket: str) -> bool:
    """Whether a bucket denies a write as the stack makes it, and its policy mentions encryption.

    A write is tried, but can change nothing: S3 checks policies first, and no object has the ETag that the write needs.
    """
    from botocore.exceptions import ClientError

    try:
        clients.s3.put_object(Bucket=bucket, Key="runs/doctor", IfMatch='"none"')
    except ClientError as error:
        if error_code(error) not in FORBIDDEN:
            return False
        # ClientError: the caller has no permission to read the policy.
        with suppress(ClientError):
            policy = clients.s3.get_bucket_policy(Bucket=bucket)["Policy"]
            return "s3:x-amz-server-side-encryption" in policy.lower()
    return False


def stack_settings(clients: AwsClients, outputs: Mapping[str, str]) -> StackSettings:
    """The settings of the stack with these outputs; SettingsError, which names the resource, if one cannot be read."""
    worker = _function(clients, outputs["WorkerAliasArn"])
    environment = with_worker_settings(worker.get("Environment", {}).get("Variables", {}))
    queue, dead_letters = (_queue(clients, outputs[name]) for name in ("QueueUrl", "DlqUrl"))
    return StackSettings(
        queue=queue,
        dead_letters=dead_letters,
        dead_letters_arn=outputs["DlqArn"],
        worker_timeout_s=int(worker["Timeout"]),
        worker_grace_s=float(environment.get("SPARKLET_GRACE_S") or GRACE_S),
        consumer_timeout_s=int(_function(clients, outputs["DlqConsumerArn"])["Timeout"]),
        worker_mapping=_mapping(clients, outputs["QueueArn"], outputs["WorkerAliasArn"]),
        consumer_mapping=_mapping(clients, outputs["DlqArn"], outputs["DlqConsumerArn"]),
        checker_scheduled=_is_scheduled(clients, outputs["CheckerAliasArn"]),
        reserved=_reserved_concurrency(clients, outputs["WorkerFunctionName"]),
        unreserved=unreserved_concurrency(clients),
        further_queues=_further_queues(clients, outputs),
    )


def settings_of(clients: AwsClients, function: str) -> Mapping[str, str]:
    """The variables of a worker function that affect scripts (``settings.script_variables``), at most a minute old."""
    # The minute is part of the cache's key, so that an entry is used for a minute only.
    return _settings_of(clients, function, int(time.time() // FRESH_S))


@lru_cache(maxsize=1)
def _settings_of(clients: AwsClients, function: str, minute: int) -> Mapping[str, str]:
    environment = _function(clients, function).get("Environment", {})
    # If the caller has no permission to decrypt the variables, Lambda returns this error in their place.
    if "Error" in environment:
        raise SettingsError(f"the settings of {function} cannot be read: {environment['Error'].get('Message', '')}")
    return script_variables(environment.get("Variables", {}))


def _queue(clients: AwsClients, url: str) -> QueueSettings:
    with _reading(f"the attributes of {url}"):
        attributes = clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    policy: dict[str, Any] = json.loads(attributes.get("RedrivePolicy") or "{}")
    receives = policy.get("maxReceiveCount")
    return QueueSettings(
        visibility_s=int(attributes["VisibilityTimeout"]),
        retention_s=int(attributes["MessageRetentionPeriod"]),
        max_receive_count=None if receives is None else int(receives),
        dead_letters_arn=policy.get("deadLetterTargetArn", ""),
    )


def _entries_of_all_pages(paginator: Any, key: str, **request: str) -> list[Any]:
    """The entries that all pages have below ``key``."""
    return [item for page in paginator.paginate(**request) for item in page[key]]


def _function(clients: AwsClients, name: str) -> Mapping[str, Any]:
    with _reading(f"the settings of {name}"):
        return clients.functions.get_function_configuration(FunctionName=name)


def _mapping(clients: AwsClients, queue_arn: str, function: str) -> MappingSettings | None:
    """The first event source mapping from a queue to a function; None if there is none."""
    with _reading(f"the mappings of {function}"):
        names = {"EventSourceArn": queue_arn, "FunctionName": function}
        mappings = _entries_of_all_pages(
            clients.functions.get_paginator("list_event_source_mappings"), "EventSourceMappings", **names
        )
    for mapping in mappings:
        maximum = mapping.get("ScalingConfig", {}).get("MaximumConcurrency")
        return MappingSettings(
            enabled=mapping.get("State", "Enabled") in ("Enabled", "Enabling", "Updating", "Creating"),
            reports_failures="ReportBatchItemFailures" in (mapping.get("FunctionResponseTypes") or ()),
            most_at_once=None if maximum is None else int(maximum),
        )
    return None


def _is_scheduled(clients: AwsClients, function: str) -> bool:
    """Whether an enabled EventBridge rule calls a function."""
    with _reading(f"the rules that call {function}"):
        names = _entries_of_all_pages(
            clients.events.get_paginator("list_rule_names_by_target"), "RuleNames", TargetArn=function
        )
        return any(clients.events.describe_rule(Name=name)["State"] == "ENABLED" for name in names)


def _reserved_concurrency(clients: AwsClients, name: str) -> int | None:
    with _reading(f"the concurrency of {name}"):
        return clients.functions.get_function_concurrency(FunctionName=name).get("ReservedConcurrentExecutions")


def _further_queues(clients: AwsClients, outputs: Mapping[str, str]) -> dict[str, QueueSettings]:
    """The other SQS queues of this account that the worker reads, such as the asynchronous API's, by name."""
    worker = outputs["WorkerAliasArn"]
    with _reading("the mappings of the worker"):
        paginator = clients.functions.get_paginator("list_event_source_mappings")
        mappings = _entries_of_all_pages(paginator, "EventSourceMappings", FunctionName=worker)
    arn_prefix, _, queue_name = outputs["QueueArn"].rpartition(":")  # arn:aws:sqs:REGION:ACCOUNT
    arns = [str(mapping.get("EventSourceArn", "")).rpartition(":") for mapping in mappings]
    names = [name for prefix, _, name in arns if prefix == arn_prefix and name != queue_name]
    base_url = outputs["QueueUrl"].rpartition("/")[0]
    return {name: _queue(clients, f"{base_url}/{name}") for name in names}


def unreserved_concurrency(clients: AwsClients) -> int | None:
    """The concurrency that all functions without reserved concurrency share; None if it is not known."""
    with _reading("the account's concurrency"):
        limit = clients.functions.get_account_settings().get("AccountLimit", {})
        return limit.get("UnreservedConcurrentExecutions")


def unused_snapshots(clients: AwsClients, outputs: Mapping[str, str]) -> Mapping[str, int]:
    """The worker's versions that have a snapshot and no alias, each with its memory in MB. AWS probably bills these."""
    name = outputs["WorkerFunctionName"]
    with _reading(f"the versions of {name}"):
        versions = _entries_of_all_pages(
            clients.functions.get_paginator("list_versions_by_function"), "Versions", FunctionName=name
        )
        aliases = _entries_of_all_pages(clients.functions.get_paginator("list_aliases"), "Aliases", FunctionName=name)
    # An alias can send a share of its calls to a second version.
    version_weights = (alias.get("RoutingConfig", {}).get("AdditionalVersionWeights", {}) for alias in aliases)
    versions_with_alias = {"$LATEST", *(alias["FunctionVersion"] for alias in aliases), *chain(*version_weights)}
    snapshot_versions = [
        version for version in versions if version.get("SnapStart", {}).get("ApplyOn") == "PublishedVersions"
    ]
    return {
        version["Version"]: version["MemorySize"]
        for version in snapshot_versions
        if version["Version"] not in versions_with_alias
    }


def delete_versions(clients: AwsClients, outputs: Mapping[str, str], versions: Iterable[str]) -> None:
    """Delete versions of the worker; SettingsError, which names the version, if one cannot be deleted."""
    name = outputs["WorkerFunctionName"]
    for version in versions:
        with failing_as(SettingsError, f"version {version} of {name} cannot be deleted"):
            clients.functions.delete_function(FunctionName=name, Qualifier=version)


def _reading(what: str) -> AbstractContextManager[None]:
    """Convert errors of AWS calls in the block to a SettingsError that says that ``what`` cannot be read."""
    return failing_as(SettingsError, f"{what} cannot be read")
