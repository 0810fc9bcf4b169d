"""Changes of a CloudFormation stack: a set of them is made, shown, then carried out or dropped."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, NamedTuple

from sparklet.aws.clients import AwsClients, failing_as, http_status
from sparklet.errors import SettingsError
from sparklet.ledger.clock import Clock, SystemClock

CAPABILITIES: Any = ("CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND")
NO_CHANGE = ("didn't contain changes", "No updates are to be performed")
NEW = (None, "REVIEW_IN_PROGRESS")  # states of stacks that were never made
LOOKED_EVERY_S = 3.0


class Change(NamedTuple):
    """What happens to one resource."""

    action: str  # Add, Modify, Remove
    resource: str
    kind: str
    replaced: str  # True, False, Conditional: it depends on values that are known later


@dataclass(frozen=True)
class StackChanges:
    """The changes that a template and parameters make of a stack; none of them is made yet."""

    clients: AwsClients
    stack: str
    change_set: str  # its ARN; "" without a change
    changes: Sequence[Change]
    is_new: bool
    clock: Clock

    def carry_out(self, on_event: Callable[[str], None]) -> Mapping[str, str]:
        """Make the changes and wait for their end; return the stack's outputs.

        ``on_event`` gets a line for each resource that is begun or done. SettingsError with the resources' reasons if
        they fail: CloudFormation has then rolled them back.
        """
        seen = {event["EventId"] for event in self._events()}
        with failing_as(SettingsError, f"the stack {self.stack} cannot be changed"):
            self.clients.cloudformation.execute_change_set(ChangeSetName=self.change_set)
        reasons = list[str]()
        while True:
            # The state is read before the events, so those of the last moment are told before this loop ends.
            description = _described(self.clients, self.stack)
            state = str(description.get("StackStatus", ""))
            for event in reversed([event for event in self._events() if event["EventId"] not in seen]):
                seen.add(event["EventId"])
                status, why = event["ResourceStatus"], event.get("ResourceStatusReason", "")
                on_event(f"{event['LogicalResourceId']}: {status}{f' ({why})' if why else ''}")
                # Cancelled resources are a consequence: another one has failed.
                if status.endswith("_FAILED") and "cancelled" not in why:
                    reasons.append(f"{event['LogicalResourceId']}: {why}")
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
            # A change set for a new stack makes that stack, in REVIEW_IN_PROGRESS, and it would stay without the set.
            if self.is_new:
                formation.delete_stack(StackName=self.stack)
            elif self.change_set:
                formation.delete_change_set(ChangeSetName=self.change_set)

    def _events(self) -> Sequence[Any]:
        """The stack's newest events."""
        with failing_as(SettingsError, f"the events of {self.stack} cannot be read"):
            return self.clients.cloudformation.describe_stack_events(StackName=self.stack)["StackEvents"]


def artifact_bucket(clients: AwsClients, name: str = "") -> tuple[str, str]:
    """The bucket for code and templates, made if it is the usual one and not there, and the account."""
    with failing_as(SettingsError, "the account cannot be asked for"):
        account = str(clients.sts.get_caller_identity()["Account"])
    region = clients.s3.meta.region_name
    if name:
        return name, account
    bucket = f"sparklet-deploy-{account}-{region}"
    # S3 refuses us-east-1 as a location: there it must not be named.
    by_region: Any = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    with failing_as(SettingsError, f"the bucket {bucket}, for code and templates, cannot be made"):
        try:
            # The name can be guessed, and another account may have it: it must not get our code, nor give us its own.
            clients.s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=account)
        except clients.s3.exceptions.ClientError as error:
            # The answer to a HEAD has no body, so the status is all there is.
            if http_status(error) != 404:
                raise
            clients.s3.create_bucket(Bucket=bucket, **by_region)
    return bucket, account


def put_artifact(clients: AwsClients, bucket: str, account: str, key: str, body: bytes) -> str:
    """Put a file whose name has its digest; return its address for CloudFormation."""
    with failing_as(SettingsError, f"s3://{bucket}/{key} cannot be written"):
        clients.s3.put_object(Bucket=bucket, Key=key, Body=body, ExpectedBucketOwner=account)
    return f"{clients.s3.meta.endpoint_url}/{bucket}/{key}"


def deployed_parameters(clients: AwsClients, stack: str) -> Mapping[str, str] | None:
    """The parameters of a stack; None if there is none."""
    description = _described(clients, stack)
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
    """Have CloudFormation find out what would change; ``parameters``: None keeps the value that the stack has.

    SettingsError if it refuses the template, a parameter or the stack's state.
    """
    formation, clock = clients.cloudformation, clock or SystemClock()
    if (state := _described(clients, stack).get("StackStatus")) == "ROLLBACK_COMPLETE":
        raise SettingsError(
            f"the stack {stack} could not be made before, and its name is taken: aws cloudformation delete-stack "
            f"--stack-name {stack}, then deploy again"
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
        while (answer := formation.describe_change_set(ChangeSetName=change_set))["Status"].endswith(
            ("_PENDING", "_IN_PROGRESS")
        ):
            clock.sleep(LOOKED_EVERY_S / 3)
    proposed = StackChanges(clients, stack, change_set, tuple(_changes(clients, change_set)), is_new, clock)
    if answer["Status"] == "FAILED":
        # CloudFormation calls a set without changes FAILED, too, and only its text tells which it was.
        proposed.drop()
        why = answer.get("StatusReason", "")
        if any(text in why for text in NO_CHANGE):
            return StackChanges(clients, stack, "", (), is_new, clock)
        raise SettingsError(f"CloudFormation refuses the changes of {stack}: {why}")
    return proposed


def _changes(clients: AwsClients, change_set: str) -> Iterator[Change]:
    token: dict[str, Any] = {}
    while True:
        page = clients.cloudformation.describe_change_set(ChangeSetName=change_set, **token)
        for change in page.get("Changes", []):
            what: Any = change["ResourceChange"]
            yield Change(
                what["Action"], what["LogicalResourceId"], what["ResourceType"], what.get("Replacement", "False")
            )
        if not page.get("NextToken"):
            return
        token = {"NextToken": page["NextToken"]}


def _described(clients: AwsClients, stack: str) -> Mapping[str, Any]:
    """What CloudFormation tells of a stack; nothing if there is none."""
    with failing_as(SettingsError, f"the stack {stack} cannot be described"):
        try:
            (description,) = clients.cloudformation.describe_stacks(StackName=stack)["Stacks"]
        except clients.cloudformation.exceptions.ClientError as error:
            # The code is ValidationError, as of any wrong request: only the text tells.
            if "does not exist" in str(error):
                return {}
            raise
    return description
