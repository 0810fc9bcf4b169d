"""A user with exactly the rights in the guide's table is refused no call of the command line.

`doctor` is not tested: the stand-in treats its GetFunctionConcurrency as PutFunctionConcurrency.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from docs import rights
from sparklet.cli import main
from sparklet.local.environment import REGION
from sparklet.local.state import ACCOUNT
from tests.deploy.recorded_stack import OUTSIDE, ROLE, THEIRS, RecordedStack, client, recorded_stack

pytestmark = [pytest.mark.stack, pytest.mark.slow]

INPUT, OUTPUT = f"s3://{OUTSIDE}/in/visits/", f"s3://{OUTSIDE}/out/"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedStack]:
    with recorded_stack(tmp_path_factory.mktemp("caller")) as stack:
        client("s3").put_object(Bucket=OUTSIDE, Key="in/visits/day=a/x.csv", Body=b"1\n")
        client("s3").put_object(Bucket=THEIRS, Key="x.csv", Body=b"1\n")
        yield stack


def arns(stack: RecordedStack, on: str) -> list[str]:
    """The ARNs that the last column of a row in the table means."""
    outputs, account = stack.outputs, f"{REGION}:{ACCOUNT}"
    places = {
        "LedgerTable": [f"arn:aws:dynamodb:{account}:table/{outputs['LedgerTable']}{end}" for end in ("", "/index/*")],
        "BucketName": [f"arn:aws:s3:::{stack.bucket}", f"arn:aws:s3:::{stack.bucket}/*"],
        "puts": [f"arn:aws:s3:::{OUTSIDE}", f"arn:aws:s3:::{OUTSIDE}/*"],  # inputs and outputs
        "QueueUrl": [outputs["QueueArn"]],
        "WorkerLogGroup": [f"arn:aws:logs:{account}:log-group:{outputs['WorkerLogGroup']}{end}" for end in ("", ":*")],
        "WorkerAliasArn": [outputs["WorkerAliasArn"]],
        "RunMachineArn": [f"arn:aws:states:{account}:*"],
        "stack/NAME/*": [f"arn:aws:cloudformation:{account}:stack/sparklet/*"],
        "that role": [ROLE],
    }
    return [arn for name, arns_there in places.items() if name in on for arn in arns_there] or ["*"]


@pytest.fixture
def caller(stack: RecordedStack, monkeypatch: pytest.MonkeyPatch) -> None:
    allow = [
        {"Effect": "Allow", "Action": list(rights.actions(need)), "Resource": arns(stack, need.on)}
        for need in rights.NEEDS
    ]
    allow.append({"Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": ["*"]})
    iam = client("iam")
    iam.create_user(UserName="caller")
    document = json.dumps({"Version": "2012-10-17", "Statement": allow})
    iam.put_user_policy(UserName="caller", PolicyName="table", PolicyDocument=document)
    key = iam.create_access_key(UserName="caller")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])


def refused(stack: RecordedStack) -> list[tuple[str, str]]:
    records: list[Any] = [json.loads(line) for line in stack.records.read_text().splitlines()]
    of_caller = [each for each in records if each["principal"].endswith(":user/caller")]
    assert of_caller
    return [(each["action"], each["resource"]) for each in of_caller if not each["allowed"]]


@pytest.mark.usefixtures("caller")
def test_the_tables_rights_suffice_for_commands(stack: RecordedStack, tmp_path: Any) -> None:
    script = tmp_path / "job.py"
    script.write_text("print('hello')\n")
    options = ["--stack", "sparklet", "--json"]
    for command in (
        ["plan", str(script), "-i", INPUT, "-o", f"{OUTPUT}all/", "--run-id", "planned"],
        ["plan", str(script), "-i", "glue:sales.visits", "-o", f"{OUTPUT}visits/", "--run-id", "of-glue"],
        ["status", "planned"],
        ["runs"],
        ["logs", "planned"],
        ["plan", str(script), "-i", INPUT, "-o", f"{OUTPUT}old/", "--run-id", "old"],
        ["plan", str(script), "-i", f"s3://{THEIRS}/", "-o", f"{OUTPUT}as/", "--run-id", "as-they", "--role", ROLE],
        ["cancel", "planned"],
        ["watch", "planned"],
        ["cancel", "of-glue"],
        ["clean", "--run", "planned", "--yes"],
    ):
        code = main([*command, *options])
        assert not refused(stack), (command, code)
        assert code in (0, 3), command  # with 3 the run has not ended, or not well
