"""Manifests use Step Functions' names, agree with the ledger, and are the same bytes for the same ledger."""

import json
from dataclasses import replace

import pytest

from sparklet.model import Counts, Failure, RunState, ShardRecord, ShardResult, ShardState
from sparklet.runs.manifest import write_manifests
from sparklet.runs.summary import MAX_CAUSES, OTHER_CAUSES, Summary, summarize
from tests.world import BUCKET, World, all_but


def outcome(number: int) -> ShardResult | Failure:
    if number % 3 == 2:
        return Failure("ValueError", f"bad line in {number}", retryable=False)
    return ShardResult(rows=10 * number, output_bytes=100, outputs=(f"s3://data/out/shard={number:06d}",))


def test_the_files_that_a_manifest_names_have_each_shard_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparklet.runs.manifest.SHARDS_PER_FILE", 2)
    run = world.run(8)
    world.work(outcome)

    summary = write_manifests(world.deployment, run, RunState.FAILED)

    manifest = world.json("manifest.json")
    assert manifest["DestinationBucket"] == BUCKET
    shards: dict[str, list[int]] = {"SUCCEEDED": [], "FAILED": [], "PENDING": []}
    for name, files in manifest["ResultFiles"].items():
        assert len(files) == {"SUCCEEDED": 3, "FAILED": 1, "PENDING": 0}[name]
        for file in files:
            body = world.store.get(f"s3://{BUCKET}/{file['Key']}")
            assert len(body) == file["Size"]
            shards[name] += [entry["Shard"] for entry in json.loads(body)]
    assert shards == {"SUCCEEDED": [0, 1, 3, 4, 6, 7], "FAILED": [2, 5], "PENDING": []}
    ended = manifest["run"]
    assert ended["state"] == "FAILED"
    assert ended["counts"] == {"pending": 0, "running": 0, "succeeded": 6, "failed": 2, "total": 8}
    assert (ended["rows"], ended["output_bytes"], ended["input_bytes"]) == (210, 600, 80)
    assert ended["causes"] == [{"class": "ValueError", "count": 2, "example_shard": 2, "message": "bad line in 2"}]
    assert summary.counts == Counts(succeeded=6, failed=2)


def test_an_entry_has_the_keys_of_step_functions_and_of_sparklet(world: World) -> None:
    run = world.run(3)
    owner, _ = world.take()
    world.clock.advance(2.5)
    world.ledger.attempts.succeed("run-1", 0, owner, ShardResult(7, 70, ("s3://data/out/shard=000000",)))
    world.work(all_but(2))
    write_manifests(world.deployment, run, RunState.FAILED)

    entry = world.json("SUCCEEDED_0.json")[0]
    assert json.loads(entry.pop("Input"))["shard"] == 0
    assert json.loads(entry.pop("Output")) == {"rows": 7, "output_bytes": 70, "outputs": ["s3://data/out/shard=000000"]}
    assert entry == {
        "Name": "000000",
        "Status": "SUCCEEDED",
        "InputDetails": {"Included": True},
        "OutputDetails": {"Included": True},
        "RedriveCount": 0,
        "RedriveStatus": "NOT_REDRIVABLE",
        "StartDate": "2023-11-14T22:13:20.000Z",
        "StopDate": "2023-11-14T22:13:22.500Z",
        "Shard": 0,
        "Attempts": 1,
        "AttemptId": owner,
        "Objects": 1,
        "InputBytes": 10,
        "OutputBytes": 70,
        "Rows": 7,
        "DurationSeconds": 2.5,
        "LogStream": "",
        "Engine": "",
    }
    failed = world.json("FAILED_0.json")[0]
    assert (failed["Error"], failed["Cause"], failed["RedriveStatus"]) == ("ValueError", "bad", "REDRIVABLE")
    assert "Output" not in failed


def test_running_shards_are_listed_as_pending(world: World) -> None:
    run = world.run(2)
    world.take()
    write_manifests(world.deployment, run, RunState.FAILED)
    pending = world.json("PENDING_0.json")
    assert [entry["Status"] for entry in pending] == ["PENDING", "PENDING"]
    assert "StopDate" not in pending[0] and "StartDate" not in pending[1]


def test_the_same_ledger_gives_the_same_bytes(world: World) -> None:
    run = world.run(5)
    world.work(outcome)

    def files() -> dict[str, bytes]:
        write_manifests(world.deployment, run, RunState.FAILED)
        return {uri: world.store.get(uri) for uri in world.keys(world.deployment.run_uri("run-1"))}

    first = files()
    world.clock.advance(1000)
    assert files() == first


def test_manifest_files_of_an_earlier_end_are_removed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparklet.runs.manifest.SHARDS_PER_FILE", 2)
    run = world.run(6)
    world.work(all_but(*range(6)))
    write_manifests(world.deployment, run, RunState.FAILED)
    assert len(world.keys(world.deployment.run_uri("run-1", "FAILED_"))) == 3
    for number in range(6):
        assert world.ledger.attempts.redrive("run-1", number, 1)

    write_manifests(world.deployment, run, RunState.FAILED)

    assert world.keys(world.deployment.run_uri("run-1", "FAILED_")) == []
    assert len(world.keys(world.deployment.run_uri("run-1", "PENDING_"))) == 3


def test_a_summary_adds_up_the_shards_results(world: World) -> None:
    run = world.run(4)
    world.clock.advance(60)
    world.work(lambda n: ShardResult(rows=5) if n < 2 else ShardResult())

    summary = summarize(world.deployment, run)

    assert (summary.rows, summary.silent_shards, summary.output_bytes) == (10, 2, None)
    assert (summary.objects, summary.input_bytes, summary.attempts) == (4, 40, 4)
    assert summary.duration_s == 60.0
    assert summary.counts == Counts(succeeded=4)


def test_a_run_without_reports_has_unknown_rows_not_zero(world: World) -> None:
    run = world.run(1)
    assert summarize(world.deployment, run).rows is None


def test_a_summary_counts_causes_with_an_example_up_to_a_maximum() -> None:
    tally = Summary("r", RunState.FAILED, 0, 0.0, 0.0)
    names = ["Common" if number % 2 else f"Rare{number}" for number in range(2 * MAX_CAUSES)]
    for number, name in enumerate([*names, "OneMore"]):
        failed = ShardRecord("r", number, "p", 0, 1, 1, 1, state=ShardState.FAILED)
        tally.add(replace(failed, error_class=name, error_message=f"m{number}"))

    assert len(tally.all_causes) == MAX_CAUSES + 1
    assert tally.all_causes["Common"].count == MAX_CAUSES
    assert (tally.all_causes["Common"].example_shard, tally.all_causes["Common"].example_message) == (1, "m1")
    assert sum(cause.count for cause in tally.all_causes.values()) == 2 * MAX_CAUSES + 1
    assert tally.all_causes[OTHER_CAUSES].count == 2
