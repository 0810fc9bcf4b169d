"""A commit id is the same for each delivery of an event or shard, and different for different ones."""

import contextlib
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.job import EventError, Job
from sparklet.job.commit_ids import commit_id, named_work, records_of, work_time_s
from sparklet.job.errors import TableError
from tests.unit.events import samples

IN_A_RUN = {"run": "r", "identity": "r_18bcfe56800", "shard": 7, "attempt": "a1", "generation": 0}


def id_of(event: Any, label: str = "1", **fields: Any) -> str:
    return commit_id(Job(event=event, **fields), label)


def job_in_run(**names: Any) -> Job:
    return Job.from_args(["--event", json.dumps({"sparklet": {**IN_A_RUN, **names}})], {})


def in_run(**names: Any) -> str:
    return commit_id(job_in_run(**names), "1")


def test_in_a_run_an_id_depends_only_on_run_shard_and_label() -> None:
    assert in_run() == in_run(attempt="a2", generation=3) == "r_18bcfe56800/7/1"
    assert in_run(shard=8) != in_run() != in_run(identity="r_18bcfe56801")


@pytest.mark.parametrize("name", ["split_off", "redone"])
def test_a_redone_or_split_off_shard_makes_no_direct_commit(name: str) -> None:
    with pytest.raises(TableError, match="stage the write"):
        in_run(**{name: True})


def with_values(event: dict[str, Any], *place: str | int, **values: Any) -> dict[str, Any]:
    """Set ``values`` in the part of the event that ``place`` leads to. Return the event."""
    inner: Any = event
    for step in place:
        inner = inner[step]
    inner.update(values)
    return event


def message(number: int, body: str = "{}") -> dict[str, Any]:
    return {"Records": [samples.sqs(f"m{number}", body)]}


def s3(n: int) -> dict[str, Any]:
    written = {"sequencer": f"{n:018X}", "versionId": f"v{n}", "eTag": f"{n:032x}"}
    return with_values(samples.s3(), "Records", 0, "s3", "object", **written)


def from_object_store(n: int) -> dict[str, Any]:
    event = with_values(samples.eventbridge(), "detail", "object", sequencer=f"{n:012X}", etag=f"{n:032x}")
    return with_values(event, id=f"e{n}")


SOURCES: dict[str, Callable[[int], dict[str, Any]]] = {
    "sqs": message,
    "s3": s3,
    "s3 in sqs": lambda n: message(n, json.dumps(s3(n))),
    "s3 through eventbridge": from_object_store,
    "sns": lambda n: with_values(samples.sns("hello"), "Records", 0, "Sns", MessageId=f"m{n}"),
    "kinesis": lambda n: {"Records": [samples.kinesis(str(10 * n)), samples.kinesis(str(10 * n + 9))]},
    "dynamodb": lambda n: {"Records": [samples.dynamodb(str(10 * n)), samples.dynamodb(str(10 * n + 9))]},
    "window": lambda n: with_values(
        samples.window(state={"sum": 1}, final=True), "window", start=f"{n}", end=f"{n + 1}"
    ),
    "msk": lambda n: samples.kafka({"t-0": [10 * n, 10 * n + 9], "t-1": [3]}),
    "eventbridge": lambda n: with_values(samples.scheduled(), id=f"e{n}"),
    "api": lambda n: with_values(samples.http_request("{}"), "requestContext", requestId=f"r{n}"),
    "task": lambda n: {"day": "2013-01-01", "sparklet": {"task": f"t{n}"}},
}


@pytest.mark.parametrize("source", SOURCES)
@given(number=st.integers(0, 10**6), other=st.integers(0, 10**6))
def test_each_event_has_one_id_for_all_its_deliveries(source: str, number: int, other: int) -> None:
    event = SOURCES[source](number)
    again = json.loads(json.dumps(dict(reversed(event.items()))))
    if "Records" in again:
        for record in again["Records"]:  # fields that a later delivery may change
            record.pop("receiptHandle", None)
            record.get("attributes", {})["ApproximateReceiveCount"] = "9"

    assert id_of(event) == id_of(again)
    assert (id_of(event) == id_of(SOURCES[source](other))) == (number == other)
    assert id_of(event, "1") != id_of(event, "2")


@given(st.sets(st.tuples(st.sampled_from(sorted(SOURCES)), st.integers(0, 99), st.sampled_from("12")), min_size=2))
def test_different_writes_never_share_an_id(writes: set[tuple[str, int, str]]) -> None:
    same_object = {
        (source, n, label) for source, n, label in writes if source == "s3 in sqs" and ("s3", n, label) in writes
    }

    ids = {id_of(SOURCES[source](n), label) for source, n, label in writes}

    assert len(ids) == len(writes) - len(same_object)


def test_notifications_of_one_object_have_one_id() -> None:
    assert id_of(message(1, json.dumps(s3(5)))) == id_of(message(2, json.dumps(s3(5)))) == id_of(s3(5))
    assert id_of({"day": 1, "sparklet": {"task": "t"}}) != id_of({"day": 2, "sparklet": {"task": "t"}})


def test_ids_differ_by_function_script_arguments_and_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    event = message(1)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "one")
    one = id_of(event)
    others = [id_of(event, args=("--raw",)), id_of(event, params={"level": 2})]
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "two")
    others.append(id_of(event))
    monkeypatch.setattr("sys.argv", ["/tmp/cache/other.py"])
    others.append(id_of(event))

    assert len({one, *others}) == 5


@pytest.mark.parametrize(
    "event", [{}, None, [1], {"orders": [1]}, {"Records": []}, {"Records": [{"eventSource": "x"}]}]
)
def test_an_event_without_an_identity_gets_a_new_id_each_time(event: Any) -> None:
    assert named_work(event) is None
    assert id_of(event) != id_of(event)


def test_records_are_counted_by_shard_or_partition() -> None:
    arn = samples.kinesis("1")["eventSourceARN"]
    assert records_of({"Records": [samples.kinesis("7"), samples.kinesis(f"{10**55}")]}) == (
        "kinesis",
        arn,
        {"shardId-000000000006": {7, 10**55}},
    )
    kind, _, counted = records_of(samples.kafka({"t-0": [1, 2], "t-1": [2]})) or ("", "", {})
    assert (kind, counted) == ("kafka", {"t-0": {1, 2}, "t-1": {2}})
    (numbers,) = (records_of({"Records": [samples.dynamodb("7"), samples.dynamodb("9")]}) or ("", "", {}))[2].values()
    assert numbers == {7, 9}


@pytest.mark.parametrize("event", [{}, None, [1], {"Records": ["x"]}, {"Records": []}, {"records": {"t-0": [{}]}}])
def test_an_event_that_is_no_stream_batch_has_no_records(event: Any) -> None:
    assert records_of(event) is None
    assert records_of(SOURCES["sns"](1)) is None


def _without(event: Any) -> list[Any]:
    """Copies of an event, each without one of its values."""
    if isinstance(event, dict):
        found = [{k: v for k, v in event.items() if k != name} for name in event]
        return found + [{**event, name: less} for name in event for less in _without(event[name])]
    if isinstance(event, list):
        return [[*event[:i], less, *event[i + 1 :]] for i in range(len(event)) for less in _without(event[i])]
    return []


@pytest.mark.parametrize("source", SOURCES)
def test_two_events_with_a_missing_field_get_no_common_id(source: str) -> None:
    """Two different events that lack the same field still get different ids."""
    for one, other in zip(_without(SOURCES[source](1)), _without(SOURCES[source](2)), strict=True):
        with contextlib.suppress(EventError):  # a notification without an object
            assert one == other or id_of(copy.deepcopy(one)) != id_of(other), one


def test_default_labels_are_numbers_that_failed_writes_reuse() -> None:
    outcome = Job().outcome
    for _ in range(2):
        with pytest.raises(OSError, match=r"^1$"), outcome.reserve_label(None) as label:
            raise OSError(label)
    reserve = outcome.reserve_label
    with reserve(None) as first, reserve(None) as second, reserve("late") as own:
        assert (first, second, own) == ("1", "2", "late")
    with pytest.raises(ValueError, match="'late' already"), outcome.reserve_label("late"):
        pass


@pytest.mark.parametrize(
    ("event", "at_s"),
    [
        ({"Records": [{**samples.sqs("m1", "{}"), "attributes": {"SentTimestamp": "1356998400000"}}]}, 1356998400),
        ({"Records": [{"Sns": {"Timestamp": "2013-01-01T00:00:00.000Z"}}]}, 1356998400),
        ({"Records": [{"eventTime": "2013-01-01T00:00:00.000Z"}]}, 1356998400),
        ({"time": "2013-01-01T00:00:00Z"}, 1356998400),
        ({"time": "soon"}, None),
        ({}, None),
    ],
)
def test_the_time_of_an_event_is_read_from_every_source(event: dict[str, Any], at_s: float | None) -> None:
    assert work_time_s(Job(event=event)) == at_s


def test_the_time_of_a_shards_work_is_the_runs_start() -> None:
    assert work_time_s(job_in_run(identity=f"r_{1356998400000:x}")) == 1356998400
