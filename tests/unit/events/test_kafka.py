"""MSK and self-managed Kafka: one task a batch, raised or reported."""

from typing import Any

import pytest

from sparklet.errors import EventError, ScriptFailedError
from sparklet.events import Outcome, Source, answer, parse_event
from tests.unit.events.samples import kafka

FAILED = ScriptFailedError("s3://b/x.py", 1)


@pytest.mark.parametrize(
    ("name", "source"),
    [("aws:kafka", Source.MSK), ("SelfManagedKafka", Source.KAFKA), ("aws:SelfManagedKafka", Source.KAFKA)],
)
def test_a_batch_of_several_partitions_is_one_task(name: str, source: Source) -> None:
    event = kafka({"mytopic-0": [15, 16], "other-topic-11": [3]}, name)

    (task,) = parse_event(event)

    assert (task.source, task.event) == (source, event)
    assert task.record_ids == ("mytopic-0:15", "other-topic-11:3")
    assert answer(event, [Outcome(task)]) == {"batchItemFailures": []}


def test_a_failure_is_raised_unless_reports_are_configured() -> None:
    event = kafka({"mytopic-0": [15]})
    (task,) = parse_event(event)

    with pytest.raises(ScriptFailedError):
        answer(event, [Outcome(task, FAILED, acknowledged=False)])


def test_a_reported_failure_names_each_partitions_first_offset() -> None:
    # The shape: https://docs.aws.amazon.com/lambda/latest/dg/kafka-retry-configurations.html
    event = kafka({"mytopic-0": [16, 15], "mytopic-1": [3], "mytopic-2": []})
    (task,) = parse_event(event)

    told = answer(event, [Outcome(task, FAILED, acknowledged=False)], kafka_failures="report")

    assert told == {
        "batchItemFailures": [
            {"itemIdentifier": {"partition": "mytopic-0", "offset": 15}},
            {"itemIdentifier": {"partition": "mytopic-1", "offset": 3}},
        ]
    }


@pytest.mark.parametrize(
    ("records", "seen"),
    [
        ([], "not a list"),
        ({"t-0": {}}, "list of objects, not the keys"),
        ({"t-0": ["x"]}, "list of objects"),
        ({"t-0": [{}]}, "has no offset"),
        ({"t-0": [{"offset": -1}]}, "has no offset"),
        ({"t-0": [{"offset": True}]}, "has no offset"),
        ({"t-0": [{"offset": "15"}]}, "has no offset"),
    ],
)
def test_a_batch_that_could_not_be_reported_is_refused(records: Any, seen: str) -> None:
    with pytest.raises(EventError, match=seen):
        parse_event({**kafka({}), "records": records})
