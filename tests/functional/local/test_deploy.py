"""``sparklet deploy`` on the emulator, whose CloudFormation has change sets."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest

from sparklet.app import deploy
from sparklet.app.deploy import for_local_stack
from sparklet.cli import main
from sparklet.local.environment import applied, client_env
from tests.stand_ins.ministack import ministack

pytestmark = pytest.mark.stack

IMAGE = ("--image", "123456789012.dkr.ecr.us-east-1.amazonaws.com/sparklet:1")


@pytest.fixture
def formation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of CloudFormation in an empty account."""
    monkeypatch.setattr("sparklet.aws.change_sets.LOOKED_EVERY_S", 0.05)
    monkeypatch.delenv("SPARKLET_STACK", raising=False)
    monkeypatch.chdir(tmp_path)
    with ministack(tmp_path) as endpoint_url, applied(client_env(endpoint_url, "")):
        yield boto3.Session().client("cloudformation")


def deploy_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run ``sparklet deploy``; return its exit code, its document, and its progress."""
    code = main(["deploy", *arguments, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out.strip() else {}, err


def test_a_stack_is_created_and_changed_as_shown_before(
    formation: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, shown, _ = deploy_command(capsys, *IMAGE, "--dry-run")
    assert code == 0 and shown["outputs"] is None
    assert {change["action"] for change in shown["changes"]} == {"Add"}
    assert not formation.list_stacks(StackStatusFilter=["CREATE_COMPLETE"])["StackSummaries"]

    code, created, progress = deploy_command(capsys, *IMAGE, "-p", "MapConcurrency=7", "--yes")
    assert code == 0 and created["outputs"]["BucketName"] and "Ledger: CREATE_COMPLETE" in progress
    assert {change["resource"] for change in created["changes"]} == {change["resource"] for change in shown["changes"]}

    code, again, _ = deploy_command(capsys)
    assert (code, again["changes"]) == (0, [])

    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, refused = deploy_command(capsys, "-p", "FunctionMemoryMB=2048")
    assert code == 1 and "nothing was changed; to answer it beforehand, add --yes" in refused
    change_sets = formation.list_change_sets(StackName="sparklet")["Summaries"]
    assert "AVAILABLE" not in {change_set["ExecutionStatus"] for change_set in change_sets}

    code, changed, _ = deploy_command(capsys, "-p", "FunctionMemoryMB=2048", "--yes")
    assert code == 0 and "WorkerFunction" in {change["resource"] for change in changed["changes"]}
    (stack,) = formation.describe_stacks(StackName="sparklet")["Stacks"]
    kept = {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}
    assert (kept["FunctionMemoryMB"], kept["MapConcurrency"], kept["ImageUri"]) == ("2048", "7", IMAGE[1])


def test_a_deployment_with_wrong_arguments_changes_nothing(formation: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, why in {
        (): "a new stack needs the worker's image",
        (*IMAGE, "-p", "FunctionMemory=1"): "did you mean FunctionMemoryMB?",
        (*IMAGE, "-p", "FunctionMemoryMB"): "must look like key=value",
    }.items():
        code, _, refused = deploy_command(capsys, *arguments, "--yes")
        assert code == 1 and why in refused

    assert not formation.list_stacks()["StackSummaries"]


def test_a_failed_deployment_is_rolled_back_and_reported(
    formation: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_layer(whole: dict[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
        template = for_local_stack(whole, values)
        template["Resources"]["CheckerFunction"]["Properties"]["Layers"] = ["arn:aws:lambda:us-east-1:1:layer:absent:1"]
        return template

    monkeypatch.setattr(deploy, "for_local_stack", without_layer)

    code, _, refused = deploy_command(capsys, *IMAGE, "--yes")
    assert code == 1 and "ROLLBACK_COMPLETE: CheckerFunction: " in refused and "absent" in refused
    code, _, again = deploy_command(capsys, *IMAGE, "--yes")

    assert code == 1 and "delete-stack --stack-name sparklet, then deploy again" in " ".join(again.split())


def test_the_project_file_has_the_stack_and_its_parameters(
    formation: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = ["[deploy]", 'stack = "nightly"', f'image = "{IMAGE[1]}"', "[deploy.parameters]", "MapConcurrency = 9"]
    (tmp_path / "sparklet.toml").write_text("\n".join(lines))

    code, document, _ = deploy_command(capsys, "-p", "FunctionMemoryMB=2048", "--yes")

    assert (code, document["stack"]) == (0, "nightly")
    (stack,) = formation.describe_stacks(StackName="nightly")["Stacks"]
    values = {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}
    assert (values["MapConcurrency"], values["FunctionMemoryMB"]) == ("9", "2048")
