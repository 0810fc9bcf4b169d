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
    return [statement for document in inline + attached for statement in document["Statement"]]


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


ROLES = ("WorkerRole", "PlannerRole", "DlqConsumerRole", "CheckerRole", "StepRole")
ZIPS = ("PlannerFunction", "DlqConsumerFunction", "CheckerFunction", "StepFunction")
