"""How the tests of sam/template.yaml read it."""

from typing import Any


def of_type(template: dict[str, Any], kind: str) -> dict[str, Any]:
    return {name: body["Properties"] for name, body in template["Resources"].items() if body["Type"] == kind}


def functions(template: dict[str, Any]) -> dict[str, Any]:
    return of_type(template, "AWS::Serverless::Function")


def statements(template: dict[str, Any], role: str) -> list[dict[str, Any]]:
    """Everything a role is allowed, its conditional policies included."""
    policies = template["Resources"][role]["Properties"]["Policies"]
    inline = [policy["Fn::If"][1] if "Fn::If" in policy else policy for policy in policies]
    inline = [policy["PolicyDocument"] for policy in inline]
    attached = [
        policy["PolicyDocument"]
        for policy in of_type(template, "AWS::IAM::Policy").values()
        if {"Ref": role} in policy["Roles"]
    ]
    every = [statement for document in inline + attached for statement in document["Statement"]]
    return [each["Fn::If"][1] if "Fn::If" in each else each for each in every]


def evaluate_rules(template: dict[str, Any], chosen: dict[str, str]) -> None:
    """Evaluate a template's rules for these parameters, the others as by default; ValueError if one does not hold."""
    from ministack.services.cloudformation.engine import _evaluate_rules

    values = {name: str(definition.get("Default", "")) for name, definition in template["Parameters"].items()}
    _evaluate_rules(template, {name: {"Value": value} for name, value in {**values, **chosen}.items()}, {})


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


ROLES = ("WorkerRole", "PlannerRole", "DlqConsumerRole", "CheckerRole", "StepRole")
LARGE = "LargeWorkerFunction"
ZIPS = ("PlannerFunction", "DlqConsumerFunction", "CheckerFunction", "StepFunction")
