"""Batches of objects that a Map state read by itself, without planner and ledger."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparklet.clock import SystemClock
from sparklet.errors import BatchNotDoneError, EventError, ScratchFullError, SettingsError
from sparklet.events import Outcome, answer
from sparklet.fanout.inventory import found
from sparklet.job import Job
from sparklet.model import BATCH, BatchRef, ObjectsJob, ScriptRef
from sparklet.worker import batches
from sparklet.worker.batches import BatchDesk, batch_of
from sparklet.worker.runner import Output, ScriptCall, ScriptResult
from tests.unit.worker.conftest import BUCKET, SCRIPT, Bench

JOB_URI = f"s3://{BUCKET}/runs/clean-1/objects.json"
DIGEST = hashlib.sha256(SCRIPT).hexdigest()
JOB = ObjectsJob(
    run_id="clean-1",
    script=ScriptRef(f"s3://{BUCKET}/runs/clean-1/script/{DIGEST}/job.py", DIGEST, "s3://mine/job.py"),
    output_uri="s3://out/clean/",
    reader="s3-list",
    source_uri="s3://in/raw/",
    args=("--level", "3"),
    params={"k": 1},
    bucket="in",
)
LISTED = {"Etag": '"e"', "Key": "raw/a.csv", "LastModified": 1668699881, "Size": 10, "StorageClass": "STANDARD"}
INVENTORIED = {"Bucket": "in", "Key": "raw/a+b%2B.csv", "LastModifiedDate": "2022-11-16T00:29:32.000Z", "Size": "10"}


@pytest.fixture
def desk(bench: Bench) -> Bench:
    bench.store.put(JOB.script.uri, SCRIPT)
    bench.store.put(JOB_URI, JOB.to_document())
    worker = bench.worker
    worker.batches = BatchDesk(bench.store, worker.scripts, BUCKET, worker.execute, SystemClock())
    return bench


def told(batch: Any) -> dict[str, Any]:
    return {"sparklet": {BATCH: batch}}


def one(bench: Bench, *items: Any) -> Outcome:
    (outcome,) = bench.invoke(told({"job": JOB_URI, "items": list(items)}))
    return outcome


def uris(items: Sequence[Any], job: ObjectsJob = JOB) -> list[str]:
    return [item.uri for item in batch_of(BatchRef(JOB_URI, tuple(items), len(items)), job).objects]


# --- what a script sees ---


def test_a_script_sees_of_a_batch_what_it_sees_of_a_shard(desk: Bench) -> None:
    desk.store.put("s3://in/raw/b*.csv", b"1\n")
    seen: list[str] = []

    def read(call: ScriptCall, output: Output) -> ScriptResult:
        seen.append(Path(Job.from_args(call.args, {}).inputs[1].removeprefix("file://")).read_text())
        return ScriptResult(0)

    desk.runner.behaviour = read

    outcome = one(desk, LISTED, {**LISTED, "Key": "raw/b*.csv"})

    assert outcome.error is None
    call = desk.runner.calls[0]
    job = Job.from_args(call.args, {})
    assert (job.run_id, job.params, job.args) == ("clean-1", {"k": 1}, ("--level", "3"))
    assert job.inputs[0] == "s3://in/raw/a.csv" and job.exact_names
    assert seen == ["1\n"]  # Spark would read other names by that one: it is fetched, as in a shard
    assert job.output == f"s3://out/clean/batch=clean-1_{outcome.answer['batch']}"
    assert call.script.name == "job.py"


def test_another_attempt_writes_to_the_same_place_and_another_batch_to_another(desk: Bench) -> None:
    first, again, other = one(desk, LISTED), one(desk, LISTED), one(desk, {**LISTED, "Key": "raw/b.csv"})

    assert first.answer["batch"] == again.answer["batch"] != other.answer["batch"]
    assert first.answer["batch"][0].isalpha()


@pytest.mark.parametrize(
    "batch",
    [
        {"job": JOB_URI, "items": [LISTED]},
        {"job": JOB_URI, "item": LISTED},  # a Distributed Map whose ItemBatcher was ignored
        {"BatchInput": {"job": JOB_URI}, "Items": [{"job": JOB_URI, "item": LISTED}]},
        {"job": JOB_URI, "item": {BATCH: [LISTED]}},  # a line of unfinished.jsonl
    ],
)
def test_batches_come_in_every_form_that_a_map_gives_them(desk: Bench, batch: dict[str, Any]) -> None:
    (outcome,) = desk.invoke(told(batch))

    assert outcome.answer["state"] == "SUCCEEDED"
    assert desk.runner.event()["inputs"] == ["s3://in/raw/a.csv"]
    assert outcome.answer["items"] == 1


def test_an_item_is_an_address_or_an_object_with_one(desk: Bench) -> None:
    assert uris(["s3://in/x.csv", {"uri": "s3://in/y.csv"}, {"Bucket": "other", "Key": "z"}]) == [
        "s3://in/x.csv",
        "s3://in/y.csv",
        "s3://other/z",
    ]
    assert uris([{"where": "in/x", "key": "y"}], replace(JOB, path="where")) == ["s3://in/x"]


def test_keys_of_an_inventory_are_decoded_and_those_of_a_list_are_not() -> None:
    assert uris([INVENTORIED], replace(JOB, encoded_keys=True)) == ["s3://in/raw/a b+.csv"]
    assert uris([INVENTORIED]) == ["s3://in/raw/a+b%2B.csv"]


def test_what_is_not_read_is_counted_by_the_planners_reasons() -> None:
    items = [
        LISTED,
        LISTED,
        {**LISTED, "Key": "raw/folder/", "Size": 0},
        {**LISTED, "Key": "raw/empty.csv", "Size": 0},
        {**INVENTORIED, "IsDeleteMarker": "true"},
        {**INVENTORIED, "IsLatest": "false"},
    ]

    batch = batch_of(BatchRef(JOB_URI, tuple(items), len(items)), JOB)

    assert [item.uri for item in batch.objects] == ["s3://in/raw/a.csv"]
    reasons = ("DUPLICATE", "FOLDER_MARKER", "EMPTY", "DELETE_MARKER", "NOT_LATEST")
    assert batch.left_out == {getattr(found, name): 1 for name in reasons}
    assert all(getattr(found, name) == getattr(batches, name) for name in reasons)


def test_a_batch_of_nothing_to_read_runs_no_script(desk: Bench) -> None:
    outcome = one(desk, {**LISTED, "Key": "raw/folder/", "Size": 0})

    assert (outcome.answer["state"], outcome.answer["objects"]) == ("SUCCEEDED", 0)
    assert desk.runner.calls == []


# --- how its end is told ---


def test_what_no_attempt_can_help_is_answered_with_the_scripts_own_cause(desk: Bench) -> None:
    desk.runner.behaviour = fails("AnalysisException", "no such column")

    outcome = one(desk, LISTED)

    assert outcome.error is None
    assert (outcome.answer["state"], outcome.answer["error"]) == ("FAILED", "AnalysisException")
    assert outcome.answer["cause"].startswith("no such column")


def test_what_may_pass_is_raised_so_that_the_state_machine_tries_again(desk: Bench) -> None:
    desk.runner.behaviour = fails("ValueError", "S3 was busy")
    event = told({"job": JOB_URI, "items": [LISTED]})

    outcomes = desk.invoke(event)

    with pytest.raises(BatchNotDoneError, match=r"^ValueError: S3 was busy"):
        answer(event, outcomes)


def test_what_is_raised_or_answered_fits_into_a_state(desk: Bench) -> None:
    for cause_class in ("AnalysisException", "ValueError"):
        desk.runner.behaviour = fails(cause_class, "ä" * 100_000)

        outcome = one(desk, LISTED)

        assert len((str(outcome.error or "") + json.dumps(dict(outcome.answer), ensure_ascii=False)).encode()) < 2_000


def test_a_full_scratch_space_is_raised(desk: Bench) -> None:
    def full(call: ScriptCall, output: Output) -> ScriptResult:
        raise ScratchFullError("full")

    desk.runner.behaviour = full
    assert str(one(desk, LISTED).error) == "ScratchFullError: full"


def test_an_item_that_names_no_object_fails_its_batch_and_is_named(desk: Bench) -> None:
    outcome = one(desk, LISTED, {"colour": "red"})

    assert outcome.answer["state"] == "FAILED"
    assert "item 2 of 2" in outcome.answer["cause"] and "colour" in outcome.answer["cause"]
    assert desk.runner.calls == []


@pytest.mark.parametrize(
    "batch",
    [[], "x", {}, {"job": JOB_URI}, {"job": JOB_URI, "items": []}, {"job": 7, "item": 1}, {"items": ["s3://a/b"]}],
)
def test_what_is_meant_to_be_a_batch_and_is_none_is_refused(desk: Bench, batch: Any) -> None:
    (outcome,) = desk.invoke(told(batch))

    assert isinstance(outcome.error, EventError)
    assert desk.runner.calls == []


@pytest.mark.parametrize("uri", ["s3://evil/runs/x/objects.json", f"s3://{BUCKET}/output/objects.json"])
def test_a_job_is_read_from_the_stacks_own_runs_only(desk: Bench, uri: str) -> None:
    desk.store.put(uri, JOB.to_document())

    (outcome,) = desk.invoke(told({"job": uri, "items": [LISTED]}))

    assert "runs/" in outcome.answer["cause"]
    assert desk.runner.calls == []


def test_a_jobs_script_must_be_an_allowed_one(desk: Bench) -> None:
    evil = replace(JOB, script=replace(JOB.script, uri="s3://evil/job.py"))
    desk.store.put(JOB_URI, evil.to_document())

    assert one(desk, LISTED).answer["error"] == "ScriptNotAllowedError"


def test_a_worker_without_a_bucket_says_so(desk: Bench) -> None:
    desk.worker.batches = None

    assert isinstance(one(desk, LISTED).error, SettingsError)


def test_a_job_survives_its_file() -> None:
    assert ObjectsJob.from_document(JOB.to_document()) == JOB
    with pytest.raises(EventError, match=r"objects\.json"):
        ObjectsJob.from_document(b'{"run_id": 1}')


def fails(cause_class: str, cause: str) -> Any:
    return lambda call, output: ScriptResult(1, cause_class=cause_class, cause=cause)
