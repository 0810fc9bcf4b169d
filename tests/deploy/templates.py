"""The project's templates as CloudFormation gets them: short forms written out, SAM's resources expanded."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from samtranslator.translator.transform import transform

from sparklet.local.local_template import Template, parse_template
from tests.unit.template.reading import as_list, of_type

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "sam").glob("*.yaml"))


def source(path: Path) -> Template:
    """The template as it is written."""
    return parse_template(path.read_text(encoding="utf-8"))


def expanded(path: Path, **parameters: str) -> Template:
    """The template after SAM's transform, with these parameters and the others as by default."""
    template = source(path)
    for function in of_type(template, "AWS::Serverless::Function").values():
        if "CodeUri" in function:
            function["CodeUri"] = "s3://packed/function.zip"  # as `sam deploy` leaves it
    for machine in of_type(template, "AWS::Serverless::StateMachine").values():
        machine["DefinitionUri"] = "s3://packed/machine.json"
    defaults = {name: str(body.get("Default", name)) for name, body in template["Parameters"].items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        done: Template = transform(copy.deepcopy(template), {**defaults, **parameters}, _NoManagedPolicies())
    return done


class _NoManagedPolicies:
    """Where SAM would look up managed policies by name; the templates name none."""

    def load(self) -> dict[str, str]:
        return {}


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
