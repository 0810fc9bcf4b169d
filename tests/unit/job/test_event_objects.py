"""The objects that an event names; keys are decoded only if the source encodes them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.job import EventError, Job
from sparklet.job.event_objects import event_objects
from tests.unit.events.samples import eventbridge, every_source, http_request, s3, s3_test_event, sns, sns_envelope, sqs

KEYS = [
    "plain.csv",
    "a b+c%.csv",
    "a%2Bb.csv",
    "100%",
    "%",
    "a+b c",
    "dt=2013-01-01/é.csv",
    "e\u0301.csv",
    "日本/语 言.csv",
    "line\nbreak",
    "q?a#b&c=d",
    "folder/",
    "data[1]{2}*.csv",
]


def in_sqs(*bodies: str) -> dict[str, Any]:
    return {"Records": [sqs(str(n), body) for n, body in enumerate(bodies)]}


@pytest.mark.parametrize("key", KEYS)
def test_an_s3_notification_names_its_object_in_any_envelope(key: str) -> None:
    notification, event = json.dumps(s3(key)), json.dumps(eventbridge(key))
    ways = [
        s3(key),
        sns(notification),
        in_sqs(notification),
        in_sqs(sns_envelope(notification)),
        eventbridge(key),
        sns(event),
        in_sqs(event),
        in_sqs(sns_envelope(event)),
    ]

    assert [event_objects(way) for way in ways] == [(f"s3://my-bucket/{key}",)] * len(ways)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_key_is_read_as_it_is_in_s3(key: str) -> None:
    assert event_objects(s3(key)) == (f"s3://my-bucket/{key}",)
    assert event_objects(eventbridge(key)) == (f"s3://my-bucket/{key}",)


def test_objects_are_named_once_and_in_order() -> None:
    event = {"Records": s3("b")["Records"] + s3("a")["Records"] + s3("b")["Records"]}

    assert event_objects(event) == ("s3://my-bucket/b", "s3://my-bucket/a")


@pytest.mark.parametrize(
    ("names", "inputs"),
    [
        (("ObjectRemoved:Delete", "ObjectRemoved:DeleteMarkerCreated", "s3:ObjectRemoved:Delete"), ()),
        (("LifecycleExpiration:Delete", "ReducedRedundancyLostObject"), ()),
        (("ObjectRestore:Post", "ObjectRestore:Delete"), ()),
        (("ObjectCreated:Put", "s3:ObjectCreated:Copy", "ObjectRestore:Completed"), ("s3://my-bucket/k",)),
        (("ObjectTagging:Put",), ("s3://my-bucket/k",)),
    ],
)
def test_notifications_of_deleted_objects_name_no_input(names: tuple[str, ...], inputs: tuple[str, ...]) -> None:
    assert [event_objects(s3("k", name=name)) for name in names] == [inputs] * len(names)


@pytest.mark.parametrize(
    "event",
    [
        None,
        7,
        "s3",
        [],
        {},
        {"Records": "s3"},
        {"Records": [None, "s3", {}]},
        in_sqs("s3", "[" * 10_000 + "s3", '{"s3": 1}', '"s3"', "x" * 3_000_000),
        in_sqs(json.dumps(s3_test_event())),
        http_request(json.dumps(s3())),
        eventbridge(source="com.example.shop"),
        *(
            eventbridge(kind=kind)
            for kind in ("Object Deleted", "Object Restore Expired", "AWS API Call via CloudTrail")
        ),
        {"Records": [{"EventSource": "aws:sns", "Sns": None}]},
        {"input_path": "s3://b/in/"},
    ],
)
def test_any_other_event_names_no_objects(event: Any) -> None:
    assert event_objects(event) == ()


@pytest.mark.parametrize(
    "change", [{"s3": None}, {"s3": {"bucket": {"name": "b"}}}, {"s3": {"bucket": {}, "object": {"key": "secret"}}}]
)
def test_a_notification_without_an_object_is_refused(change: Any) -> None:
    (record,) = s3()["Records"]

    with pytest.raises(EventError, match="does not name an object") as error:
        event_objects({"Records": [{**record, **change}]})

    assert "secret" not in str(error.value)


def test_nested_envelopes_are_opened_to_a_limit() -> None:
    text = json.dumps(s3())
    for _ in range(3):
        text = sns_envelope(text)
    assert event_objects(in_sqs(text)) == ("s3://my-bucket/HappyFace.jpg",)

    for _ in range(5):
        text = sns_envelope(text)
    assert event_objects(in_sqs(text)) == ()


# --- in Job ---


def job_of(event: Any, *argv: str) -> Job:
    return Job.from_args(["--event", json.dumps(event), *argv], env={})


def test_a_jobs_inputs_are_the_objects_of_the_event() -> None:
    job = job_of(in_sqs(json.dumps(s3("a b+c%.csv"))))

    assert job.inputs == ("s3://my-bucket/a b+c%.csv",)
    assert job.run_id is None


def test_an_events_own_fields_win_over_its_objects() -> None:
    assert job_of(s3("data[1]*.csv")).input_list() == [r"s3://my-bucket/data\[1\]\*.csv"]  # names are no globs
    assert job_of({**s3(), "inputs": ["s3://b/x*"]}).input_list() == ["s3://b/x*"]
    assert job_of({**s3(), "input_path": "s3://b/in/"}).inputs == ("s3://b/in/",)


@pytest.mark.parametrize("event", every_source().values(), ids=every_source())
def test_events_of_every_source_reach_the_script_unchanged(event: Any) -> None:
    assert job_of(event).event == event


def test_an_event_nested_too_deeply_is_refused() -> None:
    with pytest.raises(EventError, match="nested too deeply"):
        Job.from_args(["--event", "[" * 10_000 + "]" * 10_000], env={})
