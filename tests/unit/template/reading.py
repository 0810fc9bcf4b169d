"""Functions with which tests read the templates of sam/."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from samtranslator.translator.transform import transform

from sparklet.local.deploy import Template, parse_template
from sparklet.settings import engines

ROOT = Path(__file__).resolve().parents[3]
SAM = ROOT / "sam"
TEMPLATES = {path.name: parse_template(path.read_text(encoding="utf-8")) for path in sorted(SAM.glob("*.yaml"))}
MAIN = TEMPLATES["template.yaml"]


def of_type(template: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The properties of all resources of a type, by logical id."""
    return {name: body.get("Properties", {}) for name, body in template["Resources"].items() if body["Type"] == kind}


def properties(template: Mapping[str, Any], name: str) -> Any:
    return template["Resources"][name]["Properties"]


def functions(template: dict[str, Any]) -> dict[str, Any]:
    return of_type(template, "AWS::Serverless::Function")


def variables(function: str) -> Any:
    """The environment variables of one function, without the variables of Globals."""
    return properties(MAIN, function)["Environment"]["Variables"]


def named_engines(**given: str) -> Mapping[str, Any]:
    """The engines that the checker reads from its environment with these parameters."""
    return engines({"SPARKLET_ENGINES": resolved(variables("CheckerFunction")["SPARKLET_ENGINES"], MAIN, given)})


def statements(template: Mapping[str, Any], role: str) -> list[dict[str, Any]]:
    """All statements of a role's policies, including conditional policies."""
    attached = [policy for policy in of_type(template, "AWS::IAM::Policy").values() if {"Ref": role} in policy["Roles"]]
    return list(every_statement([properties(template, role)["Policies"], *attached]))


def expanded(name: str, **parameters: str) -> Template:
    """The template after SAM's transform; parameters that are not named have their defaults."""
    template = copy.deepcopy(TEMPLATES[name])
    for function in of_type(template, "AWS::Serverless::Function").values():
        if "CodeUri" in function:
            function["CodeUri"] = "s3://packed/function.zip"  # `sam deploy` writes such an address
    for machine in of_type(template, "AWS::Serverless::StateMachine").values():
        machine["DefinitionUri"] = "s3://packed/machine.json"
    defaults = {name: str(body.get("Default", name)) for name, body in template["Parameters"].items()}
    no_managed_policies = SimpleNamespace(load=dict)  # SAM looks managed policies up by name; the templates name none
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        done: Template = transform(template, {**defaults, **parameters}, no_managed_policies)
    return done


Of = Callable[[Any], Any]
FUNCTIONS: dict[str, Callable[[Any, Of], Any]] = {
    "Fn::If": lambda parts, of: of(parts[1] if of({"Condition": parts[0]}) else parts[2]),
    "Fn::Equals": lambda parts, of: str(of(parts[0])) == str(of(parts[1])),
    "Fn::Not": lambda parts, of: not of(parts[0]),
    "Fn::And": lambda parts, of: all(map(of, parts)),
    "Fn::Or": lambda parts, of: any(map(of, parts)),
    "Fn::Split": lambda parts, of: of(parts[1]).split(parts[0]),
    "Fn::Join": lambda parts, of: parts[0].join(str(of(each)) for each in as_list(of(parts[1]))),
    "Fn::Select": lambda parts, of: of(parts[1])[int(parts[0])],
}


def resolved(node: Any, template: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """Evaluate a text, list or condition as CloudFormation does; a node that cannot be evaluated is returned unchanged.

    ``given``: values of parameters (others have their defaults), resources, attributes (``Queue.Arn``) and imports.
    """
    if not isinstance(node, dict) or len(node) != 1:
        return node
    ((kind, body),) = node.items()
    known = {name: given.get(name, each.get("Default")) for name, each in template["Parameters"].items()} | {**given}

    def of(part: Any) -> Any:
        return resolved(part, template, given)

    if kind == "Ref":
        return known.get(body, node)
    if kind == "Fn::GetAtt":
        return known.get(".".join(body), node)
    if kind == "Fn::ImportValue":
        return known.get(of(body), {kind: of(body)})
    if kind == "Condition":
        return of(template["Conditions"][body])
    if kind == "Fn::FindInMap":
        name, first, second = map(of, body)
        return template["Mappings"][name][str(first)][second]
    if kind == "Fn::Sub":
        text, more = body if isinstance(body, list) else (body, {})
        own = known | {name: of(part) for name, part in more.items()}
        return re.sub(r"\$\{([A-Za-z0-9:.]+)\}", lambda found: str(own.get(found[1], found[0])), text)
    return FUNCTIONS[kind](body, of) if kind in FUNCTIONS else node


def refused(template: Mapping[str, Any], chosen: Mapping[str, Any]) -> list[str]:
    """Why CloudFormation would refuse these parameters: failed rules, and names of parameters that match no pattern."""
    why = []
    for rule in template["Rules"].values():
        if resolved(rule.get("RuleCondition", True), template, chosen):
            why += [a["AssertDescription"] for a in rule["Assertions"] if not resolved(a["Assert"], template, chosen)]
    patterns = {name: template["Parameters"][name].get("AllowedPattern", ".*") for name in chosen}
    return why + [name for name, pattern in patterns.items() if not re.fullmatch(pattern, str(chosen[name]))]


def every_statement(node: Any) -> Iterator[dict[str, Any]]:
    """All policy statements anywhere within a node, including conditional statements."""
    if isinstance(node, list):
        for each in node:
            yield from every_statement(each)
    elif isinstance(node, dict):
        if "Effect" in node:
            yield node
        for each in node.values():
            yield from every_statement(each)


def as_list(value: Any) -> list[Any]:
    """An element of a policy as a list; the element may be one value or a list."""
    return value if isinstance(value, list) else [value]


ROLES = ("WorkerRole", "PlannerRole", "DlqConsumerRole", "CheckerRole", "StepRole")
LARGE = "LargeWorkerFunction"
ZIPS = ("PlannerFunction", "DlqConsumerFunction", "CheckerFunction", "StepFunction")
