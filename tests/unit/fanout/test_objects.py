"""Requests for objects without a planner, and what the objects machine makes of them."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from sparklet.errors import EventError, PlanError, ScriptNotAllowedError, SparkletError
from sparklet.fanout.machines.objects import prepare
from sparklet.model import INLINE_MOST, ObjectsJob
from tests.unit.fanout.world import World

SCRIPTS = ("s3://lake/scripts/",)
SCRIPT = "s3://lake/scripts/job.py"
LISTED = {"script": SCRIPT, "reader": "s3-list", "source": "s3://lake/raw/", "output": "s3://lake/clean/"}
ITEMS = {"script": SCRIPT, "reader": "items", "output": "s3://lake/clean/"}


@pytest.fixture
def world(world: World) -> World:
    world.store.put(SCRIPT, b"print(1)\n")
    return world


def ready(world: World, request: Mapping[str, Any], execution: str = "e-1", concurrency: int = 20) -> dict[str, Any]:
    return prepare(world.at, request, execution, SCRIPTS, concurrency)


def job(world: World, answer: Mapping[str, Any]) -> ObjectsJob:
    return ObjectsJob.from_document(world.store.get(answer["job"]))


@pytest.mark.parametrize(
    ("reader", "source", "bucket", "key"),
    [
        ("s3-list", "s3://lake/raw/2026-", "lake", "raw/2026-"),
        ("s3-list", "s3://lake", "lake", ""),
        ("csv", "s3://lists/today.csv", "lists", "today.csv"),
        (
            "s3-inventory",
            "s3://inv/lake/all/2026-11-20T01-00Z/manifest.json",
            "inv",
            "lake/all/2026-11-20T01-00Z/manifest.json",
        ),
    ],
)
def test_a_machine_is_told_where_the_reader_reads(
    world: World, reader: str, source: str, bucket: str, key: str
) -> None:
    answer = ready(world, {**LISTED, "reader": reader, "source": source, "output": "s3://out/"})

    assert (answer["how"], answer["bucket"], answer["key"]) == (reader, bucket, key)
    assert (answer["batch_items"], answer["max_concurrency"], answer["items_in"]) == (100, 20, None)
    assert answer["result_prefix"] == f"runs/{answer['run_id']}/map"


def test_a_job_says_what_all_batches_share(world: World) -> None:
    request = {**LISTED, "args": ["--day", "7"], "params": {"k": 1}, "path": "where", "tolerate": "5%"}

    found = job(world, ready(world, request))

    assert (found.args, found.params, found.path, found.bucket) == (("--day", "7"), {"k": 1}, "where", "lake")
    assert found.script.source_uri == SCRIPT
    assert world.store.get(found.script.uri) == b"print(1)\n"  # a copy: what all batches run


def test_only_an_inventorys_keys_are_decoded(world: World) -> None:
    source = "s3://inv/manifest.json"
    assert job(world, ready(world, {**LISTED, "reader": "s3-inventory", "source": source})).encoded_keys
    assert not job(world, ready(world, LISTED, "e-2")).encoded_keys


def test_few_items_are_handed_out_inline_and_more_by_a_distributed_map(world: World) -> None:
    few = ready(world, {**ITEMS, "items": [f"s3://lake/{n}" for n in range(INLINE_MOST)]})
    many = ready(world, {**ITEMS, "items": [f"s3://lake/{n}" for n in range(INLINE_MOST + 1)]}, "e-2")

    assert (few["how"], len(few["batches"]), few["items"]) == ("inline", INLINE_MOST, [])
    assert few["batches"][0] == {"job": few["job"], "items": ["s3://lake/0"]}
    assert (many["how"], many["batches"], len(many["items"])) == ("items", [], INLINE_MOST + 1)
    assert (few["items_in"], many["items_in"]) == (INLINE_MOST, INLINE_MOST + 1)


def test_items_too_large_for_a_state_with_their_results_go_to_a_distributed_map(world: World) -> None:
    items = [{"uri": f"s3://lake/{n}", "note": "x" * 5000} for n in range(20)]

    assert ready(world, {**ITEMS, "items": items})["how"] == "items"


def test_the_same_key_is_the_same_run_and_another_execution_another(world: World) -> None:
    keyed = {**LISTED, "idempotency_key": "raw-7"}
    assert ready(world, keyed, "e-1")["run_id"] == ready(world, keyed, "e-2")["run_id"]
    assert ready(world, LISTED, "e-1") == ready(world, LISTED, "e-1")  # a retried state
    assert ready(world, LISTED, "e-1")["run_id"] != ready(world, LISTED, "e-2")["run_id"]


def test_a_run_id_of_another_job_is_refused(world: World) -> None:
    ready(world, {**LISTED, "run_id": "clean-7"})

    with pytest.raises(EventError, match="run_id"):
        ready(world, {**LISTED, "run_id": "clean-7", "output": "s3://elsewhere/"})


@pytest.mark.parametrize(("tolerate", "count", "percentage"), [("0", 0, 0), (3, 3, 100), ("2.5%", 1_000_000_000, 2.5)])
def test_a_limit_that_is_not_set_stops_no_map(world: World, tolerate: Any, count: int, percentage: float) -> None:
    answer = ready(world, {**LISTED, "tolerate": tolerate})

    assert (answer["tolerated_count"], answer["tolerated_percentage"]) == (count, percentage)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"script": "s3://evil/job.py"}, ScriptNotAllowedError, "evil"),
        ({"script": "s3://lake/scripts/none.py"}, PlanError, "not there"),
        ({"script": None}, EventError, "script"),
        ({"output": "clean"}, EventError, "output"),
        ({"output": "s3://lake/raw/out"}, EventError, "lies in the source"),
        ({"reader": "parquet"}, EventError, "s3-inventory"),
        ({"reader": None}, EventError, "reader"),
        ({"reader": "csv", "source": "s3://lake"}, EventError, "needs an object"),
        ({"source": None}, EventError, "source must be"),
        ({"items": ["s3://a/b"]}, EventError, "no items"),
        ({"reader": "items", "source": None, "items": []}, EventError, "empty"),
        ({"reader": "items", "items": ["s3://a/b"]}, EventError, "no source"),
        ({"batch_items": 0}, EventError, "at least 1"),
        ({"max_concurrency": 0}, EventError, "at least 1"),
        ({"run_id": "Not So"}, EventError, "run id"),
        ({"tolerate": "many"}, SparkletError, "many"),
        ({"batch_item": 3}, EventError, "batch_items"),
        ({"redo": "clean-1"}, EventError, "redo"),
    ],
)
def test_a_wrong_request_is_refused_by_the_name_of_its_key(
    world: World, change: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        ready(world, {**LISTED, **change})


# --- once more ---


def test_what_a_run_has_not_done_is_redone_to_the_same_places(world: World) -> None:
    first = ready(world, {**LISTED, "args": ["x"]})
    left = f"s3://{world.at.bucket}/runs/{first['run_id']}/unfinished.jsonl"
    world.store.put(world.at.run_uri(first["run_id"], "summary.json"), json.dumps({"Unfinished": left}).encode())

    again = ready(world, {"redo": first["run_id"], "tolerate": "1"}, "e-2")

    assert (again["how"], again["batch_items"]) == ("jsonl", 1)
    assert f"s3://{again['bucket']}/{again['key']}" == left
    before, after = job(world, first), job(world, again)
    assert (after.script, after.output_uri, after.args, after.bucket) == (
        before.script,
        before.output_uri,
        before.args,
        before.bucket,
    )
    assert (after.tolerated_failure_count, again["tolerated_count"]) == (1, 1)


def test_a_repaired_script_may_redo_it(world: World) -> None:
    first = ready(world, LISTED)
    world.store.put(world.at.run_uri(first["run_id"], "summary.json"), b'{"Unfinished": "s3://x/y.jsonl"}')
    world.store.put("s3://lake/scripts/better.py", b"print(2)\n")

    again = ready(world, {"redo": first["run_id"], "script": "s3://lake/scripts/better.py"}, "e-2")

    assert job(world, again).script.source_uri == "s3://lake/scripts/better.py"


@pytest.mark.parametrize("summary", [None, {"Unfinished": ""}])
def test_a_run_that_has_not_ended_or_left_nothing_is_not_redone(world: World, summary: Any) -> None:
    first = ready(world, LISTED)
    if summary is not None:
        world.store.put(world.at.run_uri(first["run_id"], "summary.json"), json.dumps(summary).encode())

    with pytest.raises(EventError, match=r"nothing undone|has ended"):
        ready(world, {"redo": first["run_id"]}, "e-2")
