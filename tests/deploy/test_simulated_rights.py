"""In each setting of the parameters, every role's policies allow each call that is made, and grant nothing else.

These tests need no server and no JVM, so they are a part of ``make test``. ``test_least_privilege`` records the calls
that the functions really make, and compares them with ``docs.calls``.
"""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from docs.calls import ROLES, actions_of
from tests.deploy import simulation
from tests.deploy.policies import Call
from tests.deploy.settings import SETTINGS
from tests.deploy.simulation import MAIN, World, allowed, refusals, transformed, unused
from tests.stand_ins.engines import OF_REGION
from tests.unit.template.reading import TEMPLATES, as_list, every_statement, resolved

# Grants that no call needs in some setting: the role, a pattern of the grant, and the reason.
SPARED = (
    (
        "WorkerRole",
        r"UseTheKey: kms:GenerateDataKey on .*/stack",
        "with another key in WriteEncryption nothing is written with the stack's key; all roles share one statement",
    ),
)
WORLDS: dict[str, World] = {}
OF_OWN_CODE = {"lambda:sourcefunctionarn": f"arn:aws:lambda:{OF_REGION}:function:WorkerFunction"}
# Calls that must be refused to a script, which has its worker's role: setting, action, resource, condition keys.
NEVER: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("Kafka by IAM", "ec2:DeleteNetworkInterface", "*", OF_OWN_CODE),
    (
        "the defaults",
        "dynamodb:UpdateItem",
        f"arn:aws:dynamodb:{OF_REGION}:table/Ledger",
        {"dynamodb:leadingkeys": "r#meta"},
    ),
    ("the defaults", "s3:PutObject", "arn:aws:s3:::Bucket/scripts/job.py", {}),
    ("the defaults", "s3:PutObject", "arn:aws:s3:::Bucket/runs/r/manifest.json", {}),
    ("tables of Glue", "glue:UpdateTable", f"arn:aws:glue:{OF_REGION}:table/sales/visits", {}),
)


def world_of(setting: str) -> World:
    return WORLDS[setting] if setting in WORLDS else WORLDS.setdefault(setting, World(SETTINGS[setting]))


def is_spared(role: str, grant: str) -> bool:
    return any(role == spared and re.match(pattern, grant) for spared, pattern, _ in SPARED)


def idle_grants(world: World) -> set[tuple[str, str]]:
    """The grants that no call needs, each with its role; without those in SPARED."""
    every = {(role, grant) for name, role in world.statements for grant in unused(world, (name, role))}
    return {(role, grant) for role, grant in every if not is_spared(role, grant)}


def refused_calls(world: World) -> set[tuple[str, str]]:
    """The calls that policies do not allow, each with its role."""
    return {(role, call) for name, role in world.statements for call in refusals(world, (name, role))}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_allows_each_call(setting: str) -> None:
    assert refused_calls(world_of(setting)) == set()


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_grants_nothing_that_is_not_called(setting: str) -> None:
    assert idle_grants(world_of(setting)) == set()


@pytest.mark.parametrize(("setting", "action", "resource", "keys"), NEVER)
def test_a_script_is_refused_dangerous_calls(setting: str, action: str, resource: str, keys: dict[str, str]) -> None:
    assert not allowed(Call("WorkerRole", action, resource, keys), world_of(setting).statements[MAIN, "WorkerRole"])


IN_NETWORKS = {"a network": MAIN, "functions in a network": "functions.yaml"}


@pytest.mark.parametrize(("setting", "template"), IN_NETWORKS.items())
def test_functions_but_not_their_code_manage_interfaces(setting: str, template: str) -> None:
    world = world_of(setting)
    of_functions = {
        each["Role"].rpartition("/")[2]: each.get("VpcConfig")
        for each in world.stacks[template].resources.values()
        if each["Type"] == "AWS::Lambda::Function"
    }

    assert len(of_functions) == (5 if template == MAIN else 2)
    for role, network in of_functions.items():
        assert network == {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}, role
        statements = world.statements[template, role]
        assert allowed(Call(role, "ec2:DeleteNetworkInterface", "*"), statements)
        assert not allowed(Call(role, "ec2:DeleteNetworkInterface", "*", OF_OWN_CODE), statements)


def test_builds_are_in_their_network() -> None:
    project = world_of("an image built in a network").stacks["image-builder.yaml"].resources["Build"]

    assert project["VpcConfig"] == {"VpcId": "vpc-1", "Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}


def test_every_role_has_calls_and_every_call_is_made() -> None:
    places = {place for setting in SETTINGS for place in world_of(setting).statements}
    beside = {place for place in ROLES if (MAIN, place[1]) in places and place not in places}
    calls = {
        (each.action, place)
        for setting in SETTINGS
        for place in world_of(setting).statements
        for each in world_of(setting).calls(place)
    }

    assert {place for place in ROLES if place not in beside} == places
    assert beside == {("api.yaml", "WorkerRole"), ("api.yaml", "DlqConsumerRole"), ("streams.yaml", "WorkerRole")}
    for place, uses in ROLES.items():
        for call in (call for each in uses for call in each.calls):
            where = (MAIN, place[1]) if place in beside else place
            assert all((action, where) in calls for action in actions_of(call)), (place, call)


@pytest.mark.parametrize("name", TEMPLATES)
def test_each_condition_of_a_right_holds_in_some_setting(name: str) -> None:
    """And it does not hold in another: so no parameter that changes rights is missing in SETTINGS."""
    policies = [body for body in TEMPLATES[name]["Resources"].values() if body["Type"].startswith("AWS::IAM::")]
    conditions = {body["Condition"] for body in policies if "Condition" in body}
    conditions |= set(re.findall(r"'Fn::If': \['(\w+)'", str(policies))) - {
        "HasBoundary",
        "HasRoleNamePrefix",
        "HasWorkerPolicies",
    }
    stacks = [world.stacks[name] for world in map(world_of, SETTINGS) if name in world.stacks]
    for condition in conditions:
        held = {bool(resolved({"Condition": condition}, TEMPLATES[name], stack.names)) for stack in stacks}
        assert held == {True, False}, condition


def with_action(sid: str, action: str) -> Callable[[Any], None]:
    """A fault that adds an action to a statement."""

    def put(template: Any) -> None:
        for each in every_statement(template["Resources"]):
            if each.get("Sid") == sid:
                each["Action"] = [*as_list(each["Action"]), action]

    return put


def without(sid: str, *texts: str) -> Callable[[Any], None]:
    """A fault that takes resources or prefixes out of a statement."""

    def take(template: Any) -> None:
        for each in every_statement(template["Resources"]):
            if each.get("Sid") == sid and isinstance(each["Resource"], list):
                each["Resource"] = [one for one in each["Resource"] if not any(text in str(one) for text in texts)]
            for prefixes in each.get("Condition", {}).get("StringLike", {}).values() if each.get("Sid") == sid else ():
                prefixes[:] = [one for one in prefixes if one not in texts] if isinstance(prefixes, list) else prefixes

    return take


def planner_without_the_key(template: Any) -> None:
    for name in ("WriteKeyPolicy", "WrittenKeyPolicy"):
        roles = template["Resources"][name]["Properties"]["Roles"]
        roles[:] = [role for role in roles if role["Ref"] != "PlannerRole"]


def outputs_are_not_read(template: Any) -> None:
    [statement] = template["Resources"]["ReplacePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    statement["Action"] = "s3:DeleteObject"


def logs_of_one_group(template: Any) -> None:
    for each in every_statement(template["Resources"]):
        if each.get("Sid") == "ReadGluesLogs":
            each["Resource"] = [{"Fn::Sub": each["Resource"][0]["Fn::Sub"].replace("jobs*", "jobs/*")}]


@pytest.mark.parametrize(
    ("setting", "name", "fault", "role", "named"),
    [
        ("writes by a data key", MAIN, planner_without_the_key, "PlannerRole", "kms:GenerateDataKey"),
        ("the defaults", MAIN, without("ReadScriptsAndInputs", "}/input'"), "PlannerRole", "Bucket/input"),
        ("data elsewhere", MAIN, outputs_are_not_read, "PlannerRole", "clean/out"),
        ("data elsewhere", MAIN, outputs_are_not_read, "CheckerRole", "clean/out"),
        ("glue", MAIN, logs_of_one_group, "CheckerRole", "jobs-role-conf"),
        (
            "the defaults",
            MAIN,
            with_action("TakeDeadLetters", "sqs:ChangeMessageVisibility"),
            "DlqConsumerRole",
            "sqs:",
        ),
        ("a network", MAIN, with_action("JoinTheNetwork", "ec2:DescribeVpcs"), "WorkerRole", "ec2:DescribeVpcs"),
        ("emr", MAIN, with_action("StartWatchAndStopSteps", "glue:GetJobRun"), "CheckerRole", "glue:GetJobRun"),
        (
            "Kafka by IAM",
            "streams.yaml",
            with_action("FindTheCluster", "kafka:DescribeCluster"),
            "WorkerRole",
            "kafka:",
        ),
        (
            "functions with a key",
            "functions.yaml",
            with_action("UseTheKey", "kms:GenerateDataKey"),
            "FailuresRole",
            "kms:",
        ),
        ("the API, sqs and events", "api.yaml", with_action("TellOnSuccess", "sns:Publish"), "WorkerRole", "sns:"),
        (
            "an image from a bucket",
            "image-builder.yaml",
            with_action("FindTheirBucket", "s3:ListBucket"),
            "BuildRole",
            "s3:",
        ),
        (
            *("an image from a bucket", "image-builder.yaml"),
            *(with_action("PullTheBase", "ecr:BatchCheckLayerAvailability"), "BuildRole", "ecr:"),
        ),
    ],
)
def test_a_fault_in_a_template_is_found(
    setting: str, name: str, fault: Callable[[Any], None], role: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = copy.deepcopy(transformed(name))
    fault(changed)
    assert changed != transformed(name)
    monkeypatch.setattr(simulation, "transformed", lambda each: changed if each == name else transformed(each))

    world = World(SETTINGS[setting])

    faults = refused_calls(world) | idle_grants(world)
    assert any(of_role == role and named in text for of_role, text in faults)
