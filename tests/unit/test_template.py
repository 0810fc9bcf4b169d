"""What sam/template.yaml promises, read as CloudFormation reads it."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sparklet.local.local_template import handlers_of, load_template
from sparklet.settings import NAMES, OF_FUNCTIONS

ROOT = Path(__file__).resolve().parents[2]
FOR_THE_IMAGE = {"SPARKLET_JARS"}  # set where the jars are: by the image, or by the local stack
OTHER_SPELLINGS = {"SCRIPT_BUCKET", "SPARK_SCRIPT"}  # of the one script that SCRIPT_LOCATION names


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return load_template()


def of_type(template: dict[str, Any], kind: str) -> dict[str, Any]:
    return {name: body["Properties"] for name, body in template["Resources"].items() if body["Type"] == kind}


def functions(template: dict[str, Any]) -> dict[str, Any]:
    return of_type(template, "AWS::Serverless::Function")


def statements(template: dict[str, Any], role: str) -> list[dict[str, Any]]:
    """Everything a role is allowed, its conditional policies included."""
    inline = [policy["PolicyDocument"] for policy in template["Resources"][role]["Properties"]["Policies"]]
    attached = [
        policy["PolicyDocument"]
        for policy in of_type(template, "AWS::IAM::Policy").values()
        if {"Ref": role} in policy["Roles"]
    ]
    return [statement for document in inline + attached for statement in document["Statement"]]


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


ROLES = ("WorkerRole", "DlqConsumerRole", "CheckerRole")


# --- queues ---


def test_visibility_is_six_times_the_timeout_whatever_timeout_is_chosen(template: dict[str, Any]) -> None:
    allowed = template["Parameters"]["FunctionTimeoutS"]["AllowedValues"]

    assert {int(key): entry["Queue"] for key, entry in template["Mappings"]["VisibilityS"].items()} == {
        timeout_s: 6 * timeout_s for timeout_s in allowed
    }
    queue = template["Resources"]["Queue"]["Properties"]
    assert queue["VisibilityTimeout"] == {"Fn::FindInMap": ["VisibilityS", {"Ref": "FunctionTimeoutS"}, "Queue"]}
    assert functions(template)["WorkerFunction"]["Timeout"] == {"Ref": "FunctionTimeoutS"}


def test_the_dead_letters_visibility_is_six_times_their_consumers_timeout(template: dict[str, Any]) -> None:
    dlq = template["Resources"]["DeadLetterQueue"]["Properties"]

    assert dlq["VisibilityTimeout"] == 6 * functions(template)["DlqConsumerFunction"]["Timeout"]


def test_dead_letters_are_kept_longer_than_messages(template: dict[str, Any]) -> None:
    queue, dlq = (template["Resources"][name]["Properties"] for name in ("Queue", "DeadLetterQueue"))

    assert queue["MessageRetentionPeriod"] == 4 * 86_400
    assert dlq["MessageRetentionPeriod"] == 14 * 86_400


def test_throttled_receives_have_room_before_a_message_is_dead(template: dict[str, Any]) -> None:
    redrive = template["Resources"]["Queue"]["Properties"]["RedrivePolicy"]

    assert redrive["maxReceiveCount"] == {"Ref": "MaxReceiveCount"}
    assert template["Parameters"]["MaxReceiveCount"]["Default"] == 20
    assert redrive["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}


# --- functions ---


def test_every_function_is_the_one_image_with_a_command_that_exists(template: dict[str, Any]) -> None:
    for name, properties in functions(template).items():
        assert properties["PackageType"] == "Image", name
        assert properties["ImageUri"] == {"Ref": "ImageUri"}, name
    for command in handlers_of(template).values():
        module, _, function = command.rpartition(".")
        source = (ROOT / "runtime" / module.replace(".", "/")).with_suffix(".py").read_text()
        defined = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
        assert function in defined, command


def test_mappings_report_failures_one_by_one(template: dict[str, Any]) -> None:
    mappings = [
        event["Properties"]
        for properties in functions(template).values()
        for event in properties["Events"].values()
        if event["Type"] == "SQS"
    ]
    mappings += of_type(template, "AWS::Lambda::EventSourceMapping").values()

    assert len(mappings) == 3
    assert all(mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"] for mapping in mappings)


def test_a_stream_has_a_window_only_if_one_is_asked_for(template: dict[str, Any]) -> None:
    mapping = template["Resources"]["StreamMapping"]["Properties"]

    assert mapping["TumblingWindowInSeconds"] == {
        "Fn::If": ["HasWindow", {"Ref": "StreamWindowS"}, {"Ref": "AWS::NoValue"}]
    }
    assert template["Parameters"]["StreamWindowS"]["Default"] == 0


def test_a_failed_kafka_batch_is_raised_unless_the_operator_says_otherwise(template: dict[str, Any]) -> None:
    assert template["Parameters"]["KafkaFailures"]["Default"] == "raise"


def test_a_worker_gets_one_shard_at_a_time_and_their_number_is_bounded(template: dict[str, Any]) -> None:
    shards = functions(template)["WorkerFunction"]["Events"]["Shards"]["Properties"]

    assert shards["BatchSize"] == 1
    assert shards["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "MaximumConcurrency"}}


def test_the_checker_comes_every_minute(template: dict[str, Any]) -> None:
    (event,) = functions(template)["CheckerFunction"]["Events"].values()

    assert (event["Type"], event["Properties"]["Schedule"]) == ("Schedule", "rate(1 minute)")


def test_the_environment_is_what_settings_read_and_nothing_is_missing(template: dict[str, Any]) -> None:
    source = (ROOT / "runtime" / "sparklet" / "settings.py").read_text()
    strings = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    read = {
        text for text in strings if isinstance(text, str) and re.fullmatch(r"(SPARKLET|SCRIPT|SPARK)_[A-Z0-9_]+", text)
    }
    read -= {"SPARK_HOME"}  # the image's own
    read -= NAMES - OF_FUNCTIONS  # of the command line, and between processes
    common = template["Globals"]["Function"]["Environment"]["Variables"]
    given = set(common)
    for properties in functions(template).values():
        given |= set(properties.get("Environment", {}).get("Variables", {}))

    assert given <= read
    assert read - given == FOR_THE_IMAGE | OTHER_SPELLINGS


# --- what lasts ---


def test_bucket_and_ledger_outlive_the_stack(template: dict[str, Any]) -> None:
    for name in ("Bucket", "Ledger"):
        resource = template["Resources"][name]
        assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"] == "Retain"


def test_the_table_is_the_one_that_the_ledger_creates_in_tests(template: dict[str, Any]) -> None:
    from sparklet.aws.dynamodb import table_definition

    expected = table_definition("any")
    del expected["TableName"]
    ledger = template["Resources"]["Ledger"]["Properties"]

    assert {key: ledger[key] for key in expected} == expected
    assert ledger["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_everything_at_rest_is_encrypted_and_nothing_is_public(template: dict[str, Any]) -> None:
    bucket = template["Resources"]["Bucket"]["Properties"]

    assert bucket["BucketEncryption"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert template["Resources"]["Ledger"]["Properties"]["SSESpecification"] == {"SSEEnabled": True}
    assert all(queue["SqsManagedSseEnabled"] for queue in of_type(template, "AWS::SQS::Queue").values())


@pytest.mark.parametrize("policy", ["BucketPolicy", "QueuePolicy", "DeadLetterQueuePolicy"])
def test_nobody_comes_without_tls(template: dict[str, Any], policy: str) -> None:
    (statement,) = template["Resources"][policy]["Properties"]["PolicyDocument"]["Statement"]

    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


# --- who may do what ---


@pytest.mark.parametrize("role", ROLES)
def test_no_role_is_allowed_a_wildcard_of_actions_or_of_data(template: dict[str, Any], role: str) -> None:
    for statement in statements(template, role):
        assert statement["Effect"] == "Allow"
        for action in as_list(statement["Action"]):
            assert "*" not in action, statement
        for resource in as_list(statement["Resource"]):
            written = json.dumps(resource)
            assert resource != "*", statement
            # A pattern may end a folder of a bucket of ours, and nothing else.
            assert "*" not in written or re.search(r'"\$\{Bucket\.Arn\}/[a-z-]+/\*"', written), statement


@pytest.mark.parametrize("name", ["WorkerFunction", "DlqConsumerFunction", "CheckerFunction"])
def test_no_role_of_sams_own_making_brings_managed_policies(template: dict[str, Any], name: str) -> None:
    function = functions(template)[name]

    assert function["Role"] == {"Fn::GetAtt": [name.replace("Function", "Role"), "Arn"]}
    assert "Policies" not in function
    assert "ManagedPolicyArns" not in template["Resources"][name.replace("Function", "Role")]["Properties"]


def test_a_worker_writes_nothing_but_outputs(template: dict[str, Any]) -> None:
    written = [
        resource
        for statement in statements(template, "WorkerRole")
        if {"s3:PutObject", "s3:DeleteObject"} & set(as_list(statement["Action"]))
        for resource in as_list(statement["Resource"])
    ]

    assert written == [{"Fn::Sub": "${Bucket.Arn}/output/*"}, {"Ref": "WriteObjectArns"}]


def test_only_the_checker_may_enter_shards_and_only_the_queues_owners_send_messages(template: dict[str, Any]) -> None:
    def allowed(role: str) -> set[str]:
        return {action for statement in statements(template, role) for action in as_list(statement["Action"])}

    assert [role for role in ROLES if "dynamodb:PutItem" in allowed(role)] == ["CheckerRole"]
    assert not any("dynamodb:DeleteItem" in allowed(role) or "dynamodb:Scan" in allowed(role) for role in ROLES)
    worker_sends = [
        s["Resource"] for s in statements(template, "WorkerRole") if "sqs:SendMessage" in as_list(s["Action"])
    ]
    assert worker_sends == [{"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}]  # batches of a stream that were given up


def test_inputs_are_read_with_named_roles_only_and_by_whoever_reads_inputs(template: dict[str, Any]) -> None:
    allowed = {
        role: [s["Resource"] for s in statements(template, role) if "sts:AssumeRole" in as_list(s["Action"])]
        for role in ROLES
    }

    assert allowed == {
        "WorkerRole": [{"Ref": "InputRoleArns"}],
        "DlqConsumerRole": [],
        "CheckerRole": [{"Ref": "InputRoleArns"}],
    }


# --- alarms and outputs ---


def test_letters_that_nobody_reads_raise_an_alarm_by_the_words_that_the_consumer_logs(template: dict[str, Any]) -> None:
    from sparklet.fanout.recovery import LetterFate

    pattern = template["Resources"]["KeptLetters"]["Properties"]["FilterPattern"]

    assert f'$.fate = "{LetterFate.KEPT}"' in pattern
    said = re.search(r'\$\.message = "([^"]+)"', pattern)
    assert said and f'"{said[1]}"' in (ROOT / "runtime/sparklet/fanout/handlers.py").read_text()
    alarm = template["Resources"]["KeptLettersAlarm"]["Properties"]
    (metric,) = template["Resources"]["KeptLetters"]["Properties"]["MetricTransformations"]
    assert (alarm["MetricName"], alarm["Namespace"]) == (metric["MetricName"], metric["MetricNamespace"])


def test_every_alarm_tells_the_topic_where_there_is_one(template: dict[str, Any]) -> None:
    alarms = of_type(template, "AWS::CloudWatch::Alarm")

    assert {alarm["MetricName"] for alarm in alarms.values()} >= {"ApproximateAgeOfOldestMessage", "Errors"}
    for alarm in alarms.values():
        assert alarm["AlarmActions"]["Fn::If"][:2] == ["HasAlarmTopic", [{"Ref": "AlarmTopicArn"}]]


def test_the_outputs_are_those_that_the_command_line_reads(template: dict[str, Any]) -> None:
    from sparklet.aws.stacks import OUTPUTS

    assert set(OUTPUTS) <= set(template["Outputs"])
