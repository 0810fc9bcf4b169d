"""What became of a map over objects: result files in Step Functions' own form, or the map's own output."""

import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from sparklet.errors import EventError, PlanError
from sparklet.fanout.machines.collecting import collect
from sparklet.fanout.machines.objects import prepare
from sparklet.fanout.machines.result_files import array_elements
from sparklet.model import BATCH
from tests.unit.fanout.world import BUCKET, World

SCRIPT = "s3://lake/scripts/job.py"
REQUEST = {"script": SCRIPT, "reader": "s3-list", "source": "s3://lake/raw/", "output": "s3://lake/clean/"}
FOLDER = f"s3://{BUCKET}/runs/clean-1/map/0a1b/"
EXCEEDED = {"Error": "States.ExceedToleratedFailureThreshold", "Cause": "The specified tolerated failure threshold…"}


@pytest.fixture
def world(world: World) -> World:
    world.store.put(SCRIPT, b"print(1)\n")
    return world


def begin(world: World, **request: Any) -> str:
    return str(prepare(world.at, {**REQUEST, "run_id": "clean-1", **request}, "e", ("s3://lake/scripts/",), 9)["job"])


def told(items: int = 2, rows: int | None = 10, **more: Any) -> dict[str, Any]:
    """A worker's answer."""
    return {
        "state": "SUCCEEDED",
        "batch": "b1",
        "items": items,
        "objects": items - 1,
        "left_out": {"empty": 1},
        "input_bytes": 100,
        "rows": rows,
        "output_bytes": 50,
        "duration_s": 1.5,
        **more,
    }


def record(status: str, **more: Any) -> dict[str, Any]:
    """A child as the result writer tells of it; see the page that ``result_files`` names."""
    job = f"s3://{BUCKET}/runs/clean-1/objects.json"
    items = more.pop("items", ["s3://lake/raw/a", "s3://lake/raw/b"])
    child = {"BatchInput": {"job": job}, "Items": [{"job": job, "item": item} for item in items]}
    return {
        "ExecutionArn": "arn:aws:states:us-east-1:1:execution:m/Map:c",
        "Input": json.dumps(child),
        "InputDetails": {"Included": True},
        "Name": "c",
        "RedriveCount": 0,
        "RedriveStatus": "NOT_REDRIVABLE",
        "StartDate": "2026-11-20T19:30:38.674Z",
        "StateMachineArn": "arn:aws:states:us-east-1:1:stateMachine:m/Map",
        "Status": status,
        "StopDate": "2026-11-20T19:30:39.113Z",
        **more,
    }


def succeeded(**more: Any) -> dict[str, Any]:
    return record("SUCCEEDED", Output=json.dumps(told(**more)), OutputDetails={"Included": True})


def failed(error: str = "AnalysisException", cause: str = "no such column", **more: Any) -> dict[str, Any]:
    return record("FAILED", Error=error, Cause=cause, **more)


def written(world: World, **files: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Write result files and their manifest; what the map answers."""
    named: dict[str, Any] = {"FAILED": [], "PENDING": [], "SUCCEEDED": []}
    for fate, parts in files.items():
        for number, part in enumerate(parts):
            body = json.dumps(part).encode()
            key = f"runs/clean-1/map/0a1b/{fate}_{number}.json"
            world.store.put(f"s3://{BUCKET}/{key}", body)
            named[fate].append({"Key": key, "Size": len(body)})
    manifest = {"DestinationBucket": BUCKET, "MapRunArn": "arn:…:mapRun:m/Map:0a1b", "ResultFiles": named}
    world.store.put(f"{FOLDER}manifest.json", json.dumps(manifest).encode())
    return {
        "MapRunArn": manifest["MapRunArn"],
        "ResultWriterDetails": {"Bucket": BUCKET, "Key": f"{FOLDER}manifest.json"[len(f"s3://{BUCKET}/") :]},
    }


def ended(world: World, result: Any, read: int | None = None, **more: Any) -> dict[str, Any]:
    counted = {"map_run": {"Total": read}} if read is not None else {}
    return collect(world.at, {"run_id": "clean-1", "result": result, **counted, **more})


def summary(world: World) -> Any:
    return json.loads(world.store.get(f"s3://{BUCKET}/runs/clean-1/summary.json"))


def test_every_file_of_a_manifest_is_added_up(world: World) -> None:
    begin(world)
    result = written(world, SUCCEEDED=[[succeeded(), succeeded(rows=None)], [succeeded(duration_s=9.0, batch="b9")]])

    answer = ended(world, result, read=6)

    assert (answer["state"], answer["problem"]) == ("SUCCEEDED", "")
    assert answer["batches"] == {"succeeded": 3, "failed": 0, "pending": 0, "total": 3}
    found = summary(world)
    assert found["ItemCounts"] == {"Succeeded": 6, "Failed": 0, "Pending": 0, "Total": 6, "Read": 6, "Difference": 0}
    assert (found["Objects"], found["Rows"], found["SilentBatches"]) == (3, 20, 1)
    assert (found["InputBytes"], found["OutputBytes"], found["TaskSeconds"]) == (300, 150, 12.0)
    assert found["LeftOut"] == {"empty": 3}
    assert found["LongestBatch"] == {"Batch": "b9", "DurationSeconds": 9.0}
    assert found["Source"] == "result files"


def test_causes_are_counted_with_one_example_each(world: World) -> None:
    begin(world, tolerate="90%")
    wrapped = {"errorMessage": "OutOfMemoryError: it ran out", "errorType": "BatchNotDoneError", "stackTrace": []}
    lambda_cause = json.dumps(wrapped)
    result = written(
        world,
        SUCCEEDED=[[succeeded()]],
        FAILED=[[failed(), failed(cause="another"), failed("BatchNotDoneError", lambda_cause)]],
    )

    answer = ended(world, result, read=8)

    assert answer["state"] == "SUCCEEDED_WITH_FAILURES"
    assert summary(world)["FailureCauses"] == [
        {
            "Error": "AnalysisException",
            "Count": 2,
            "ExampleItem": '"s3://lake/raw/a"',
            "ExampleCause": "no such column",
        },
        {"Error": "OutOfMemoryError", "Count": 1, "ExampleItem": '"s3://lake/raw/a"', "ExampleCause": "it ran out"},
    ]


@pytest.mark.parametrize(("tolerate", "state"), [("0", "FAILED"), ("1", "FAILED"), ("2", "SUCCEEDED_WITH_FAILURES")])
def test_tolerance_is_of_items_as_step_functions_counts_it(world: World, tolerate: str, state: str) -> None:
    begin(world, tolerate=tolerate)

    assert ended(world, written(world, SUCCEEDED=[[succeeded()]], FAILED=[[failed()]]), read=4)["state"] == state


@pytest.mark.parametrize(("read", "difference"), [(7, 3), (3, -1)])
def test_an_item_that_is_in_no_result_or_in_two_makes_the_run_failed(world: World, read: int, difference: int) -> None:
    begin(world, tolerate="100%")

    answer = ended(world, written(world, SUCCEEDED=[[succeeded(), succeeded()]]), read=read)

    assert (answer["state"], answer["items"]["difference"]) == ("FAILED", difference)
    assert f"{read} items were read" in answer["problem"]


def test_a_map_that_stopped_is_told_by_the_files_it_wrote(world: World) -> None:
    begin(world)
    written(
        world, SUCCEEDED=[[succeeded()]], FAILED=[[failed()]], PENDING=[[record("PENDING", items=["s3://lake/raw/z"])]]
    )

    answer = ended(world, None, read=5, error=EXCEEDED)

    assert answer["items"] == {"succeeded": 2, "failed": 2, "pending": 1, "total": 5, "read": 5, "difference": 0}
    assert (answer["state"], answer["problem"]) == ("FAILED", "1 of 5 items were not done: the map stopped before them")
    left = world.store.get(answer["unfinished"]).decode().splitlines()
    assert [json.loads(line) for line in left] == [
        {BATCH: ["s3://lake/raw/a", "s3://lake/raw/b"]},
        {BATCH: ["s3://lake/raw/z"]},
    ]


def test_a_map_that_stopped_without_files_is_told_by_its_own_counts(world: World) -> None:
    begin(world, tolerate="1")
    counted = {"Total": 3, "Succeeded": 2, "Failed": 1, "TimedOut": 0, "Aborted": 0, "Pending": 0, "Running": 0}

    answer = ended(world, None, error=EXCEEDED, map_run=counted)

    assert (answer["state"], answer["unfinished"]) == ("SUCCEEDED_WITH_FAILURES", "")
    assert summary(world)["Source"] == "the map run's counts"


def test_a_list_that_could_not_be_read_is_told(world: World) -> None:
    begin(world)

    answer = ended(world, None, error={"Error": "States.ItemReaderFailed", "Cause": "no such key"})

    assert (answer["state"], answer["problem"]) == (
        "FAILED",
        "the map stopped with States.ItemReaderFailed: no such key",
    )


def test_where_no_result_writer_wrote_the_maps_own_output_is_read(world: World) -> None:
    begin(world, tolerate="50%")
    inline = {"Status": "FAILED", "Input": {"job": "s3://b/objects.json", "items": ["s3://lake/raw/x"]}, "Error": "E"}

    answer = ended(world, [told(), {"Status": "SUCCEEDED", "Output": told()}, inline, None], items_in=6)

    assert answer["items"]["failed"] == 2 and answer["state"] == "SUCCEEDED_WITH_FAILURES"
    assert json.loads(world.store.get(answer["unfinished"])) == {BATCH: ["s3://lake/raw/x"]}


def test_nothing_to_read_is_no_success(world: World) -> None:
    begin(world)

    assert ended(world, [], items_in=0)["problem"] == "there was nothing to read"


def test_an_answer_stays_small_whatever_the_causes(world: World) -> None:
    begin(world)
    many = [failed(f"Error{n}", "x" * 100_000) for n in range(50)]

    answer = ended(world, written(world, FAILED=[many]), read=100)

    assert len(json.dumps(answer)) < 8_000
    assert len(summary(world)["FailureCauses"]) == 10


@pytest.mark.parametrize("body", [b"[", b"{}", b'[{"a": 1}', b"[1] x", b"nothing"])
def test_a_damaged_file_is_named_and_never_half_counted(world: World, body: bytes) -> None:
    begin(world)
    result = written(world, SUCCEEDED=[[succeeded()]])
    world.store.put(f"{FOLDER}SUCCEEDED_0.json", body)

    with pytest.raises(PlanError, match=r"SUCCEEDED_0\.json"):
        ended(world, result, read=2)


def test_a_result_that_is_none_is_refused(world: World) -> None:
    begin(world)
    with pytest.raises(EventError, match="result"):
        ended(world, {"Something": "else"})


# --- files of any size ---


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 1000])
def test_an_array_is_the_same_however_it_is_cut(chunk_bytes: int) -> None:
    wanted: list[Any] = [{"a": 'ä,]}\\"ü'}, 12345, [], {"b": [1, {"c": None}]}, "x", -1.5e3]
    body = json.dumps(wanted, indent=1, ensure_ascii=False).encode()

    chunks = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]

    assert list(array_elements(chunks)) == wanted
    assert list(array_elements([b" [ ] "])) == []


def test_memory_does_not_grow_with_a_file() -> None:
    element = json.dumps({"Output": "x" * 1000}).encode()

    def chunks() -> Iterator[bytes]:
        yield b"["
        for _ in range(300):
            yield b",".join([element] * 100) + b","
        yield element + b"]"

    tracemalloc.start()
    count = sum(1 for _ in array_elements(chunks()))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == 30_001  # 30 MB
    assert peak_bytes < 2_000_000
