"""Writes to tables that a script declares are stored before the attempt wins, and are not published as output."""

import json
from typing import Any

import pytest

from sparklet.errors import EventError
from sparklet.job import Job
from sparklet.model import ShardState
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from tests.unit.worker.conftest import BUCKET, Bench, exits, raises, reports
from tests.world import KilledError

STAGED = f"s3://{BUCKET}/staged/run-1/"
WRITES = f"s3://{BUCKET}/runs/run-1/writes/"
DECLARED = [{"table": "delta:s3://t", "files": [["a.parquet", 3]]}]
DECLARES = {"rows": 3, "writes": DECLARED}


def below(bench: Bench, folder: str) -> dict[str, bytes]:
    return {info.uri.removeprefix(folder): bench.store.get(info.uri) for info in bench.store.list(folder)}


def test_declared_writes_are_stored_and_the_attempt_wins(bench: Bench) -> None:
    assert bench.attempt(reports(DECLARES)).error is None

    record = bench.record
    assert (record.state, record.winner, record.rows) == (ShardState.SUCCEEDED, record.attempt_id, 3)
    ((name, body),) = below(bench, WRITES).items()
    assert name == f"000000000-{record.winner}.json" and record.writes_file == f"writes/{name}"
    assert json.loads(body) == {"shard": 0, "attempt": record.winner, "writes": DECLARED}


def test_a_shard_without_declared_writes_has_no_winner(bench: Bench) -> None:
    assert bench.attempt().error is None

    assert bench.record.winner == "" and below(bench, WRITES) == {}


def test_staged_change_files_are_neither_published_nor_deleted(bench: Bench) -> None:
    script = bench.writes("part-0", "_changes/1/a.parquet", "deep/_changes/b", then=reports(DECLARES))
    assert bench.attempt(script).error is None

    run, winner = bench.ledger.runs.get("run-1"), bench.record.winner
    assert below(bench, f"{run.shard_output(0)}/") == {"part-0": b"rows", "deep/_changes/b": b"rows"}
    assert below(bench, STAGED) == {f"000000-{winner}/_changes/1/a.parquet": b"rows"}


def test_a_failed_attempt_leaves_no_staged_changes_or_writes(bench: Bench) -> None:
    bench.attempt(bench.writes("_changes/1/a.parquet", then=reports(DECLARES, exits(1))))

    assert below(bench, STAGED) == {} == below(bench, WRITES)


@pytest.mark.parametrize("names", [(), ("_changes/1/a.parquet",), ("part-0",)])
def test_an_attempt_after_a_lost_winner_runs_no_script(
    bench: Bench, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A winner that only declared writes has no staged file to publish; this is no error."""
    (ref,) = bench.plan()
    bench.runner.behaviour = bench.writes(*names, then=reports(DECLARES))

    with monkeypatch.context() as patch:
        patch.setattr(bench.ledger.attempts, "succeed", raises(KilledError()))
        with pytest.raises(KilledError):
            bench.deliver()
    winner = bench.record.winner
    bench.let_the_lease_end()
    bench.queue.send([ref.to_body()])

    assert bench.deliver().error is None

    record = bench.record
    assert (record.state, record.winner) == (ShardState.SUCCEEDED, winner) and record.attempt_id != winner
    assert len(bench.runner.calls) == 1 and record.writes_file == f"writes/000000000-{winner}.json"


def test_an_outcome_whose_writes_are_no_objects_is_refused(bench: Bench) -> None:
    bench.attempt(reports({"writes": [7]}))

    assert bench.record.error_class == "EventError"


# --- a shard's event that came as a task: no run claims the shard, so no run commits its writes ---

EVENT = {  # as in docs/schemas/event.json, and as a log or job.event shows it
    "sparklet": {"run": "flights-1", "identity": "flights-1_18b", "shard": 7, "attempt": "a", "generation": 0},
    "inputs": ["s3://data/in/7.csv"],
    "input_path": "s3://data/in/7.csv",
    "output_path": "s3://data/debug",
    "params": {},
    "table": "delta:s3://lake/t",
}


def test_an_append_in_a_task_is_refused_since_no_run_commits_it(bench: Bench) -> None:
    def append(call: ScriptCall, output: Output) -> ScriptResult:
        frame: Any = None  # the refusal comes before the frame is used
        with pytest.raises(EventError, match="commit='direct'") as refused:
            Job.from_args(list(call.args), call.env).append(frame)
        return exits(1, "EventError", str(refused.value))(call, output)

    bench.runner.behaviour = append
    (outcome,) = bench.invoke(EVENT)

    assert outcome.error is not None


def test_a_task_that_has_staged_a_write_fails(bench: Bench) -> None:
    write = {"table": "delta:s3://lake/t", "folder": "s3://lake/t/x", "files": []}
    bench.runner.behaviour = reports({"rows": 1000, "writes": [write]})
    (outcome,) = bench.invoke(EVENT)

    assert isinstance(outcome.error, EventError) and "only a run commits" in str(outcome.error)
