"""SQS messages in a script: messages that it fails, and the numbers under which tables record them."""

import json
from typing import Any

import pytest

from sparklet.job import OUTCOME_FILE, EventError, Job
from sparklet.job.commit_ids import failed_numbers, labels, messages_of, records_by_chain, records_of
from tests.unit.events import samples


def message(id_: str, body: str = "{}", group: str = "", sent_ms: int = 1_545_082_649_183) -> dict[str, Any]:
    record = samples.sqs(id_, body, group)
    record["attributes"]["SentTimestamp"] = str(sent_ms)
    return record


def job(*records: dict[str, Any], env: dict[str, str] | None = None, **more: Any) -> Job:
    return Job.from_args(["--event", json.dumps({"Records": records, **more})], env or {})


def test_a_failed_message_is_reported_with_its_cause(tmp_path: Any) -> None:
    file = tmp_path / "outcome.json"
    of_two = job(message("a"), message("b"), env={OUTCOME_FILE: str(file)})

    assert of_two.fail_message("b", "no shop 7") == ["b"]
    assert of_two.fail_message("a", "x" * 5000) == ["a", "b"]

    assert json.loads(file.read_text())["failed"] == {"a": "x" * 1000, "b": "no shop 7"}


def test_later_messages_of_a_failed_messages_group_return_too() -> None:
    groups = job(*(message(each, group=each[0]) for each in ("x1", "y1", "x2", "x3")))

    assert groups.fail_message("x2", "bad") == ["x2", "x3"]
    assert groups.outcome.totals["failed"] == {"x2": "bad", "x3": "an earlier message of its group comes back"}
    assert groups.fail_message("x1", "bad, too") == ["x1", "x2", "x3"]


def test_only_a_message_of_the_event_can_be_failed() -> None:
    with pytest.raises(EventError, match="no SQS message 'c'"):
        job(message("a")).fail_message("c", "bad")
    with pytest.raises(EventError, match="that could be reported as failed"):
        Job(event={"Records": [samples.kinesis("7")]}).fail_message("7", "bad")
    with pytest.raises(EventError):
        Job().fail_message("a", "bad")


def test_a_number_begins_with_the_messages_time() -> None:
    early, late = messages_of({"Records": [message("b", sent_ms=1000), message("a", sent_ms=2000)]})

    assert [number >> 128 for number in (early, late)] == [1000, 2000]


def test_a_message_keeps_its_number_and_chain_in_another_batch() -> None:
    alone, among = job(message("a")), job(message("b"), message("a", sent_ms=1_545_082_649_183))
    again = message("a")
    again["attributes"]["ApproximateReceiveCount"] = "9"

    (chain,), (same,) = records_by_chain(alone, ""), records_by_chain(among, "")
    assert chain == same and chain.startswith("sqs/")
    assert records_by_chain(alone, "")[chain][1] < records_by_chain(among, "")[chain][1]
    assert messages_of({"Records": [again]}) == messages_of(alone.event)
    assert records_by_chain(job(message("a"), env={}), "x") != records_by_chain(alone, "")


def test_each_queue_has_one_chain_even_for_parts_of_a_batch() -> None:
    other = {**message("a"), "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:other"}
    known = records_by_chain(job(message("a")), "")

    assert records_by_chain(job(other), "").keys() != known.keys()
    assert records_by_chain(job(message("a"), sparklet={"committed": ["b"]}), "") == known


def test_two_notifications_of_one_version_have_one_number() -> None:
    notified = samples.s3()
    notified["Records"][0]["eventTime"] = "2026-11-27T09:00:00.123Z"
    same = [message(each, json.dumps(notified), sent_ms=n) for n, each in enumerate("ab", 10**12)]
    newer = samples.s3()
    newer["Records"][0]["s3"]["object"]["versionId"] = "v2"
    of_three = job(*same, message("c", json.dumps(newer)))
    event = of_three.event

    assert list(messages_of(event).values()) == [["a", "b"], ["c"]]
    assert of_three.inputs == ("s3://my-bucket/HappyFace.jpg",)
    assert sorted(labels(event, "", messages_of(event))) == ["a", "b", "c"]


def test_a_number_is_failed_only_if_all_its_messages_are() -> None:
    """Two notifications of one object share a number; if only one of them fails, the object is in the table."""
    notified = json.dumps(samples.s3())
    both = job(message("a", notified), message("b", notified), message("c"))

    both.fail_message("a", "bad")
    assert not failed_numbers(both)
    both.fail_message("b", "bad")
    assert labels(both.event, "", failed_numbers(both)) == ["a", "b"]


def test_messages_without_a_time_have_no_numbers() -> None:
    record = message("a")
    del record["attributes"]

    assert records_of({"Records": [record]}) is None
