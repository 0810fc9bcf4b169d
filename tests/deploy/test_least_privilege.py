"""Each function's role allows every call that the function makes, and no call that it never makes.

The functions run as deployed, with their own roles' credentials, through all scenarios that make a difference in their
calls. The stand-in enforces the policies and records every decision; the tests compare both. A new function without a
scenario fails: no grant of its role was used.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from sparklet.local.environment import REGION
from sparklet.local.state import ACCOUNT
from tests.deploy.policies import Call, Grant, grants
from tests.deploy.recorded_stack import PARAMETERS, RecordedStack, recorded_stack
from tests.deploy.scenarios import lead_through
from tests.deploy.simulation import MAIN as MAIN_STACK
from tests.deploy.simulation import named_calls
from tests.unit.template.reading import MAIN, functions

pytestmark = pytest.mark.stack

ROLES = {name: function["Role"]["Fn::GetAtt"][0] for name, function in functions(MAIN).items()}

# Grants that a role needs although no call with them is recorded: no function's code makes the call, or the stand-in
# does not show it. Patterns of the action and of the statement or resource, and the reason. Each must still be granted,
# and still have no recorded call.
UNSEEN = (
    (r"logs:.*", r"Log", "Lambda writes a function's log with the function's role"),
    (
        r"sqs:(ReceiveMessage|DeleteMessage|GetQueueAttributes)",
        r"Take(Shards|DeadLetters)",
        "Lambda polls for the mapping, with the function's role; the stand-in polls without a role",
    ),
    (r"ec2:.*", r"JoinTheNetwork", "Lambda makes a function's network interfaces with the function's role"),
    (r"kms:.*", r"UseTheKey", "S3, SQS and DynamoDB use a key in the caller's name; the stand-in's do not"),
    (
        r"lambda:.*",
        r"ReadTheWorkersSettings",
        "the planner needs it for a run that names an Iceberg table, or an engine",
    ),
    (r"s3:(Get|Put)ObjectTagging", r"WriteOutputs", "S3 needs these if a copied object has tags"),
    (r"s3:PutObjectAcl", r"GiveToTheirOwner", "needed if SparkConf names an ACL for another account's bucket"),
    (r"glue:.*", r"(Use|Read)Tables", "Glue authorizes on the table, too; the stand-in does not see which"),
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecordedStack]:
    """The stack after all scenarios."""
    with recorded_stack(tmp_path_factory.mktemp("policies")) as stack:
        lead_through(stack)
        yield stack


def role_of(stack: RecordedStack, function: str) -> str:
    return stack.names[ROLES[function]]


def granted(stack: RecordedStack, function: str) -> list[Grant]:
    role = role_of(stack, function)
    return [grant for statement in stack.statements(role) for grant in grants(role, statement)]


def calls_of(stack: RecordedStack, function: str) -> list[Call]:
    return [call for call in stack.calls() if call.role == role_of(stack, function)]


def reads_a_region(call: Call) -> bool:
    """Whether a call is a refused HeadBucket, of which ``foreign_region`` reads the region: a refusal has it, too."""
    return not call.allowed and call.action == "s3:ListBucket" and "s3:prefix" not in call.keys


def meets(grant: Grant, action: str, where: str) -> bool:
    """Whether a grant is one of an exception in UNSEEN: ``where`` matches its statement or its resource."""
    is_there = re.fullmatch(where, grant.sid) or re.fullmatch(where, grant.resource)
    return bool(is_there and re.fullmatch(action, grant.action))


@pytest.mark.parametrize("function", ROLES)
def test_each_function_is_allowed_every_call_it_makes(stack: RecordedStack, function: str) -> None:
    calls, allows = calls_of(stack, function), granted(stack, function)

    assert calls, f"no scenario leads through {function}: lead_through must"
    calls = [call for call in calls if not reads_a_region(call)]
    refused = {(c.action, c.resource, c.keys.get("s3:prefix")) for c in calls if not c.allowed}
    assert not refused, f"the stand-in refused {function}: {refused}"
    missing = {(c.action, c.resource) for c in calls if not any(grant.covers(c) for grant in allows)}
    assert not missing, f"no statement of {ROLES[function]} allows {missing}"


@pytest.mark.parametrize("role", sorted(set(ROLES.values())))
def test_the_simulation_has_each_recorded_call(stack: RecordedStack, role: str) -> None:
    """``docs.calls`` has every recorded call: its action, its resource, and the prefix of a listing."""
    named = list(named_calls((MAIN_STACK, role), names_of(stack)))
    calls = [replace(call, role=role) for call in stack.calls() if call.role == stack.names[role]]

    calls = [call for call in calls if not reads_a_region(call)]
    missing = {(c.action, c.resource, c.keys.get("s3:prefix")) for c in calls if not any(g.covers(c) for g in named)}
    assert not missing, f"docs.calls has no such call of {role}: {missing}"


def names_of(stack: RecordedStack) -> dict[str, str]:
    """The values of names in braces in the recorded stack."""
    arn = f"arn:aws:{{}}:{REGION}:{ACCOUNT}:{{}}{{}}"
    return {
        **PARAMETERS,
        "Ledger": arn.format("dynamodb", "table/", stack.outputs["LedgerTable"]),
        "Queue": stack.outputs["QueueArn"],
        "LargeWorkerFunctionAliaslive": arn.format("lambda", "function:", stack.names["LargeWorkerFunction"]),
        "bucket": f"arn:aws:s3:::{stack.bucket}",
        "catalog": arn.format("glue", "", "catalog"),
        "executions": stack.outputs["RunMachineArn"].replace(":stateMachine:", ":execution:"),
    }


@pytest.mark.parametrize("function", ROLES)
def test_no_function_is_granted_what_it_never_calls(stack: RecordedStack, function: str) -> None:
    calls = calls_of(stack, function)
    seen = [g for g in granted(stack, function) if not any(meets(g, action, where) for action, where, _ in UNSEEN)]

    idle = [str(grant) for grant in seen if not any(grant.covers(call) for call in calls)]

    assert not idle, f"{ROLES[function]} grants what no call uses:\n" + "\n".join(idle)


def test_every_excepted_grant_exists_and_is_never_used(stack: RecordedStack) -> None:
    every = [grant for function in ROLES for grant in granted(stack, function)]
    calls = [call for function in ROLES for call in calls_of(stack, function)]
    for action, where, why in UNSEEN:
        excepted = [grant for grant in every if meets(grant, action, where)]
        assert excepted, f"nothing is granted that would need the exception {action} of {where}"
        assert not [g for g in excepted if any(g.covers(call) for call in calls)], f"seen after all: {action} ({why})"
