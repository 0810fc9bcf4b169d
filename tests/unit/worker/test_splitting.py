"""What a worker leaves of an attempt at a shard that is to be split, for the check that splits it."""

from dataclasses import replace
from typing import Any

import pytest

from sparklet.model import HALVES, MAX_NAMED, ShardState
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from tests.unit.worker.conftest import BUCKET, Behaviour, Bench, exits, reports, saw

OBJECTS = 100


def fails(bench: Bench, *files: str, **outcome: Any) -> Behaviour:
    """A script that writes, and fails with the names of these files."""
    failing = exits(1, "BadRecordException", "malformed", files=files)
    return bench.writes("part-0", then=reports(outcome, failing))


@pytest.mark.parametrize(
    ("files", "split"),
    [
        (["s3://in/0-3.csv"], "3"),
        (["s3a://in/0-3.csv", "s3://in/0.csv"], "0 3"),
        (["s3://elsewhere/x.csv"], HALVES),
        (["s3://in/0-3.csv", "s3://elsewhere/x.csv"], HALVES),
        ([f"s3://in/0-{place}.csv" for place in range(1, 1 + MAX_NAMED)], " ".join(map(str, range(1, 1 + MAX_NAMED)))),
        ([f"s3://in/0-{place}.csv" for place in range(1, 2 + MAX_NAMED)], HALVES),
        ([], HALVES),
    ],
)
def test_the_inputs_that_are_named_are_recorded(bench: Bench, files: list[str], split: str) -> None:
    (ref,) = bench.plan(objects=OBJECTS, isolate=True, max_attempts=1)
    bench.runner.behaviour = fails(bench, *files)

    response = bench.ask(ref)

    record = bench.record
    assert (record.state, record.split, record.attempts) == (ShardState.PENDING, split, 1)
    assert (record.error_class, record.error_message) == ("BadRecordException", "malformed (exit code 1)")
    assert response == {"state": "PENDING", "by": "a check that splits it"}  # of a Map's child, which is done
    assert list(bench.store.list(f"s3://{BUCKET}/staged/")) == []


def test_a_shard_that_is_done_again_is_kept_whole(bench: Bench) -> None:
    """The pieces would publish beside its earlier output."""
    bench.attempt(bench.writes("part-0"), objects=OBJECTS, isolate=True, max_attempts=1)
    bench.redrive()
    bench.runner.behaviour = fails(bench, "s3://in/0-3.csv")

    bench.deliver()

    assert bench.failure == ("BadRecordException", "malformed (exit code 1)")
    assert [info.uri.rpartition("/")[2] for info in bench.store.list("s3://out/")] == ["part-0"]


def test_a_script_that_commits_at_once_keeps_its_shard_whole(bench: Bench) -> None:
    bench.attempt(fails(bench, "s3://in/0-3.csv", direct=True), objects=OBJECTS, isolate=True, max_attempts=1)

    cause, message = bench.failure
    assert cause == "BadRecordException"
    assert message.startswith("not split, since its script commits at once and not by a staged write")


def test_a_script_that_committed_a_table_keeps_its_shard_whole(bench: Bench) -> None:
    bench.runner.has_view = True

    def commits(call: ScriptCall, output: Output) -> ScriptResult:
        saw(call, "committed")  # as ``DeltaCommit`` does
        return fails(bench, "s3://in/0-3.csv")(call, output)

    bench.attempt(commits, objects=OBJECTS, isolate=True, max_attempts=1)

    assert bench.failure[1].startswith("not split, since its script commits at once")


def test_a_split_shard_knows_the_commits_of_its_origin(bench: Bench) -> None:
    bench.plan(objects=OBJECTS)
    name, record = "split-000007-000003-1.jsonl", bench.record
    line = bench.store.get(f"s3://{BUCKET}/runs/run-1/plan/{record.part}")
    bench.store.put(f"s3://{BUCKET}/runs/run-1/plan/{name}", line)
    bench.ledger.put(replace(record, part=name, error_class="LeaseExpired"))

    told = told_writers(bench)

    identity = bench.ledger.runs.get("run-1").identity
    assert told[0].startswith(f"{identity}/0/{bench.record.attempt_id}/")
    assert told[2:] == [f"{identity}/0/", f"{identity}/7/"]


def test_a_shard_that_is_done_again_knows_its_commits(bench: Bench) -> None:
    """A plain append to Delta fails by name then, as after a lost attempt; and the script is told."""
    bench.plan()
    assert len(told_writers(bench)) == 2
    bench.redrive()

    assert told_writers(bench)[2:] == [f"{bench.ledger.runs.get('run-1').identity}/0/"]
    assert bench.runner.event()["sparklet"]["redone"] is True


def told_writers(bench: Bench) -> list[str]:
    """What ``DeltaCommit`` is told: the attempt's own id, since when, and whose commits may be there."""
    told = list[str]()

    def reads(call: ScriptCall, output: Output) -> ScriptResult:
        told.extend((call.work_dir.parent / "writer").read_text().split("\n"))
        return ScriptResult(0)

    bench.runner.behaviour = reads
    bench.runner.has_view = True
    bench.deliver()
    return told


def test_a_script_knows_that_its_shard_was_split_off(bench: Bench) -> None:
    """Its failure needs no repetition if it is the one for which the shard was split off."""
    bench.plan(objects=OBJECTS, isolate=True)
    name, record = "split-000000-000000-1.jsonl", bench.record
    line = bench.store.get(f"s3://{BUCKET}/runs/run-1/plan/{record.part}")
    bench.store.put(f"s3://{BUCKET}/runs/run-1/plan/{name}", line)
    bench.ledger.put(replace(record, part=name, error_class="BadRecordException"))
    bench.runner.behaviour = fails(bench)

    assert bench.deliver().acknowledged

    assert bench.record.split == HALVES
    assert bench.runner.event()["sparklet"]["split_off"] is True
