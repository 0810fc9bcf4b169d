"""A worker records in a failed shard how the next check shall split it: by named inputs, or into halves."""

from dataclasses import replace
from typing import Any

import pytest

from sparklet.model import HALVES, MAX_NAMED, ShardState
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from tests.unit.worker.conftest import BUCKET, Behaviour, Bench, exits, reports, saw

OBJECTS = 100


def fails(bench: Bench, *files: str, **outcome: Any) -> Behaviour:
    """A script that writes a file, then fails with an error that names ``files``."""
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
def test_inputs_that_the_error_names_are_recorded_for_the_split(bench: Bench, files: list[str], split: str) -> None:
    (ref,) = bench.plan(objects=OBJECTS, isolate=True, max_attempts=1)
    bench.runner.behaviour = fails(bench, *files)

    response = bench.ask(ref)

    record = bench.record
    assert (record.state, record.split, record.attempts) == (ShardState.PENDING, split, 1)
    assert (record.error_class, record.error_message) == ("BadRecordException", "malformed (exit code 1)")
    # For a Map's child, which has no more to do.
    assert response == {"state": "PENDING", "by": "a check that splits it"}
    assert list(bench.store.list(f"s3://{BUCKET}/staged/")) == []


def test_a_redriven_shard_is_not_split(bench: Bench) -> None:
    """The pieces would publish their output beside the shard's earlier output."""
    bench.attempt(bench.writes("part-0"), objects=OBJECTS, isolate=True, max_attempts=1)
    bench.redrive()
    bench.runner.behaviour = fails(bench, "s3://in/0-3.csv")

    bench.deliver()

    assert bench.failure == ("BadRecordException", "malformed (exit code 1)")
    assert [info.uri.rpartition("/")[2] for info in bench.store.list("s3://out/")] == ["part-0"]


def test_a_shard_whose_script_commits_directly_is_not_split(bench: Bench) -> None:
    bench.attempt(fails(bench, "s3://in/0-3.csv", direct=True), objects=OBJECTS, isolate=True, max_attempts=1)

    cause, message = bench.failure
    assert cause == "BadRecordException"
    assert message.startswith("not split, since its script commits at once and not by a staged write")


def test_a_shard_whose_script_committed_to_delta_is_not_split(bench: Bench) -> None:
    bench.runner.has_view = True

    def commits(call: ScriptCall, output: Output) -> ScriptResult:
        saw(call, "committed")  # as ``DeltaCommit`` does
        return fails(bench, "s3://in/0-3.csv")(call, output)

    bench.attempt(commits, objects=OBJECTS, isolate=True, max_attempts=1)

    assert bench.failure[1].startswith("not split, since its script commits at once")


def test_a_piece_of_a_split_shard_gets_its_origins_commit_ids(bench: Bench) -> None:
    bench.plan(objects=OBJECTS)
    name, record = "split-000007-000003-1.jsonl", bench.record
    line = bench.store.get(f"s3://{BUCKET}/runs/run-1/plan/{record.part}")
    bench.store.put(f"s3://{BUCKET}/runs/run-1/plan/{name}", line)
    bench.ledger.put(replace(record, part=name, error_class="LeaseExpired"))

    lines = writer_lines(bench)

    identity = bench.ledger.runs.get("run-1").identity
    assert lines[0].startswith(f"{identity}/0/{bench.record.attempt_id}/")
    assert lines[2:] == [f"{identity}/0/", f"{identity}/7/"]


def test_a_redriven_shard_gets_its_own_commit_ids(bench: Bench) -> None:
    """So a plain append to Delta fails by name, as after a lost attempt; the event has ``redone``."""
    bench.plan()
    assert len(writer_lines(bench)) == 2
    bench.redrive()

    assert writer_lines(bench)[2:] == [f"{bench.ledger.runs.get('run-1').identity}/0/"]
    assert bench.runner.event()["sparklet"]["redone"] is True


def writer_lines(bench: Bench) -> list[str]:
    """The lines that ``DeltaCommit`` reads: the attempt's id, its time, and the ids of earlier writers."""
    lines = list[str]()

    def reads(call: ScriptCall, output: Output) -> ScriptResult:
        lines.extend((call.work_dir.parent / "writer").read_text().split("\n"))
        return ScriptResult(0)

    bench.runner.behaviour = reads
    bench.runner.has_view = True
    bench.deliver()
    return lines


def test_the_event_of_a_split_off_shard_has_split_off(bench: Bench) -> None:
    """A failure with the error for which the shard was split off is not repeated."""
    bench.plan(objects=OBJECTS, isolate=True)
    name, record = "split-000000-000000-1.jsonl", bench.record
    line = bench.store.get(f"s3://{BUCKET}/runs/run-1/plan/{record.part}")
    bench.store.put(f"s3://{BUCKET}/runs/run-1/plan/{name}", line)
    bench.ledger.put(replace(record, part=name, error_class="BadRecordException"))
    bench.runner.behaviour = fails(bench)

    assert bench.deliver().acknowledged

    assert bench.record.split == HALVES
    assert bench.runner.event()["sparklet"]["split_off"] is True
