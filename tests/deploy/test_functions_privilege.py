"""Workers of Python functions are allowed every call that they make; ``test_rights`` tests that they have no more."""

import os
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from sparklet.functions.executor import LambdaExecutor
from sparklet.local.deploy import localise, to_json
from tests.deploy.recorded_stack import RecordedStack, client
from tests.functional.functions import called
from tests.stand_ins.enforcing import enforcing_ministack
from tests.stand_ins.formation import deploy
from tests.unit.template.reading import ROOT, TEMPLATES
from tests.waiting import deadline_s

pytestmark = [pytest.mark.stack, pytest.mark.slow]

STACK = "sparklet-functions"
PARAMETERS = {"ImageUri": "local", "FunctionTimeoutS": "60", "ModulePatterns": "tests.*"}
ROLES = ("WorkerRole", "FailuresRole")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedStack]:
    """The stack after calls to all sizes, and one whose worker is killed."""
    folder = tmp_path_factory.mktemp("functions")
    template = TEMPLATES["functions.yaml"]
    with enforcing_ministack(folder, {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"}) as (_, records):
        deployed = deploy(STACK, to_json(localise(template, PARAMETERS, {}, {})), PARAMETERS)
        stack = RecordedStack(template, deployed.outputs, deployed.ids, records)
        _call()
        yield stack


def _call() -> None:
    with LambdaExecutor("lambda", stack=STACK) as pool:
        for size in pool.backend.sizes:
            pool.options = type(pool.options)(sizes=(size,))
            assert pool.submit(called.echo, b"x" * 500_000).result(deadline_s()) == b"x" * 500_000
        assert pool.submit(called.die).exception(deadline_s()) is not None


@pytest.mark.parametrize("role", ROLES)
def test_a_role_allows_every_call_with_it(stack: RecordedStack, role: str) -> None:
    calls = [call for call in stack.calls() if call.role == stack.names[role]]

    assert calls
    assert {(call.action, call.resource) for call in calls if not call.allowed} == set()


def test_a_caller_needs_nothing_but_its_policy(stack: RecordedStack, monkeypatch: pytest.MonkeyPatch) -> None:
    iam = client("iam")
    iam.create_user(UserName="caller")
    iam.attach_user_policy(UserName="caller", PolicyArn=stack.outputs["CallerPolicyArn"])
    key = iam.create_access_key(UserName="caller")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])

    _call()

    with pytest.raises(ClientError, match="AccessDenied"):
        client("s3").list_buckets()
