"""What a deployment leaves behind, asked of the services themselves: the template in the local stand-in.

Deployed twice: with nothing chosen, and with everything. Functions are small shims there and not published (see
``local_template``; that nothing names an unpublished one is asserted in ``test_templates``); all else is deployed as it
is written. The stand-in's CloudFormation sets up neither a bucket's
life cycle nor point-in-time recovery: these are asserted of the template alone (``tests/unit/template``).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest

from sparklet.aws.clients import AwsClients
from sparklet.aws.stacks import OUTPUTS, stack_outputs, stack_settings
from sparklet.cli.doctor import examine_stack
from sparklet.fanout.choosing.contradictions import contradictions
from sparklet.local.control import ACCOUNT, REGION
from sparklet.local.environment import adopted, of_client
from sparklet.local.local_template import load_template, localise, to_json
from tests.deploy.recorded_stack import PARAMETERS as EVERYTHING
from tests.functional.local.conftest import eventually
from tests.stand_ins.ministack import ministack
from tests.stand_ins.template_in_s3 import template_url

pytestmark = pytest.mark.stack

TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:alarms"
CHOSEN = {
    **EVERYTHING,
    "MaximumConcurrency": "7",
    "MaxReceiveCount": "9",
    "LogRetentionDays": "5",
    "AlarmTopicArn": TOPIC,
}
DEFAULTS = {"ImageUri": "local", "FunctionTimeoutS": "900", "MaximumConcurrency": "50"}


@dataclass(frozen=True)
class Deployed:
    """A stack as the services show it."""

    name: str
    ids: dict[str, str]  # logical id → physical id
    outputs: dict[str, str]

    def queue(self, logical_id: str) -> dict[str, str]:
        client: Any = boto3.Session().client("sqs")
        return dict(client.get_queue_attributes(QueueUrl=self.ids[logical_id], AttributeNames=["All"])["Attributes"])

    def mappings(self) -> list[dict[str, Any]]:
        found: Any = boto3.Session().client("lambda").list_event_source_mappings()["EventSourceMappings"]
        return [mapping for mapping in found if mapping["UUID"] in self.ids.values()]

    def mapping(self, source_arn: str) -> dict[str, Any]:
        (found,) = [mapping for mapping in self.mappings() if mapping["EventSourceArn"] == source_arn]
        return found

    def of_type(self, kind: str) -> list[str]:
        template = load_template()
        return [name for name in self.ids if template["Resources"].get(name, {}).get("Type") == kind]


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An account with a stream and nothing else."""
    with ministack(tmp_path_factory.mktemp("deployed")) as endpoint_url, adopted(of_client(endpoint_url, "")):
        boto3.Session().client("kinesis").create_stream(StreamName="events", ShardCount=1)
        yield


def deploy(name: str, parameters: dict[str, str]) -> Deployed:
    formation: Any = boto3.Session().client("cloudformation")
    formation.create_stack(
        StackName=name,
        TemplateURL=template_url(to_json(localise(load_template(), parameters, {}, {}))),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        Tags=[{"Key": "application", "Value": "sparklet"}],
    )

    def stack() -> Any:
        return formation.describe_stacks(StackName=name)["Stacks"][0]

    eventually(lambda: not stack()["StackStatus"].endswith("_IN_PROGRESS"))
    assert stack()["StackStatus"] == "CREATE_COMPLETE", formation.describe_stack_events(StackName=name)
    resources = formation.describe_stack_resources(StackName=name)["StackResources"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack()["Outputs"]}
    return Deployed(name, {r["LogicalResourceId"]: r["PhysicalResourceId"] for r in resources}, outputs)


@pytest.fixture(scope="module")
def chosen(account: None) -> Deployed:
    return deploy("chosen", CHOSEN)


@pytest.fixture(scope="module")
def plain(account: None) -> Deployed:
    return deploy("plain", DEFAULTS)


# --- queues and mappings ---


def test_a_message_that_nobody_can_claim_becomes_a_dead_letter(chosen: Deployed) -> None:
    queue, dead_letters = chosen.queue("Queue"), chosen.queue("DeadLetterQueue")

    redrive = json.loads(queue["RedrivePolicy"])
    assert (redrive["deadLetterTargetArn"], int(redrive["maxReceiveCount"])) == (dead_letters["QueueArn"], 9)
    assert int(queue["VisibilityTimeout"]) == 6 * int(CHOSEN["FunctionTimeoutS"])
    assert int(dead_letters["MessageRetentionPeriod"]) > int(queue["MessageRetentionPeriod"]) == 4 * 86_400


def test_queues_refuse_requests_without_tls(chosen: Deployed) -> None:
    for name in ("Queue", "DeadLetterQueue"):
        (statement,) = json.loads(chosen.queue(name)["Policy"])["Statement"]
        assert (statement["Effect"], statement["Resource"]) == ("Deny", chosen.queue(name)["QueueArn"])


def test_shards_come_one_by_one_and_bounded_to_the_worker(chosen: Deployed) -> None:
    mapping = chosen.mapping(chosen.queue("Queue")["QueueArn"])

    assert mapping["BatchSize"] == 1
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert int(mapping["ScalingConfig"]["MaximumConcurrency"]) == 7
    assert mapping["FunctionArn"].split(":")[6] == chosen.ids["WorkerFunction"]


def test_letters_and_batches_of_the_stream_are_reported_one_by_one(chosen: Deployed) -> None:
    letters = chosen.mapping(chosen.queue("DeadLetterQueue")["QueueArn"])
    stream = chosen.mapping(CHOSEN["StreamArn"])

    assert letters["FunctionResponseTypes"] == stream["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert stream["BisectBatchOnFunctionError"] is True
    assert stream["DestinationConfig"]["OnFailure"]["Destination"] == chosen.queue("DeadLetterQueue")["QueueArn"]


def test_without_a_stream_nothing_reads_one_and_nothing_outside_is_allowed(plain: Deployed) -> None:
    assert {m["EventSourceArn"] for m in plain.mappings()} == {
        plain.queue(name)["QueueArn"] for name in ("Queue", "DeadLetterQueue")
    }
    # What machines may do to themselves stands apart from their roles; all else would be about what lies outside.
    assert set(plain.of_type("AWS::IAM::Policy")) == {f"{name}MachinePolicy" for name in ("Loop", "Map", "Objects")}
    assert int(plain.queue("Queue")["VisibilityTimeout"]) == 5400


def test_doctor_finds_nothing_in_a_stack_as_it_was_deployed_and_what_a_hand_changed_by_asking_the_services(
    plain: Deployed,
) -> None:
    def found() -> list[str]:
        return [each.between for each in contradictions(stack_settings(AwsClients(), plain.outputs))]

    assert found() == []
    assert [finding.good for finding in examine_stack("plain")] == [True]

    functions: Any = boto3.Session().client("lambda")
    queues: Any = boto3.Session().client("sqs")
    mapping = plain.mapping(plain.queue("Queue")["QueueArn"])["UUID"]
    (rule,) = [r for r in boto3.Session().client("events").list_rules()["Rules"] if r["Name"] in plain.ids.values()]
    receives = json.dumps({"deadLetterTargetArn": plain.queue("DeadLetterQueue")["QueueArn"], "maxReceiveCount": 1})
    changed = {"VisibilityTimeout": "600", "RedrivePolicy": receives, "MessageRetentionPeriod": "86400"}
    queues.set_queue_attributes(QueueUrl=plain.ids["Queue"], Attributes=changed)
    functions.update_event_source_mapping(UUID=mapping, Enabled=False)
    functions.put_function_concurrency(FunctionName=plain.ids["WorkerFunction"], ReservedConcurrentExecutions=5)
    boto3.Session().client("events").disable_rule(Name=rule["Name"])

    try:
        assert set(found()) == {
            "visibility of Queue, timeout of the worker",
            "maxReceiveCount of Queue, throttling",
            "retention of Queue, time limit of a run",
            "reserved concurrency of the worker, MaximumConcurrency of its mapping",
            "mapping of the worker",
            "schedule of the checker",
        }
        assert not any(finding.good for finding in examine_stack("plain"))
    finally:
        queue = {"VisibilityTimeout": "5400", "RedrivePolicy": receives.replace(": 1}", ": 20}")}
        queue["MessageRetentionPeriod"] = "345600"
        queues.set_queue_attributes(QueueUrl=plain.ids["Queue"], Attributes=queue)
        functions.update_event_source_mapping(UUID=mapping, Enabled=True)
        functions.delete_function_concurrency(FunctionName=plain.ids["WorkerFunction"])
        boto3.Session().client("events").enable_rule(Name=rule["Name"])
    assert found() == []


# --- functions ---


def test_functions_have_roles_of_their_own_that_only_lambda_may_take(chosen: Deployed) -> None:
    functions: Any = boto3.Session().client("lambda")
    names = chosen.of_type("AWS::Serverless::Function")
    arns = [functions.get_function_configuration(FunctionName=chosen.ids[name])["Role"] for name in names]

    assert len(names) >= 3 and len(set(arns)) == len(arns)
    for arn in arns:
        role: Any = boto3.Session().client("iam").get_role(RoleName=arn.rpartition("/")[2])["Role"]
        (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
        assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}


def test_the_schedule_calls_the_checker_every_minute(chosen: Deployed) -> None:
    events: Any = boto3.Session().client("events")
    (rule,) = [rule for rule in events.list_rules()["Rules"] if rule["Name"] in chosen.ids.values()]
    (target,) = events.list_targets_by_rule(Rule=rule["Name"])["Targets"]

    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(1 minute)", "ENABLED")
    assert target["Arn"].split(":")[6] == chosen.ids["CheckerFunction"]


def test_logs_are_kept_as_long_as_was_asked_for(chosen: Deployed) -> None:
    groups: Any = boto3.Session().client("logs").describe_log_groups()["logGroups"]
    kept = {group["logGroupName"]: group.get("retentionInDays") for group in groups}

    own = [chosen.ids[name] for name in chosen.of_type("AWS::Logs::LogGroup")]
    assert own and {kept[name] for name in own} == {5}


# --- what lasts ---


def test_the_bucket_is_closed_and_encrypted(chosen: Deployed) -> None:
    s3: Any = boto3.Session().client("s3")
    bucket = {"Bucket": chosen.outputs["BucketName"]}

    block = s3.get_public_access_block(**bucket)["PublicAccessBlockConfiguration"]
    assert len(block) == 4 and set(block.values()) == {True}
    assert s3.get_bucket_encryption(**bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    (statement,) = json.loads(s3.get_bucket_policy(**bucket)["Policy"])["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def test_the_ledger_has_its_keys_and_its_index(chosen: Deployed) -> None:
    dynamodb: Any = boto3.Session().client("dynamodb")
    name = {"TableName": chosen.outputs["LedgerTable"]}
    table = dynamodb.describe_table(**name)["Table"]

    assert keys(table) == {"pk": "HASH", "sk": "RANGE"}
    (index,) = table["GlobalSecondaryIndexes"]
    assert (index["IndexName"], keys(index)) == ("open-index", {"pk": "HASH", "open": "RANGE"})
    assert index["Projection"]["ProjectionType"] == "KEYS_ONLY"


def keys(table: dict[str, Any]) -> dict[str, str]:
    return {key["AttributeName"]: key["KeyType"] for key in table["KeySchema"]}


# --- who is told, and what the command line reads ---


def test_every_alarm_notifies_the_topic_and_none_does_without_one(chosen: Deployed, plain: Deployed) -> None:
    for stack, told in ((chosen, [TOPIC]), (plain, [])):
        names = [stack.ids[name] for name in stack.of_type("AWS::CloudWatch::Alarm")]
        alarms: Any = boto3.Session().client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]
        assert len(alarms) == len(names) >= 4
        assert all(alarm.get("AlarmActions", []) == told for alarm in alarms)


def test_the_command_line_finds_what_it_reads(chosen: Deployed) -> None:
    assert set(OUTPUTS) <= stack_outputs(AwsClients(), chosen.name).keys()
    assert all(value for value in chosen.outputs.values())
