"""Metrics are written as lines in CloudWatch's embedded metric format; its specification is checked as a schema."""

import json
import math
import re
import time
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sparklet.ports import metrics
from sparklet.ports.metrics import ATTEMPT_SECONDS, SHARDS_SUCCEEDED, Emitter, Meter, Metric, is_metrics_line

METRICS = {each.name: each for each in vars(metrics).values() if isinstance(each, Metric)}
MAX_EVENT_BYTES = 256 * 1024  # the smallest limit that the specification has had for a log event
UNITS = (
    *("Seconds", "Microseconds", "Milliseconds", "Bytes", "Kilobytes", "Megabytes", "Gigabytes", "Terabytes", "Bits"),
    *("Percent", "Count", "Count/Second", "None"),
)
NAME = {"type": "string", "minLength": 1, "maxLength": 1024}
EMF = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "additionalProperties": False,
            "properties": {
                "Timestamp": {"type": "integer"},
                "CloudWatchMetrics": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["Namespace", "Dimensions", "Metrics"],
                        "additionalProperties": False,
                        "properties": {
                            "Namespace": NAME,
                            "Dimensions": {
                                "type": "array",
                                "minItems": 1,
                                "items": {"type": "array", "maxItems": 30, "items": {**NAME, "maxLength": 250}},
                            },
                            "Metrics": {
                                "type": "array",
                                "minItems": 1,
                                "maxItems": 100,
                                "items": {
                                    "type": "object",
                                    "required": ["Name"],
                                    "additionalProperties": False,
                                    "properties": {
                                        "Name": NAME,
                                        "Unit": {"enum": UNITS},
                                        "StorageResolution": {"enum": [1, 60]},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def check_emf(line: str) -> dict[str, Any]:
    """Return the document of a line. AssertionError if CloudWatch would refuse the line."""
    assert len(line.encode()) <= MAX_EVENT_BYTES and "\n" not in line
    document: dict[str, Any] = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    Draft202012Validator(EMF).validate(document)
    assert abs(document["_aws"]["Timestamp"] / 1000 - time.time()) < 3600, "milliseconds, at most two weeks old"
    for directive in document["_aws"]["CloudWatchMetrics"]:
        for keys in directive["Dimensions"]:
            assert all(isinstance(document[key], str) and 0 < len(document[key]) <= 1024 for key in keys)
        for metric in directive["Metrics"]:
            found = document[metric["Name"]]
            values = found if isinstance(found, list) else [found]
            assert 0 < len(values) <= 100
            assert all(type(value) in (int, float) and math.isfinite(value) for value in values)
    return document


def everything(emitter: Emitter) -> list[Metric]:
    return [metric for metric in METRICS.values() if emitter in metric.emitters]


@pytest.mark.parametrize("emitter", Emitter)
def test_all_metrics_of_a_function_fit_one_cloudwatch_line(emitter: Emitter) -> None:
    lines: list[str] = []
    meter = Meter("Sparklet/my-stack", emitter, lines.append)
    for metric in everything(emitter):
        meter.add(metric, 2.5)
        meter.add(metric)

    meter.emit(request_id="r-1")

    (line,) = lines
    document = check_emf(line)
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Sparklet/my-stack" and directive["Dimensions"] == [[]]
    assert {each["Name"]: each["Unit"] for each in directive["Metrics"]} == {
        metric.name: metric.unit for metric in everything(emitter)
    }
    for metric in everything(emitter):
        assert document[metric.name] == ([2.5, 1] if metric.unit == "Seconds" else 3.5)
    assert (document["request_id"], is_metrics_line(line)) == ("r-1", True)


def test_a_line_holds_what_happened_since_the_last_one() -> None:
    lines: list[str] = []
    meter = Meter("n", Emitter.WORKER, lines.append)
    meter.emit()
    meter.add(SHARDS_SUCCEEDED)
    meter.emit()
    meter.emit()

    (line,) = lines
    assert check_emf(line)["ShardsSucceeded"] == 1


def test_more_values_than_a_line_takes_go_into_further_lines() -> None:
    lines: list[str] = []
    meter = Meter("n", Emitter.WORKER, lines.append)
    for number in range(250):
        meter.add(ATTEMPT_SECONDS, number)
        meter.add(SHARDS_SUCCEEDED)

    meter.emit()

    documents = [check_emf(line) for line in lines]
    assert [value for each in documents for value in each["AttemptSeconds"]] == list(range(250))
    assert [each.get("ShardsSucceeded") for each in documents] == [250, None, None]


def test_nothing_is_written_where_no_namespace_is_set() -> None:
    meter = Meter("", Emitter.WORKER, lambda line: pytest.fail(line))
    meter.add(SHARDS_SUCCEEDED)
    meter.emit()
    assert not meter.on


def test_no_function_writes_anothers_metrics() -> None:
    with pytest.raises(AssertionError, match="RunsOpen"):
        Meter("n", Emitter.WORKER, print).add(metrics.RUNS_OPEN)


def test_every_metric_is_named_and_used() -> None:
    assert len(METRICS) == sum(isinstance(each, Metric) for each in vars(metrics).values())
    for metric in METRICS.values():
        assert re.fullmatch(r"([A-Z][a-z]+)+", metric.name)
        assert metric.emitters
        assert metric.statistic in ("Sum", "Maximum", "p90")
