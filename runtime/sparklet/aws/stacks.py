"""What a deployed CloudFormation stack says of itself."""

from collections.abc import Mapping
from typing import Any

from sparklet.aws.clients import AwsClients
from sparklet.aws.remedies import remedy, told
from sparklet.errors import NotDeployedError, SettingsError

OUTPUTS = ("BucketName", "LedgerTable", "QueueUrl", "WorkerAliasArn", "WorkerLogGroup")


def stack_parameters(clients: AwsClients, name: str) -> Mapping[str, str]:
    """The parameters that a stack was deployed with; SettingsError if it cannot be described."""
    return {
        given["ParameterKey"]: given.get("ParameterValue", "")
        for given in _described(clients, name).get("Parameters", [])
    }


def stack_outputs(clients: AwsClients, name: str) -> Mapping[str, str]:
    """The outputs of a stack made from ``sam/template.yaml``.

    Raises
    ------
    NotDeployedError
        If there is no such stack.
    SettingsError
        If it may not be described, or it lacks an output.
    """
    outputs = {output["OutputKey"]: output["OutputValue"] for output in _described(clients, name).get("Outputs", [])}
    if missing := [key for key in OUTPUTS if key not in outputs]:
        raise SettingsError(
            f"the stack {name} lacks the outputs {', '.join(missing)}: was it made from sam/template.yaml?"
        )
    return outputs


def _described(clients: AwsClients, name: str) -> Any:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        (stack,) = clients.cloudformation.describe_stacks(StackName=name)["Stacks"]
    except (BotoCoreError, ClientError) as error:
        what_to_do = "" if remedy(error) else "; check --stack, the region and the credentials"
        kind = NotDeployedError if "does not exist" in str(error) else SettingsError
        raise kind(f"the stack {name} cannot be described: {told(error)}{what_to_do}") from error
    return stack
