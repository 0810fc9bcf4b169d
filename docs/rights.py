"""Who may do what: a caller's rights in ``docs/guide/deploy.md``, all roles' in ``docs/reference/rights.md``.

Also in the guide: the endpoints that functions need in a VPC. ``python -m docs.rights docs/guide/deploy.md`` writes
all of it.

What is called of AWS stands in the code; here stands what a caller needs a call for and on what it is authorized, in
``docs.calls`` what is called with each role. ``unknown`` names each call that stands in neither, or is gone.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any

import botocore.session
from botocore import xform_name

from docs.calls import ENGINES, PREFIXES, ROLES, VERSIONS, Use, actions_of
from sparklet.aws.clients import SERVICES
from sparklet.engines.create import KINDS
from sparklet.local.deploy import parse_template

RUNTIME = Path(__file__).resolve().parents[1] / "runtime" / "sparklet"
SAM = RUNTIME.parents[1] / "sam"
PAGE = SAM.parent / "docs" / "reference" / "rights.md"
HEAD = """# What each role may do

<!-- Made from the templates by `make docs`; a test compares. -->

Every role of every template, statement by statement. Names are those of parameters and resources; a statement with a
name under "if" is there if that condition of the template holds. A caller's rights: [deploy](../guide/deploy.md).
"""
ENDPOINTS, ENDPOINTS_END = "<!-- endpoints: written by docs.rights -->", "<!-- endpoints: end -->"
BUILD = ("image-builder.yaml", "BuildRole")  # CodeBuild's; what it does with its role is done in the VPC
OF_SERVICES = {"ecr": ("ecr.api", "ecr.dkr")}  # endpoints, where they are not called as in IAM
GIVEN_BY = {  # where docs.calls does not name the parameter itself
    "LargeWorkerFunctionAliaslive": "LargeFunction",
    "engines": "an engine",
    "fargate_task": "FargateTaskDefinition",
    "platforms": "an engine",
}
LIST, LIST_END = "<!-- engines: written by docs.rights -->", "<!-- engines: end -->"
ELSEWHERE = SAM.parent / "docs" / "guide" / "elsewhere.md"
BEGIN, END = "<!-- rights: written by docs.rights -->", "<!-- rights: end -->"
LEDGER, BUCKET = "`LedgerTable`", "the bucket `BucketName`"


@dataclass(frozen=True)
class Need:
    """Calls that a command makes for one purpose, on one thing."""

    purpose: str
    calls: tuple[str, ...]  # "service.method", as ``AwsClients`` has them
    on: str
    further: tuple[str, ...] = ()  # actions beyond the calls' own


NEEDS = (
    Need("all", ("cloudformation.describe_stacks",), "the stack, by its name: `stack/NAME/*`"),
    Need(
        "all",
        ("dynamodb.get_item", "dynamodb.batch_get_item", "dynamodb.query"),
        f"{LEDGER}, `Query` also on its index",
    ),
    Need(
        "`run`, `plan`, `redrive`, `cancel`, `watch`",
        ("dynamodb.put_item", "dynamodb.update_item", "dynamodb.transact_write_items"),
        LEDGER,
    ),
    Need("the same", ("sqs.send_message_batch",), "the queue `QueueUrl`"),
    Need("all", ("s3.get_object", "s3.head_object"), f"{BUCKET}; inputs"),
    Need("all", ("s3.list_objects_v2", "s3.head_bucket"), f"{BUCKET}; inputs' and outputs' buckets"),
    Need(
        "those that start or end runs",
        ("s3.put_object", "s3.upload_file"),
        BUCKET,
    ),
    Need(
        "the same, `clean`, `--overwrite`",
        ("s3.delete_objects",),
        f"{BUCKET}; outputs that are replaced",
    ),
    Need("`clean`", ("dynamodb.batch_write_item",), LEDGER, ("dynamodb:DeleteItem",)),
    Need("`logs`", ("logs.filter_log_events", "logs.get_log_events"), "`WorkerLogGroup`"),
    Need("`invoke`", ("functions.invoke",), "`WorkerAliasArn`"),
    Need(
        "runs of the state machine",
        ("states.start_execution", "states.describe_execution", "states.stop_execution"),
        "`RunMachineArn`, its executions",
    ),
    Need("a list that names versions", (), "inputs", ("s3:GetObjectVersion",)),
    Need("`--role`", ("sts.assume_role",), "that role"),
    Need("`--input glue:…`", ("glue.get_table", "glue.get_partitions"), "catalog, database and table"),
    Need(
        "a run with an engine, or a table of Iceberg",
        ("functions.get_function_configuration",),
        "`WorkerAliasArn`",
    ),
    Need(
        "a run with EMR, EMR Serverless, Glue",
        tuple(call for each in VERSIONS for call in each.calls),
        "the engine",
    ),
    Need(
        "`doctor --stack`",
        (
            *(
                "functions.get_account_settings",
                "functions.get_function_concurrency",
                "functions.list_event_source_mappings",
            ),
            *("functions.list_versions_by_function", "functions.list_aliases", "sqs.get_queue_attributes"),
            *("events.list_rule_names_by_target", "events.describe_rule"),
        ),
        "the stack's functions, queues and rules",
        ("lambda:GetFunctionConfiguration",),
    ),
    Need("`doctor --stack`, where `WriteEncryption` is empty (it goes without)", ("s3.get_bucket_policy",), BUCKET),
    Need("`doctor --delete-snapshots`", ("functions.delete_function",), "`WorkerFunctionName`"),
    Need("`doctor --image`", ("ecr.describe_images",), "the image's repository"),
    Need(
        "`deploy`, beside what CloudFormation does with the caller's rights",
        (
            *("cloudformation.create_change_set", "cloudformation.describe_change_set"),
            *("cloudformation.execute_change_set", "cloudformation.delete_change_set"),
            *("cloudformation.describe_stack_events", "cloudformation.delete_stack"),
        ),
        "the stack, and the transform `Serverless-2016-10-31`",
    ),
    Need("the same", ("s3.create_bucket", "sts.get_caller_identity"), "the artifacts' bucket; `*`"),
)
OF_CALLERS = {call for need in NEEDS for call in need.calls}
NOT_OF_CALLERS = {  # calls of functions and jobs alone
    *(call for each in ENGINES for call in each.calls if "." in call and call not in OF_CALLERS),
    *("events.put_events", "glue.batch_create_partition", "glue.create_table", "glue.get_database"),
    *("glue.update_table", "s3.copy", "s3.copy_object"),
    *("secrets.get_secret_value", "sns.publish", "sqs.change_message_visibility", "sqs.get_queue_url"),
}
OF_ROLES = frozenset(call for uses in ROLES.values() for each in uses for call in each.calls if "." in call)


OF_THE_EMULATOR = RUNTIME / "local"  # it has an account of its own


@cache
def called() -> frozenset[str]:
    """The calls of AWS in the runtime: methods of ``AwsClients``' clients, paginators, and STS."""
    methods = {name: _methods(service) for name, service in SERVICES.items()}
    methods["s3"] |= {"copy", "upload_file"}
    found = {"sts.assume_role"}  # AwsClients.with_role
    for path in RUNTIME.rglob("*.py"):
        if OF_THE_EMULATOR not in path.parents:
            found |= set(_calls(ast.parse(path.read_text(encoding="utf-8")), methods))
    return frozenset(found)


def _calls(tree: ast.AST, methods: dict[str, set[str]]) -> Iterator[str]:
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr in methods:
            aliases |= {target.id: node.value.attr for target in node.targets if isinstance(target, ast.Name)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        owner = aliases.get(owner, owner)
        if owner in methods and node.attr in methods[owner]:
            yield f"{owner}.{node.attr}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "get_paginator":
            owner = getattr(node.func, "value", node)
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            name = aliases.get(name, name)
            if name in methods and isinstance(node.args[0], ast.Constant):
                yield f"{name}.{node.args[0].value!s}"


@cache
def _methods(service: str) -> set[str]:
    names = botocore.session.get_session().get_service_model(service).operation_names
    return {xform_name(name) for name in names}


def actions(need: Need) -> tuple[str, ...]:
    """The actions of IAM that its calls are authorized by."""
    return tuple(dict.fromkeys((*(action for call in need.calls for action in actions_of(call)), *need.further)))


def unknown() -> set[str]:
    """Calls that stand here and not in the code, or in the code and not here, or with callers and with others."""
    of_callers = {call for need in NEEDS for call in need.calls}
    of_nobody = NOT_OF_CALLERS - OF_ROLES
    return (of_callers | NOT_OF_CALLERS) ^ called() | (of_callers & NOT_OF_CALLERS) | (OF_ROLES - called()) | of_nobody


@dataclass(frozen=True)
class Right:
    """A statement of a role's policies."""

    role: str
    actions: tuple[str, ...]
    on: tuple[str, ...]
    condition: str  # under which the stack has it
    is_denied: bool = False


def rights_of(template: Mapping[str, Any]) -> Iterator[Right]:
    """The statements of a template's roles and managed policies, as they are written."""
    for name, body in template["Resources"].items():
        properties, condition = body.get("Properties", {}), body.get("Condition", "")
        if body["Type"] == "AWS::IAM::Role":
            for when, policy in _chosen(properties.get("Policies", []), condition):
                yield from _statements([name], policy["PolicyDocument"], when)
        elif body["Type"] in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
            roles = [shown(role) for role in properties.get("Roles", [{"Ref": name}])]
            yield from _statements(roles, properties["PolicyDocument"], condition)


def _statements(roles: list[str], document: Mapping[str, Any], condition: str) -> Iterator[Right]:
    for when, statement in _chosen(document["Statement"], condition):
        for role in roles:
            given = statement["Action"], statement["Resource"]
            actions, on = (each if isinstance(each, list) else [each] for each in given)
            yield Right(role, tuple(map(shown, actions)), tuple(map(shown, on)), when, statement["Effect"] == "Deny")


def _chosen(nodes: Any, condition: str) -> Iterator[tuple[str, Any]]:
    """The parts of a list, each with the conditions under which it counts."""
    for node in nodes if isinstance(nodes, list) else [nodes]:
        if isinstance(node, dict) and "Fn::If" in node:
            name, then, otherwise = node["Fn::If"]
            yield from _chosen(then, f"{condition} {name}".strip())
            yield from _chosen(otherwise, f"{condition} not {name}".strip())
        elif node != {"Ref": "AWS::NoValue"}:
            yield condition, node


def shown(node: Any) -> str:
    """A resource as people read it: names of parameters and resources, and what follows them."""
    if isinstance(node, str):
        return re.sub(r"\$\{(?:AWS::)?(\w+)(?:\.\w+)?\}", r"\1", node)
    if isinstance(node, list):
        return " ".join(filter(None, map(shown, node)))
    [(kind, body)] = node.items()
    if kind == "Fn::Sub" and isinstance(body, list):
        text, given = body
        for name, value in given.items():
            text = text.replace(f"${{{name}}}", shown(value))
        return shown(text)
    if kind == "Fn::If":
        either = [shown(each) for each in body[1:] if each != {"Ref": "AWS::NoValue"}]
        return either[0] if len(either) == 1 else f"({' or '.join(either)})"
    if kind in ("Fn::Join", "Fn::Split", "Fn::Select"):
        return shown(body[1])
    return shown(body[0]) if kind == "Fn::GetAtt" else shown(body).removesuffix(".Alias")


def row(right: Right) -> str:
    """A statement's row."""
    on = "; ".join(f"`{each}`" for each in right.on)
    never = "never, in a call of a function's own code: " if right.is_denied else ""
    return f"| {right.role} | {never}{', '.join(right.actions)} | {on} | {right.condition} |"


def page() -> str:
    """``docs/reference/rights.md``."""
    text = HEAD
    for path in sorted(SAM.glob("*.yaml")):
        rows = [row(right) for right in rights_of(parse_template(path.read_text(encoding="utf-8")))]
        text += f"\n## sam/{path.name}\n\n| role | may | on | if |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    return text


def table() -> str:
    """The table, between its marks."""
    rows = "\n".join(
        f"| {need.purpose} | {', '.join(f'`{action}`' for action in actions(need))} | {need.on} |" for need in NEEDS
    )
    return f"{BEGIN}\n\n| for | actions | on |\n|---|---|---|\n{rows}\n\n{END}"


def functions_of() -> dict[tuple[str, str], list[str]]:
    """By template and role, the functions that run with it, and the image's build."""
    found: dict[tuple[str, str], list[str]] = {BUILD: ["CodeBuild, for the image"]}
    for path in sorted(SAM.glob("*.yaml"), reverse=True):
        for name, body in parse_template(path.read_text(encoding="utf-8"))["Resources"].items():
            if body["Type"] == "AWS::Serverless::Function":
                found.setdefault((path.name, body["Properties"]["Role"]["Fn::GetAtt"][0]), []).append(name)
    return found


def endpoints(place: tuple[str, str]) -> dict[str, list[str]]:
    """The endpoints that a role's own calls need, and with which parameters; none: always.

    What AWS does with the role (reads the queue, writes the log) needs none.
    """
    found: dict[str, list[str]] = {}
    for each in ROLES[place]:
        calls = [call.replace(":", ".") for call in each.calls if "." in call or place == BUILD]
        services = dict.fromkeys(PREFIXES.get(name, name) for name in (call.partition(".")[0] for call in calls))
        for service in services:
            for name in OF_SERVICES.get(service, (service,)):
                found.setdefault(name, []).extend(_given_by(each))
    found.pop("ec2", None)  # CodeBuild's own, before there is an interface
    return {name: [] if "" in given else list(dict.fromkeys(given)) for name, given in sorted(found.items())}


def _given_by(of: Use) -> Iterator[str]:
    """The parameters without which calls are not made; empty for calls that are made anyway."""
    for pattern in of.on:
        names = [of.when.partition("=")[0]] if of.when else re.findall(r"\{(\w+)\}", pattern)
        yield next((GIVEN_BY.get(name, name) for name in names if name in GIVEN_BY or name in _optional()), "")


@cache
def _optional() -> frozenset[str]:
    """The parameters of all templates that are empty unless they are given."""
    templates = [parse_template(path.read_text(encoding="utf-8")) for path in SAM.glob("*.yaml")]
    return frozenset(name for each in templates for name, of in each["Parameters"].items() if of.get("Default") == "")


def endpoint_table() -> str:
    """The table of endpoints, between its marks."""
    rows = []
    for place, names in functions_of().items():
        found = endpoints(place)
        always = ", ".join(f"`{name}`" for name, given in found.items() if not given)
        further = "; ".join(
            f"`{name}`: {', '.join(each if ' ' in each else f'`{each}`' for each in given)}"
            for name, given in found.items()
            if given
        )
        rows.append(f"| {', '.join(names)} ({place[0]}) | {always} | {further} |")
    head = "| function | endpoints | with these parameters |\n|---|---|---|\n"
    return f"{ENDPOINTS}\n\n{head}" + "\n".join(rows) + f"\n\n{ENDPOINTS_END}"


def engine_list() -> str:
    """The list of engines, between its marks."""
    items = (f"`{name}` is {kind.about}." for name, kind in KINDS.items())
    lines = "\n".join(
        fill(item, 118, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for item in items
    )
    return f"{LIST}\n\n{lines}\n\n{LIST_END}"


def main(path: Path) -> None:
    """Write the tables into the page, the list of engines into its own, and the reference."""
    PAGE.write_text(page(), encoding="utf-8")
    _write(path, (BEGIN, table(), END), (ENDPOINTS, endpoint_table(), ENDPOINTS_END))
    _write(ELSEWHERE, (LIST, engine_list(), LIST_END))


def _write(path: Path, *parts: tuple[str, str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for begin, made, end in parts:
        before, _, rest = text.partition(begin)
        text = before + made + rest.partition(end)[2]
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
