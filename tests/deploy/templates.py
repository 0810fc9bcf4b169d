"""The project's templates as CloudFormation gets them: short forms written out, SAM's resources expanded."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from samtranslator.translator.transform import transform

from sparklet.local.local_template import Template, parse_template
from tests.deploy.policies import as_list

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "sam").glob("*.yaml"))


def source(path: Path) -> Template:
    """The template as it is written."""
    return parse_template(path.read_text(encoding="utf-8"))


def expanded(path: Path) -> Template:
    """The template after SAM's transform."""
    template = source(path)
    for function in of_type(template, "AWS::Serverless::Function").values():
        if "CodeUri" in function:
            function["CodeUri"] = "s3://packed/function.zip"  # as `sam deploy` leaves it
    for machine in of_type(template, "AWS::Serverless::StateMachine").values():
        machine["DefinitionUri"] = "s3://packed/machine.json"
    given = {name: str(body.get("Default", name)) for name, body in template["Parameters"].items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        done: Template = transform(copy.deepcopy(template), given, _NoManagedPolicies())
    return done


class _NoManagedPolicies:
    """Where SAM would look up managed policies by name; the templates name none."""

    def load(self) -> dict[str, str]:
        return {}


def of_type(template: Template, kind: str) -> dict[str, dict[str, Any]]:
    """Properties of the resources of a type, by logical id."""
    return {name: body.get("Properties", {}) for name, body in template["Resources"].items() if body["Type"] == kind}


def statements(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every statement that allows a principal of the template's something, with the resource it stands in."""
    for name, role in of_type(template, "AWS::IAM::Role").items():
        for policy in role.get("Policies", []):
            yield from _each(name, policy)
    for kind in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
        for name, policy in of_type(template, kind).items():
            yield from _each(name, policy)


def _each(name: str, policy: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    policies = policy["Fn::If"][1:] if "Fn::If" in policy else [policy]
    for chosen in policies:
        if "PolicyDocument" in chosen:
            for statement in as_list(chosen["PolicyDocument"]["Statement"]):
                branches = statement["Fn::If"][1:] if "Fn::If" in statement else [statement]
                yield from ((name, branch) for branch in branches if "Effect" in branch)


def resolved(value: Any, template: Template, parameters: Mapping[str, Any]) -> Any:
    """A value with parameters, mappings and conditions put in; what else there is stays as it is written."""
    if not isinstance(value, dict) or len(value) != 1:
        return value
    ((kind, body),) = value.items()
    if kind == "Ref" and body in template.get("Parameters", {}):
        return parameters.get(body, template["Parameters"][body].get("Default"))
    if kind == "Fn::FindInMap":
        name, first, second = (resolved(part, template, parameters) for part in body)
        return template["Mappings"][name][str(first)][second]
    if kind == "Fn::If":
        chosen = body[1] if _holds({"Condition": body[0]}, template, parameters) else body[2]
        return resolved(chosen, template, parameters)
    return value


def _holds(condition: Any, template: Template, parameters: Mapping[str, Any]) -> bool:
    ((kind, body),) = condition.items()
    if kind == "Condition":
        return _holds(template["Conditions"][body], template, parameters)
    if kind == "Fn::Not":
        return not _holds(body[0], template, parameters)
    if kind in ("Fn::And", "Fn::Or"):
        return (all if kind == "Fn::And" else any)(_holds(part, template, parameters) for part in body)
    if kind == "Fn::Equals":
        left, right = (str(_text(part, template, parameters)) for part in body)
        return left == right
    raise ValueError(f"a condition that this reader does not know: {kind}")


def _text(value: Any, template: Template, parameters: Mapping[str, Any]) -> Any:
    if isinstance(value, dict) and "Fn::Join" in value:
        separator, parts = value["Fn::Join"]
        return separator.join(map(str, as_list(resolved(parts, template, parameters))))
    return resolved(value, template, parameters)
