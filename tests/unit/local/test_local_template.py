"""The template that the local stand-in deploys: the project's own, with functions as shims instead of images."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparklet.errors import LocalStackError
from sparklet.local.deploy import handler_of, load_template, localise, log_name, parse_template, to_json

ROOT = Path(__file__).resolve().parents[3]
PARAMETERS = {"FunctionTimeoutS": "45", "MaximumConcurrency": "7"}


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return load_template()


@pytest.fixture
def local(template: dict[str, Any]) -> dict[str, Any]:
    return localise(template, PARAMETERS, {}, {})


def functions(document: dict[str, Any]) -> dict[str, Any]:
    return {n: b["Properties"] for n, b in document["Resources"].items() if b["Type"] == "AWS::Serverless::Function"}


def test_each_function_becomes_a_shim_that_names_its_own_handler(
    template: dict[str, Any], local: dict[str, Any]
) -> None:
    for name, properties in functions(local).items():
        assert not {"PackageType", "ImageUri", "ImageConfig", "CodeUri"} & properties.keys()
        code = compile(properties["InlineCode"], name, "exec")
        assert handler_of(template["Resources"][name]["Properties"]) in code.co_consts


def test_a_shim_can_be_pointed_at_another_handler(template: dict[str, Any]) -> None:
    local = localise(template, PARAMETERS, {"WorkerFunction": "mine.handle"}, {})

    assert "'mine.handle'" in functions(local)["WorkerFunction"]["InlineCode"]
    assert "'sparklet.runs.handlers.checker_handler'" in functions(local)["CheckerFunction"]["InlineCode"]


def test_the_rest_of_the_template_is_deployed_unchanged(template: dict[str, Any], local: dict[str, Any]) -> None:
    aliases = {"EngineSettingsPolicy", "LargeFunctionPolicy", "PlannerRole", "RunMachine", "RunMachineRole"}
    for name, resource in template["Resources"].items():
        if resource["Type"] != "AWS::Serverless::Function" and name not in aliases:
            assert local["Resources"][name] == resource
    assert set(local["Outputs"]) == set(template["Outputs"])
    assert local["Rules"] == template["Rules"]
    assert set(local["Conditions"]) == set(template["Conditions"])


def test_the_local_state_machine_is_the_same_as_on_aws(local: dict[str, Any]) -> None:
    machine = local["Resources"]["RunMachine"]["Properties"]

    assert machine["Definition"] == json.loads((ROOT / "sam/statemachines/run.asl.json").read_text())
    assert machine["DefinitionSubstitutions"]["StepArn"] == {"Fn::GetAtt": ["StepFunction", "Arn"]}


def test_a_condition_on_a_list_holds_only_if_something_is_in_it(template: dict[str, Any]) -> None:
    some = localise(template, {**PARAMETERS, "ReadObjectArns": "arn:aws:s3:::a/*,arn:aws:s3:::b/*"}, {}, {})

    assert some["Conditions"]["HasReadObjects"] == {
        "Fn::Not": [{"Fn::Equals": ["arn:aws:s3:::a/*,arn:aws:s3:::b/*", ""]}]
    }
    assert some["Conditions"]["HasWriteObjects"] == {"Fn::Not": [{"Fn::Equals": ["", ""]}]}
    assert "Fn::Join" not in to_json(some["Conditions"])


def test_no_version_is_published_and_aliases_become_functions(local: dict[str, Any]) -> None:
    text = to_json(local)

    assert '.Alias"' not in text
    for key in ("AutoPublishAlias", "VersionDescription", "ProvisionedConcurrencyConfig", "SnapStart"):
        assert f'"{key}":' not in text
    assert local["Outputs"]["WorkerAliasArn"]["Value"] == {"Fn::GetAtt": ["WorkerFunction", "Arn"]}
    assert local["Outputs"]["WorkerAliasName"]["Value"] == "$LATEST"


def test_any_timeout_may_be_chosen_and_visibility_follows(local: dict[str, Any]) -> None:
    assert "AllowedValues" not in local["Parameters"]["FunctionTimeoutS"]
    assert local["Mappings"]["VisibilityS"]["45"] == {"Queue": 270}


def test_localising_leaves_the_original_template_unchanged(template: dict[str, Any]) -> None:
    before = to_json(template)

    localise(template, PARAMETERS, {}, {"SPARKLET_SCRATCH": "/somewhere"})

    assert to_json(template) == before


def test_the_local_template_is_within_the_size_limit(local: dict[str, Any]) -> None:
    assert len(to_json(local)) < 1_000_000


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ("A: !Ref B", {"A": {"Ref": "B"}}),
        ("A: !GetAtt B.C.D", {"A": {"Fn::GetAtt": ["B", "C.D"]}}),
        ("A: !GetAtt [B, C]", {"A": {"Fn::GetAtt": ["B", "C"]}}),
        ('A: !Sub "${B}"', {"A": {"Fn::Sub": "${B}"}}),
        ("A: !If [B, !Ref C, 1]", {"A": {"Fn::If": ["B", {"Ref": "C"}, 1]}}),
        ("A: !Condition B", {"A": {"Condition": "B"}}),
        ("A: !Transform {Name: B}", {"A": {"Fn::Transform": {"Name": "B"}}}),
    ],
)
def test_short_forms_are_written_out(text: str, document: Any) -> None:
    assert parse_template(text) == document


def test_an_invalid_template_is_refused() -> None:
    with pytest.raises(LocalStackError, match="mapping"):
        parse_template("[]")


def test_a_functions_logs_are_found_by_its_name() -> None:
    assert [log_name(n) for n in ("WorkerFunction", "DlqConsumerFunction")] == ["worker", "dlq-consumer"]


def test_overridden_worker_settings_appear_in_no_function(template: dict[str, Any]) -> None:
    handed = {"SPARKLET_METRICS_NAMESPACE": "", "SPARKLET_SCRATCH": "/elsewhere", "JAVA_HOME": "/java"}

    local = localise(template, PARAMETERS, {}, handed)

    common = local["Globals"]["Function"]
    variables_of_functions = [
        settings.get("Environment", {}).get("Variables", {}) for settings in (common, *functions(local).values())
    ]
    assert not any(handed.keys() & variables.keys() for variables in variables_of_functions)
    assert "SPARKLET_WORKER_SETTINGS" in functions(local)["WorkerFunction"]["Environment"]["Variables"]
    assert "SPARKLET_METRICS_NAMESPACE" in template["Globals"]["Function"]["Environment"]["Variables"]
