"""The event that a script gets matches docs/schemas/event.json; every other test of a worker checks this, too."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sparklet.errors import EventError
from sparklet.job.outcome import EVENT, EVENT_FILE
from sparklet.model import InputObject, Run, RunOptions, ScriptRef, Shard, ShardRecord
from sparklet.worker.executor import (
    MAX_ARGUMENT_BYTES,
    event_variables,
    request_event,
    script_arguments,
    shard_event,
    write_event,
)
from tests.unit.worker.script_events import check_event

RUN = Run(
    "run-1", ("s3://in/",), "s3://out/x", (ScriptRef("s3://b/j.py", "0", "s3://m/j.py"),), (), {"k": 1}, created_s=1.7e9
)
RECORD = ShardRecord("run-1", 7, "part", 0, 9, 1, 10, generation=2, attempt_id="a1")
EVENT_VARIABLES = {EVENT: '{"a":1}', EVENT_FILE: "/t/event.json"}
OUTPUT = "s3://b/staged/run-1/000007-a1"


def event_of(*uris: str, run: Run = RUN, record: ShardRecord = RECORD) -> dict[str, Any]:
    """The event of a shard, checked against the schema."""
    event = shard_event(run, record, Shard(7, tuple(InputObject(uri, 1) for uri in uris)), OUTPUT)
    check_event(event)
    return event


@pytest.mark.parametrize("uris", [(), ("s3://in/a",), ("s3://in/a", "s3://in/b")])
def test_a_shards_event_has_its_inputs_and_identity(uris: tuple[str, ...]) -> None:
    event = event_of(*uris)

    assert event["inputs"] == list(uris)
    assert event["input_path"] == (uris[0] if len(uris) == 1 else None)
    about = {"run": "run-1", "identity": "run-1_18bcfe56800", "shard": 7, "attempt": "a1", "generation": 2}
    assert event["sparklet"] == about
    assert "table" not in event


def test_the_event_has_the_runs_table_and_allow_drift() -> None:
    event = event_of("s3://in/a", run=replace(RUN, table="iceberg:db.flights", options=RunOptions(allow_drift=True)))

    assert (event["table"], event["sparklet"]["allow_drift"]) == ("iceberg:db.flights", True)


@pytest.mark.parametrize(
    ("attempts", "error_class", "message", "taken_from", "previous"),
    [
        (0, "", "", "", None),
        (2, "ValueError", "x", "PENDING", (1, "ValueError", "x", None)),
        (2, "DeadlineExceededError", "", "PENDING", (1, "DeadlineExceededError", "", "unknown")),
        (3, "ValueError", "x", "RUNNING", (2, "LeaseExpired", "its worker was lost", "unknown")),
        (1, "LeaseExpired", "", "PENDING", (0, "LeaseExpired", "", "unknown")),
    ],
    ids=["first", "failed", "deadline", "lost after a failure", "earlier generation"],
)
def test_the_event_tells_how_the_previous_attempt_ended(
    attempts: int, error_class: str, message: str, taken_from: str, previous: tuple | None
) -> None:
    record = replace(RECORD, attempts=attempts, error_class=error_class, error_message=message, taken_from=taken_from)

    event = event_of(record=record)

    names = ("number", "error_class", "message", "commit_state")
    expected = None if previous is None else dict(zip(names, previous, strict=True))
    assert event["sparklet"].get("previous_attempt") == expected


def test_a_tasks_event_is_the_clients_event_with_the_task_id() -> None:
    event = request_event({"day": "2013-01-01", "sparklet": {"args": ["--x"]}}, "order-7")

    check_event(event)
    assert event == {"day": "2013-01-01", "sparklet": {"args": ["--x"], "task": "order-7"}}


@pytest.mark.parametrize("change", [{"inputs": None}, {"input_path": None}, {"more": 1}, {"output_path": "s3://o/"}])
def test_the_schema_refuses_a_changed_shard_event(change: dict[str, Any]) -> None:
    event = {**event_of("s3://in/a"), **change}
    with pytest.raises(jsonschema.ValidationError):
        check_event(event)


def test_the_event_is_in_a_variable_and_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "event.json"

    assert write_event({"a": 1}, tmp_path, is_shard=False) == {EVENT: '{"a":1}', EVENT_FILE: str(path)}
    assert path.read_text() == '{"a":1}'
    assert write_event({"a": "x" * 200_000}, tmp_path, is_shard=False)[EVENT] == f"@{path}"


def test_the_event_is_the_last_argument_of_the_script() -> None:
    assert script_arguments(["in", "out"], {}, "--event", EVENT_VARIABLES) == ("in", "out", "--event", '{"a":1}')
    assert script_arguments(["in"], {}, "--event-file", EVENT_VARIABLES) == ("in", "--event-file", "/t/event.json")
    assert script_arguments(["in", "{input}"], {}, "", EVENT_VARIABLES) == ("in", "{input}")  # not in a shard


def test_placeholders_in_arguments_become_input_and_output() -> None:
    folder, one = event_of("s3://in/a", "s3://in/b"), {**event_of("s3://in/a")}
    del one["input_folders"]

    assert folder["input_folders"] == ["s3://in/"]
    assert script_arguments(["{input}", "{output}/x"], folder, "", EVENT_VARIABLES) == ("s3://in/", f"{OUTPUT}/x")
    assert script_arguments(["--from={input}"], one, "", EVENT_VARIABLES) == ("--from=s3://in/a",)


def test_path_variables_exist_in_lower_and_upper_case(tmp_path: Path) -> None:
    one = write_event(event_of("s3://in/a"), tmp_path, is_shard=True)
    two = write_event(event_of("s3://in/a", "s3://in/b"), tmp_path, is_shard=True)

    assert {one["input_path"], one["INPUT_PATH"]} == {"s3://in/a"}
    assert {one["output_path"], one["OUTPUT_PATH"]} == {OUTPUT}
    assert (two["input_path"], two["INPUT_PATH"], two["OUTPUT_PATH"]) == ("", "", OUTPUT)


def test_listed_keys_of_an_event_become_variables() -> None:
    event = {"INPUT_PATH": "s3://in/", "limit": 3, "share": 0.5, "fast": True, "none": None, "LD_PRELOAD": "x"}

    assert event_variables(event, ()) == {}
    assert event_variables(event, ("INPUT_PATH", "limit", "share", "fast", "none", "missing")) == {
        "INPUT_PATH": "s3://in/",
        "limit": "3",
        "share": "0.5",
        "fast": "true",
    }
    for other in ([event], "INPUT_PATH", None, 7):
        assert event_variables(other, ("INPUT_PATH",)) == {}


@pytest.mark.parametrize("value", [["s3://in/"], {"a": 1}, "s3://in/\0", "x" * (MAX_ARGUMENT_BYTES + 1)])
def test_a_value_that_no_variable_can_hold_is_refused(value: Any) -> None:
    with pytest.raises(EventError, match="INPUT_PATH cannot become a variable") as refused:
        event_variables({"INPUT_PATH": value}, ("INPUT_PATH",))
    assert "s3://in/" not in str(refused.value)  # an event may hold secrets
