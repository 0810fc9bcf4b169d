"""Changes of a CloudFormation stack: a change set is created, shown, then carried out or dropped."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, NamedTuple

from sparklet.aws.clients import AwsClients, failing_as, http_status
from sparklet.errors import SettingsError
from sparklet.ledger.clock import Clock, SystemClock

CAPABILITIES: Any = ("CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND")
NO_CHANGE = ("didn't contain changes", "No updates are to be performed")
NEW = (None, "REVIEW_IN_PROGRESS")  # states of stacks that were never created
LOOKED_EVERY_S = 3.0


class Change(NamedTuple):
    """What happens to one resource."""

    action: str  # Add, Modify, Remove
    resource: str
    kind: str
    replaced: str  # True, False, or Conditional: this depends on values that are not known yet


@dataclass(frozen=True)
class StackChanges:
    """The changes that a template and parameters would make to a stack; ``carry_out`` makes them."""

    clients: AwsClients
    stack: str
    change_set: str  # the change set's ARN; "" if there is no change
    changes: Sequence[Change]
    is_new: bool
    clock: Clock

    def carry_out(self, on_event: Callable[[str], None]) -> Mapping[str, str]:
        """Make the changes, and wait until they are done; return the stack's outputs.

        ``on_event`` gets a line whenever a resource is begun or done. SettingsError, with the reasons of the resources
        that failed, if CloudFormation has rolled the changes back.
        """
        seen_ids = {event["EventId"] for event in self._events()}
        with failing_as(SettingsError, f"the stack {self.stack} cannot be changed"):
            self.clients.cloudformation.execute_change_set(ChangeSetName=self.change_set)
        reasons = list[str]()
        while True:
            # The state is read before the events, so that no event is missed when the state ends this loop.
            description = _description(self.clients, self.stack)
            state = str(description.get("StackStatus", ""))
            new_events = [event for event in self._events() if event["EventId"] not in seen_ids]
            for event in reversed(new_events):  # oldest first
                seen_ids.add(event["EventId"])
                status, reason = event["ResourceStatus"], event.get("ResourceStatusReason", "")
                on_event(f"{event['LogicalResourceId']}: {status}{f' ({reason})' if reason else ''}")
                # CloudFormation cancels resources after another one has failed, which is the reason.
                if status.endswith("_FAILED") and "cancelled" not in reason:
                    reasons.append(f"{event['LogicalResourceId']}: {reason}")
            if state and not state.endswith("_IN_PROGRESS"):
                break
            self.clock.sleep(LOOKED_EVERY_S)
        if state not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise SettingsError(f"the stack {self.stack} is {state}: {'; '.join(dict.fromkeys(reasons)) or state}")
        return {output["OutputKey"]: output["OutputValue"] for output in description.get("Outputs", [])}

    def drop(self) -> None:
        """Delete the change set, and the stack if it exists only for that change set; nothing else changes."""
        formation = self.clients.cloudformation
        with failing_as(SettingsError, f"the changes of {self.stack} cannot be dropped"):
            # A change set for a new stack creates that stack, in REVIEW_IN_PROGRESS, which would remain.
            if self.is_new:
                formation.delete_stack(StackName=self.stack)
            elif self.change_set:
                formation.delete_change_set(ChangeSetName=self.change_set)

    def _events(self) -> Sequence[Any]:
        """The stack's newest events, newest first."""
        with failing_as(SettingsError, f"the events of {self.stack} cannot be read"):
            return self.clients.cloudformation.describe_stack_events(StackName=self.stack)["StackEvents"]


def artifact_bucket(clients: AwsClients, name: str = "") -> tuple[str, str]:
    """The bucket for code and templates, and the account's id.

    Without ``name`` it is a bucket named after account and region, which is created if it does not exist.
    """
    with failing_as(SettingsError, "the id of the AWS account cannot be read"):
        account = str(clients.sts.get_caller_identity()["Account"])
    region = clients.s3.meta.region_name
    if name:
        return name, account
    bucket = f"sparklet-deploy-{account}-{region}"
    # S3 refuses us-east-1 as a location constraint.
    location: Any = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    with failing_as(SettingsError, f"the bucket {bucket}, for code and templates, cannot be made"):
        try:
            # The name can be guessed: if another account owns the bucket, it must neither get our code nor replace it.
            clients.s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=account)
        except clients.s3.exceptions.ClientError as error:
            # The response to a HEAD has no body, and so no error code, only a status.
            if http_status(error) != 404:
                raise
            clients.s3.create_bucket(Bucket=bucket, **location)
    return bucket, account


def put_artifact(clients: AwsClients, bucket: str, account: str, key: str, body: bytes) -> str:
    """Write a file; return its URL for CloudFormation. Its ``key`` contains a digest of it, so it may exist already."""
    with failing_as(SettingsError, f"s3://{bucket}/{key} cannot be written"):
        clients.s3.put_object(Bucket=bucket, Key=key, Body=body, ExpectedBucketOwner=account)
    return f"{clients.s3.meta.endpoint_url}/{bucket}/{key}"


def deployed_parameters(clients: AwsClients, stack: str) -> Mapping[str, str] | None:
    """The parameters of a stack; None if the stack was never created."""
    description = _description(clients, stack)
    if description.get("StackStatus") in NEW:
        return None
    parameters = description.get("Parameters", [])
    return {parameter["ParameterKey"]: parameter.get("ParameterValue", "") for parameter in parameters}


def propose(
    clients: AwsClients,
    stack: str,
    template_url: str,
    parameters: Mapping[str, str | None],
    clock: Clock | None = None,
) -> StackChanges:
    """Create a change set, and wait until CloudFormation has found the changes.

    A parameter that is None keeps the stack's value. A change set that fails or changes nothing is deleted again.
    SettingsError if CloudFormation refuses the template, a parameter or the stack's state.
    """
    formation, clock = clients.cloudformation, clock or SystemClock()
    if (state := _description(clients, stack).get("StackStatus")) == "ROLLBACK_COMPLETE":
        raise SettingsError(
            f"an earlier deployment could not create the stack {stack}, and what remains of it must be deleted first: "
            f"aws cloudformation delete-stack --stack-name {stack}, then deploy again"
        )
    is_new = state in NEW
    values: Any = [
        {"ParameterKey": key, "UsePreviousValue": True}
        if value is None
        else {"ParameterKey": key, "ParameterValue": value}
        for key, value in parameters.items()
    ]
    with failing_as(SettingsError, f"CloudFormation refuses the changes of {stack}"):
        change_set = formation.create_change_set(
            StackName=stack,
            ChangeSetName=f"sparklet-{token_hex(6)}",
            ChangeSetType="CREATE" if is_new else "UPDATE",
            TemplateURL=template_url,
            Parameters=values,
            Capabilities=list(CAPABILITIES),
            Tags=[{"Key": "application", "Value": "sparklet"}],
        )["Id"]
        while (description := formation.describe_change_set(ChangeSetName=change_set))["Status"].endswith(
            ("_PENDING", "_IN_PROGRESS")
        ):
            clock.sleep(LOOKED_EVERY_S / 3)
    stack_changes = StackChanges(clients, stack, change_set, tuple(_changes(clients, change_set)), is_new, clock)
    if description["Status"] == "FAILED":
        stack_changes.drop()
        reason = description.get("StatusReason", "")
        # A change set without changes is FAILED, too; only the text of the reason shows the difference.
        if any(text in reason for text in NO_CHANGE):
            return StackChanges(clients, stack, "", (), is_new, clock)
        raise SettingsError(f"CloudFormation refuses the changes of {stack}: {reason}")
    return stack_changes


def _changes(clients: AwsClients, change_set: str) -> Iterator[Change]:
    """The changes of a change set, from all pages of its description."""
    token: dict[str, Any] = {}
    while True:
        page = clients.cloudformation.describe_change_set(ChangeSetName=change_set, **token)
        for change in page.get("Changes", []):
            resource: Any = change["ResourceChange"]
            yield Change(
                resource["Action"],
                resource["LogicalResourceId"],
                resource["ResourceType"],
                resource.get("Replacement", "False"),
            )
        if not page.get("NextToken"):
            return
        token = {"NextToken": page["NextToken"]}


def _description(clients: AwsClients, stack: str) -> Mapping[str, Any]:
    """CloudFormation's description of a stack; {} if there is no such stack."""
    with failing_as(SettingsError, f"the stack {stack} cannot be described"):
        try:
            (description,) = clients.cloudformation.describe_stacks(StackName=stack)["Stacks"]
        except clients.cloudformation.exceptions.ClientError as error:
            # The error code is that of every wrong request (ValidationError), so the text is compared.
            if "does not exist" in str(error):
                return {}
            raise
    return description
