"""sam/streams.yaml, and that it fits the main template."""

import json

import pytest

from tests.unit.template.reading import TEMPLATES, of_type, properties

STREAMS = TEMPLATES["streams.yaml"]
PARAMETERS = STREAMS["Parameters"]
MAPPINGS = {"StreamMapping": "StreamPolicy", "KafkaMapping": "KafkaPolicy"}
KINESIS, KAFKA = (properties(STREAMS, name) for name in MAPPINGS)
NO_VALUE = {"Ref": "AWS::NoValue"}
GIVEN_UP = {"Fn::ImportValue": {"Fn::Sub": "${MainStack}-DlqArn"}}


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_mapping_waits_for_the_right_to_read(name: str) -> None:
    mapping, policy = STREAMS["Resources"][name], STREAMS["Resources"][MAPPINGS[name]]

    assert mapping["DependsOn"] == MAPPINGS[name]
    # Otherwise the mapping could wait for a policy that is not created.
    assert mapping["Condition"] == policy["Condition"]


def test_kafka_reports_of_failures_need_provisioned_pollers() -> None:
    """Without provisioned pollers a Kafka mapping treats any response as success; then a worker raises, by default."""
    assert KAFKA["FunctionResponseTypes"]["Fn::If"][:2] == ["HasKafkaPollers", ["ReportBatchItemFailures"]]
    assert KAFKA["ProvisionedPollerConfig"]["Fn::If"][0] == "HasKafkaPollers"
    assert PARAMETERS["KafkaPollers"]["Default"] == 0


def test_lost_stream_batches_reach_the_dead_letter_queue() -> None:
    for limit, value in (
        ("BisectBatchOnFunctionError", True),
        ("MaximumRetryAttempts", {"Ref": "StreamRetryAttempts"}),
        ("MaximumRecordAgeInSeconds", {"Ref": "StreamMaximumAgeS"}),
    ):
        assert KINESIS[limit] == value
        assert KAFKA[limit] == {"Fn::If": ["HasKafkaPollers", value, NO_VALUE]}
    destination = {"OnFailure": {"Destination": GIVEN_UP}}
    assert KINESIS["DestinationConfig"] == destination
    assert KAFKA["DestinationConfig"] == {"Fn::If": ["KafkaGivesUp", destination, NO_VALUE]}
    of_stream, of_kafka = (of_type(STREAMS, "AWS::IAM::Policy")[name] for name in MAPPINGS.values())
    [sends] = [s for s in of_stream["PolicyDocument"]["Statement"] if s.get("Action") == "sqs:SendMessage"]
    assert sends["Resource"] == GIVEN_UP
    assert {"Fn::If": ["KafkaGivesUp", sends, NO_VALUE]} in of_kafka["PolicyDocument"]["Statement"]


def test_unlimited_retries_of_kafka_have_no_destination() -> None:
    """With a destination, Lambda would make ten attempts instead of unlimited ones, and then skip the records."""
    limited = {"Fn::Not": [{"Fn::Equals": [{"Ref": "StreamRetryAttempts"}, "-1"]}]}

    assert STREAMS["Conditions"]["KafkaGivesUp"] == {"Fn::And": [{"Condition": "HasKafkaPollers"}, limited]}
    assert "endpoint of SQS" in PARAMETERS["KafkaPollers"]["Description"]


def test_a_stream_has_a_window_only_if_configured() -> None:
    assert KINESIS["TumblingWindowInSeconds"] == {"Fn::If": ["HasWindow", {"Ref": "StreamWindowS"}, NO_VALUE]}
    assert PARAMETERS["StreamWindowS"]["Default"] == 0


@pytest.mark.parametrize("name", MAPPINGS)
def test_batches_and_their_start_are_as_configured(name: str) -> None:
    mapping, window = properties(STREAMS, name), {"Fn::If": ["HasBatchWindow", {"Ref": "StreamBatchWindowS"}, NO_VALUE]}

    assert mapping["MaximumBatchingWindowInSeconds"] == window
    assert (mapping["BatchSize"], PARAMETERS["StreamBatchSize"]["MaxValue"]) == ({"Ref": "StreamBatchSize"}, 10_000)
    assert mapping["StartingPosition"] == {"Fn::If": ["HasStart", "AT_TIMESTAMP", "TRIM_HORIZON"]}
    assert mapping["StartingPositionTimestamp"]["Fn::If"][:2] == ["HasStart", {"Ref": "StartingAtS"}]


def test_each_topic_has_a_consumer_group_of_its_own() -> None:
    """Two mappings with one group would share its partitions, even for different topics."""
    policy = json.dumps(STREAMS["Resources"]["KafkaPolicy"])

    assert KAFKA["AmazonManagedKafkaEventSourceConfig"] == {"ConsumerGroupId": {"Ref": "AWS::StackName"}}
    assert '["${Arn}/${AWS::StackName}", {"Arn": {"Fn::Join": [":group/"' in policy


def test_a_stream_with_its_own_kms_key_can_be_read() -> None:
    policy = properties(STREAMS, "StreamPolicy")["PolicyDocument"]["Statement"]
    [decrypts] = [each["Fn::If"] for each in policy if "Fn::If" in each]

    assert decrypts[0] == "HasStreamKey"
    assert (decrypts[1]["Action"], decrypts[1]["Resource"]) == ("kms:Decrypt", {"Ref": "StreamKeyArn"})


def test_late_or_unread_records_raise_an_alarm() -> None:
    """A mapping without permission reads no records, so the metric has no data."""
    alarms = of_type(STREAMS, "AWS::CloudWatch::Alarm")

    assert {(each["Namespace"], each["MetricName"]) for each in alarms.values()} == {
        ("AWS/Kinesis", "GetRecords.IteratorAgeMilliseconds"),
        ("AWS/Kafka", "EstimatedMaxTimeLag"),
    }
    assert [STREAMS["Resources"][name]["Condition"] for name in alarms] == ["HasStream", "HasKafka"]
    assert {each["TreatMissingData"] for each in alarms.values()} == {"breaching"}
    group = {"Name": "Consumer Group", "Value": KAFKA["AmazonManagedKafkaEventSourceConfig"]["ConsumerGroupId"]}
    assert group in alarms["KafkaLateOrSilentAlarm"]["Dimensions"]


def test_scripts_cannot_use_the_permission_to_join_the_network() -> None:
    policy = properties(STREAMS, "KafkaPolicy")["PolicyDocument"]["Statement"]
    joins, denied = ([each for each in policy if each.get("Effect") == effect] for effect in ("Allow", "Deny"))

    assert denied[0]["Condition"] == {"Null": {"lambda:SourceFunctionArn": "false"}}
    assert denied[0]["Action"] in [each["Action"] for each in joins]
