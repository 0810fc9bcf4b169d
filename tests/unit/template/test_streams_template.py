"""What sam/streams.yaml promises, and that it fits to the main template."""

import json
from typing import Any

import pytest

from sparklet.local.environment import resource
from sparklet.local.local_template import parse_template
from tests.unit.template.reading import evaluate_rules, of_type

MAPPINGS = {"StreamMapping": "StreamPolicy", "KafkaMapping": "KafkaPolicy"}
CLUSTER = {"KafkaClusterArn": "arn:aws:kafka:eu-west-1:1:cluster/a/b"}
STREAM = {"StreamArn": "arn:aws:kinesis:eu-west-1:1:stream/events"}
GIVEN_UP = {"Fn::ImportValue": {"Fn::Sub": "${MainStack}-DlqArn"}}


@pytest.fixture(scope="module")
def streams() -> dict[str, Any]:
    return parse_template(resource("sam/streams.yaml").read_text())


@pytest.mark.parametrize(
    ("chosen", "refused"),
    [
        (STREAM, ""),
        ({**CLUSTER, "FunctionTimeoutS": "840"}, ""),
        (CLUSTER, "at most 14 minutes"),
        ({}, "StreamArn or as KafkaClusterArn"),
        ({**STREAM, "KafkaSecretArn": "arn:aws:secretsmanager:eu-west-1:1:secret:AmazonMSK_a"}, "as KafkaSecretKeyArn"),
        ({**STREAM, "KafkaPollers": "1", "StreamMaximumAgeS": "60", "StreamRetryAttempts": "-1"}, "dropped unseen"),
    ],
)
def test_contradictory_parameters_stop_a_deployment(
    streams: dict[str, Any], chosen: dict[str, str], refused: str
) -> None:
    if not refused:
        evaluate_rules(streams, chosen)
        return
    with pytest.raises(ValueError, match=refused):
        evaluate_rules(streams, chosen)


def test_what_it_imports_the_main_stack_exports(streams: dict[str, Any], template: dict[str, Any]) -> None:
    exported = json.dumps([output.get("Export") for output in template["Outputs"].values()])
    named = {each["Fn::ImportValue"]["Fn::Sub"] for each in _imports(streams)}

    assert named == {f"${{MainStack}}-{name}" for name in ("WorkerAliasArn", "WorkerRoleName", "DlqArn")}
    assert all(name.replace("MainStack", "AWS::StackName") in exported for name in named)


def _imports(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for each in node for found in _imports(each)]
    if not isinstance(node, dict):
        return []
    return [node] if "Fn::ImportValue" in node else [found for each in node.values() for found in _imports(each)]


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_mapping_waits_for_the_right_to_read(streams: dict[str, Any], name: str) -> None:
    mapping, policy = streams["Resources"][name], streams["Resources"][MAPPINGS[name]]

    assert mapping["DependsOn"] == MAPPINGS[name]
    assert mapping["Condition"] == policy["Condition"]  # else it may wait for what is not made


def test_kafka_responses_are_read_only_with_pollers(streams: dict[str, Any]) -> None:
    """Without pollers of its own a Kafka mapping takes any response for success; a worker then raises, by default."""
    kafka = streams["Resources"]["KafkaMapping"]["Properties"]

    assert kafka["FunctionResponseTypes"]["Fn::If"][:2] == ["HasKafkaPollers", ["ReportBatchItemFailures"]]
    assert kafka["ProvisionedPollerConfig"]["Fn::If"][0] == "HasKafkaPollers"
    assert streams["Parameters"]["KafkaPollers"]["Default"] == 0


def test_lost_stream_batches_reach_the_dead_letter_queue(streams: dict[str, Any]) -> None:
    kinesis, kafka = (streams["Resources"][name]["Properties"] for name in MAPPINGS)

    for limit, value in (
        ("BisectBatchOnFunctionError", True),
        ("MaximumRetryAttempts", {"Ref": "StreamRetryAttempts"}),
        ("MaximumRecordAgeInSeconds", {"Ref": "StreamMaximumAgeS"}),
    ):
        assert kinesis[limit] == value
        assert kafka[limit] == {"Fn::If": ["HasKafkaPollers", value, {"Ref": "AWS::NoValue"}]}
    destination = {"OnFailure": {"Destination": GIVEN_UP}}
    assert kinesis["DestinationConfig"] == destination
    assert kafka["DestinationConfig"] == {"Fn::If": ["KafkaGivesUp", destination, {"Ref": "AWS::NoValue"}]}
    of_stream, of_kafka = (of_type(streams, "AWS::IAM::Policy")[name] for name in MAPPINGS.values())
    [sends] = [s for s in of_stream["PolicyDocument"]["Statement"] if s.get("Action") == "sqs:SendMessage"]
    assert sends["Resource"] == GIVEN_UP
    assert {"Fn::If": ["KafkaGivesUp", sends, {"Ref": "AWS::NoValue"}]} in of_kafka["PolicyDocument"]["Statement"]


def test_unlimited_retries_of_kafka_have_no_destination(streams: dict[str, Any]) -> None:
    """With one, Lambda makes ten attempts of unlimited ones, and passes the records over."""
    limited = {"Fn::Not": [{"Fn::Equals": [{"Ref": "StreamRetryAttempts"}, "-1"]}]}

    assert streams["Conditions"]["KafkaGivesUp"] == {"Fn::And": [{"Condition": "HasKafkaPollers"}, limited]}
    assert "endpoint of SQS" in streams["Parameters"]["KafkaPollers"]["Description"]


def test_a_stream_has_a_window_only_if_configured(streams: dict[str, Any]) -> None:
    mapping = streams["Resources"]["StreamMapping"]["Properties"]

    assert mapping["TumblingWindowInSeconds"] == {
        "Fn::If": ["HasWindow", {"Ref": "StreamWindowS"}, {"Ref": "AWS::NoValue"}]
    }
    assert streams["Parameters"]["StreamWindowS"]["Default"] == 0


@pytest.mark.parametrize("name", MAPPINGS)
def test_batches_and_their_start_are_as_configured(streams: dict[str, Any], name: str) -> None:
    properties, size = streams["Resources"][name]["Properties"], streams["Parameters"]["StreamBatchSize"]

    assert properties["MaximumBatchingWindowInSeconds"] == {
        "Fn::If": ["HasBatchWindow", {"Ref": "StreamBatchWindowS"}, {"Ref": "AWS::NoValue"}]
    }
    assert (properties["BatchSize"], size["MaxValue"]) == ({"Ref": "StreamBatchSize"}, 10_000)
    assert properties["StartingPosition"] == {"Fn::If": ["HasStart", "AT_TIMESTAMP", "TRIM_HORIZON"]}
    assert properties["StartingPositionTimestamp"]["Fn::If"][:2] == ["HasStart", {"Ref": "StartingAtS"}]


def test_each_topic_has_a_consumer_group_of_its_own(streams: dict[str, Any]) -> None:
    """Two mappings with one group would share its partitions, whatever their topics are."""
    kafka = streams["Resources"]["KafkaMapping"]["Properties"]
    policy = json.dumps(streams["Resources"]["KafkaPolicy"])

    assert kafka["AmazonManagedKafkaEventSourceConfig"] == {"ConsumerGroupId": {"Ref": "AWS::StackName"}}
    assert '["${Arn}/${AWS::StackName}", {"Arn": {"Fn::Join": [":group/"' in policy
