"""Rules that all templates in sam/ must follow."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.template.reading import ROOT, TEMPLATES, as_list, every_statement, of_type, refused

MAIN = TEMPLATES["template.yaml"]
CLUSTER = {"KafkaClusterArn": "arn:aws:kafka:eu-west-1:1:cluster/a/b"}
STREAM = {"StreamArn": "arn:aws:kinesis:eu-west-1:1:stream/events"}
SECRET = {"KafkaSecretArn": "arn:aws:secretsmanager:eu-west-1:1:secret:AmazonMSK_a"}
TASKS = {"FargateTaskDefinition": "arn:aws:ecs:eu-west-1:1:task-definition/sparklet-shard:1"}


@pytest.mark.parametrize(
    ("name", "chosen", "why"),
    [
        ("template.yaml", {}, ""),
        ("template.yaml", {"ColdStart": "snapstart"}, "EphemeralStorageMB to 512"),
        ("template.yaml", {"ColdStart": "snapstart", "EphemeralStorageMB": "512"}, ""),
        ("template.yaml", {"ColdStart": "provisioned"}, ""),
        ("template.yaml", TASKS, "as FargateCluster"),
        ("template.yaml", {"EmrServerlessApplicationId": "00f1abc"}, "as EmrServerlessRoleArn"),
        ("streams.yaml", STREAM, ""),
        ("streams.yaml", {**CLUSTER, "FunctionTimeoutS": "840"}, ""),
        ("streams.yaml", CLUSTER, "at most 14 minutes"),
        ("streams.yaml", {}, "StreamArn or as KafkaClusterArn"),
        ("streams.yaml", {**STREAM, **SECRET}, "as KafkaSecretKeyArn"),
        (
            *("streams.yaml", {**STREAM, "KafkaPollers": "1", "StreamMaximumAgeS": "60", "StreamRetryAttempts": "-1"}),
            "dropped unseen",
        ),
    ],
)
def test_contradictory_parameters_stop_a_deployment(name: str, chosen: dict[str, str], why: str) -> None:
    found = refused(TEMPLATES[name], chosen)

    assert any(why in each for each in found) if why else not found, found


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_imported_value_is_exported_by_the_main_stack(name: str) -> None:
    imported = re.findall(r'{"Fn::ImportValue": {"Fn::Sub": "([^"]+)"}}', json.dumps(TEMPLATES[name]))
    exported = {each["Export"]["Name"]["Fn::Sub"] for each in MAIN["Outputs"].values() if "Export" in each}

    assert bool(imported) == ("MainStack" in TEMPLATES[name]["Parameters"])
    assert {each.replace("MainStack", "AWS::StackName") for each in imported} <= exported


@pytest.mark.parametrize("name", TEMPLATES)
def test_permission_to_describe_a_stack_names_it_by_its_name(name: str) -> None:
    """A caller knows only the stack's name; IAM authorizes that as NAME/*."""
    of_stacks = [
        resource
        for statement in every_statement(TEMPLATES[name]["Resources"])
        if "cloudformation:DescribeStacks" in as_list(statement["Action"])
        for resource in as_list(statement["Resource"])
    ]

    assert all(":stack/${AWS::StackName}/*" in json.dumps(resource) for resource in of_stacks)
    assert bool(of_stacks) == (name == "functions.yaml")


LONGEST = "n" * 128  # the longest name of a stack
LIMITS = {  # the services' limits by property, for texts that have a stack's name; cfn-lint knows few of them
    "AlarmDescription": 1024,
    "ConsumerGroupId": 200,
    "Description": 256,  # of a function; schedules, rules and policies have larger limits
    "Family": 255,
    "Input": 262_144,
    "InputTemplate": 8192,
    "LogGroupName": 512,
    "MetricNamespace": 255,
    "Name": 255,
    "Namespace": 255,
    "PolicyName": 128,
    "SPARKLET_METRICS_NAMESPACE": 255,
    "UsagePlanName": 255,
}
MORE = {"AWS::Scheduler::Schedule": 512, "AWS::Events::Rule": 512, "AWS::IAM::ManagedPolicy": 1000}
MORE["AWS::SecretsManager::Secret"] = 2048


def named_after_stacks(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The properties (name and text) whose text has a stack's name in it."""
    text = ""
    if isinstance(node, list):
        for each in node:
            yield from named_after_stacks(each, key)
    elif isinstance(node, dict):
        if node == {"Ref": "AWS::StackName"}:
            text = "${AWS::StackName}"
        elif "Fn::Sub" in node:
            text = node["Fn::Sub"] if isinstance(node["Fn::Sub"], str) else node["Fn::Sub"][0]
        for name, each in node.items():
            if name not in ("Fn::ImportValue", "DashboardBody"):
                yield from named_after_stacks(each, key if name.startswith("Fn::") else name)
    if "StackName}" in text or "MainStack}" in text:
        yield key, text


@pytest.mark.parametrize("name", TEMPLATES)
def test_stacks_may_have_the_longest_names(name: str) -> None:
    """CloudFormation accepts stack names of 128 characters."""
    template = TEMPLATES[name]
    sections = {**template["Resources"], "Globals": template.get("Globals", {})}

    for resource, body in sections.items():
        for key, text in named_after_stacks(body.get("Properties", body)):
            if key in ("Resource", "Value"):
                continue  # ARNs, see below
            lengths = {each: body.get("MaxLength", 0) for each, body in template["Parameters"].items()}
            whole = re.sub(r"\$\{(AWS::StackName|MainStack)\}", LONGEST, text)
            whole = re.sub(r"\$\{(\w+)\}", lambda match: "x" * (lengths.get(match[1]) or 36), whole)  # noqa: B023
            limit = MORE.get(body.get("Type", ""), LIMITS[key]) if key == "Description" else LIMITS[key]
            assert len(whole) <= limit, f"{resource}: {text}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_arn_is_composed_of_the_stacks_name(name: str) -> None:
    """CloudFormation shortens a long stack name in generated names, so ARNs must come from GetAtt or Ref."""
    of_names = [text for _, text in named_after_stacks(TEMPLATES[name]["Resources"]) if "arn:" in text]

    assert all(text.endswith(":stack/${AWS::StackName}/*") for text in of_names), of_names


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_role_takes_the_organizations_boundary_and_name(name: str) -> None:
    template = TEMPLATES[name]
    roles = of_type(template, "AWS::IAM::Role")
    kinds = ("AWS::Serverless::Function", "AWS::Serverless::StateMachine")
    made_by_sam = [key for kind in kinds for key, body in of_type(template, kind).items() if "Role" not in body]

    assert not made_by_sam
    for key, role in roles.items():
        boundary = ["HasBoundary", {"Ref": "PermissionsBoundaryArn"}, {"Ref": "AWS::NoValue"}]
        assert role["PermissionsBoundary"] == {"Fn::If": boundary}, key
        own = {"Fn::Sub": f"${{RoleNamePrefix}}{key.removesuffix('Role')}"}
        assert role["RoleName"] == {"Fn::If": ["HasRoleNamePrefix", own, {"Ref": "AWS::NoValue"}]}, key
        assert len(key) <= 24, key  # IAM takes 64 characters, a prefix has up to 40
    for key, body in (roles | of_type(template, "AWS::IAM::ManagedPolicy")).items():
        assert body["Path"] == {"Ref": "RolePath"}, key
    assert bool(roles) == ("PermissionsBoundaryArn" in template["Parameters"]) == (name != "streams.yaml")


@pytest.mark.parametrize("name", TEMPLATES)
def test_buckets_and_queues_refuse_requests_without_tls(name: str) -> None:
    denied = {"Effect": "Deny", "Principal": "*", "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    places, closed = set[str](), set[str]()
    for key, body in TEMPLATES[name]["Resources"].items():
        if body["Type"] in ("AWS::S3::Bucket", "AWS::SQS::Queue"):
            places.add(key)
        elif body["Type"] in ("AWS::S3::BucketPolicy", "AWS::SQS::QueuePolicy"):
            policy = body["Properties"]
            assert any(denied.items() <= each.items() for each in policy["PolicyDocument"]["Statement"]), key
            closed |= {place["Ref"] for place in policy.get("Queues", [policy.get("Bucket")])}

    assert places == closed


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_queue_has_a_dead_letter_queue_or_is_one(name: str) -> None:
    """Control Tower's control CT.SQS.PR.1 requires this."""
    for key, queue in of_type(TEMPLATES[name], "AWS::SQS::Queue").items():
        allows = queue.get("RedriveAllowPolicy", {}).get("redrivePermission")
        assert (allows == "allowAll") == ("DeadLetter" in key) == ("RedrivePolicy" not in queue), key


@pytest.mark.parametrize("name", TEMPLATES)
def test_logs_take_the_stacks_key(name: str) -> None:
    for key, group in of_type(TEMPLATES[name], "AWS::Logs::LogGroup").items():
        assert group["KmsKeyId"] == {"Fn::If": ["HasKey", {"Ref": "KmsKeyArn"}, {"Ref": "AWS::NoValue"}]}, key


@pytest.mark.parametrize("name", TEMPLATES)
def test_tables_can_be_restored_and_uploads_end(name: str) -> None:
    for key, table in of_type(TEMPLATES[name], "AWS::DynamoDB::Table").items():
        assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}, key
    for key, bucket in of_type(TEMPLATES[name], "AWS::S3::Bucket").items():
        rules = bucket["LifecycleConfiguration"]["Rules"]
        assert any("AbortIncompleteMultipartUpload" in rule and "Prefix" not in rule for rule in rules), key


def test_documented_commands_pass_capability_named_iam() -> None:
    """CloudFormation requires the capability for templates that can name roles (``RoleNamePrefix``)."""
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("sam/*.toml"), *ROOT.glob("runtime/**/*.py")]
    found = [line for page in pages for line in page.read_text().splitlines() if "CAPABILITY_" in line]

    roles = [line for line in found if "streams.yaml" not in line]
    assert len(roles) > 5 and all("CAPABILITY_NAMED_IAM" in line for line in roles)
