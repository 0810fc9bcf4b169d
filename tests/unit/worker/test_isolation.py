"""A shard whose bad inputs are looked for: trials in one invocation, which leave nothing behind."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparklet.errors import LeaseLostError, ObjectNotFoundError, ShardNotDoneError
from sparklet.events import answer
from sparklet.job.outcome import EVENT, OUTCOME_FILE
from sparklet.model import Access, InputObject, ShardRecord, ShardState, Slice, SliceKind
from sparklet.spark.runner import Output, ScriptCall, ScriptResult
from sparklet.spark.task_limits import Deadline
from sparklet.worker import attempt
from sparklet.worker.staging import Staging, described
from tests.unit.worker.conftest import BUCKET, Behaviour, Bench
from tests.waiting import deadline_s

OBJECTS, SHORT_S = 10, 0.1
OF_FIRST_HALF = [f"s3://in/0{'-' * bool(n)}{n or ''}.csv" for n in range(5)]


def fails_on(bench: Bench, *bad: str, files: tuple[str, ...] = (), spends_s: float = 0.0) -> Behaviour:
    """A script that writes, answers and declares, and fails if one of its inputs is bad."""

    def behaviour(call: ScriptCall, output: Output) -> ScriptResult:
        event = bench.runner.event()
        bench.store.put(f"{event['output_path']}/part-0", b"rows")
        folder = f"s3://lake/t/{event['sparklet']['attempt']}"
        bench.store.put(f"{folder}/part-0", b"rows")
        write = {"table": "delta:s3://lake/t", "mode": "append", "folder": folder, "files": [["part-0", 4]]}
        Path(call.env[OUTCOME_FILE]).write_text(json.dumps({"rows": 1, "answer": 7, "writes": [write]}))
        call.deadline.guard_s -= spends_s
        if any(uri in bad for uri in event["inputs"]):
            return ScriptResult(1, "", "BadRecordException", "malformed", files=files)
        return ScriptResult(0)

    return behaviour


def the_shard(bench: Bench) -> ShardRecord:
    return bench.ledger.shards.get("run-1", 0)


def left(bench: Bench, folder: str) -> list[str]:
    return [info.uri for info in bench.store.list(f"s3://{BUCKET}/{folder}")]


def events(bench: Bench) -> list[Any]:
    return [json.loads(call.env[EVENT]) for call in bench.runner.calls]


def test_trials_follow_each_other_in_one_invocation(bench: Bench) -> None:
    bench.plan(objects=OBJECTS, isolate=True, max_attempts=1)
    bench.runner.behaviour = fails_on(bench, "s3://in/0-7.csv")

    outcome = bench.deliver()

    record = the_shard(bench)
    assert outcome.acknowledged
    assert (record.state, record.settled, record.rows) == (ShardState.RUNNING, True, 1)
    assert record.bad == ((7, "BadRecordException", "malformed (exit code 1)"),)
    done = [len(event["inputs"]) for event in events(bench)]
    assert (done[0], done[1], done[-1]) == (OBJECTS, OBJECTS // 2, OBJECTS - 1)
    assert events(bench)[1]["inputs"] == OF_FIRST_HALF
    assert [bool(event["sparklet"].get("isolating")) for event in events(bench)] == [False] + [True] * (len(done) - 1)


def test_trials_leave_nothing_behind(bench: Bench) -> None:
    bench.plan(objects=OBJECTS, isolate=True, max_attempts=1)
    bench.runner.behaviour = fails_on(bench, "s3://in/0-7.csv")

    bench.deliver()

    winner = the_shard(bench).winner
    assert winner == events(bench)[-1]["sparklet"]["attempt"]
    assert left(bench, "staged/") == []
    assert [winner in uri for uri in (*left(bench, "runs/run-1/answers/"), *left(bench, "runs/run-1/writes/"))] == [
        True,
        True,
    ]
    assert len(list(bench.store.list("s3://out/x/"))) == 1
    succeeded = [event["sparklet"]["attempt"] for event in events(bench) if "s3://in/0-7.csv" not in event["inputs"]]
    kept = [info.uri for info in bench.store.list("s3://lake/t/")]
    assert [uri for uri in kept if any(attempt in uri for attempt in succeeded)] == [f"s3://lake/t/{winner}/part-0"]


@pytest.mark.parametrize(("params", "calls"), [({"schema": "id INT"}, 2), ({}, 3)])
@pytest.mark.parametrize("name", ["s3://in/0-3.csv", "s3a://in/0-3.csv"])
def test_a_named_input_needs_no_trial(bench: Bench, name: str, params: dict[str, Any], calls: int) -> None:
    """But the one that shows, without a schema, that it fails alone, too."""
    bench.params = params
    bench.plan(objects=OBJECTS, isolate=True, max_attempts=1)
    bench.runner.behaviour = fails_on(bench, "s3://in/0-3.csv", files=(name,))

    bench.deliver()

    assert [place for place, *_ in the_shard(bench).bad] == [3]
    assert len(bench.runner.calls) == calls


def test_a_named_input_that_does_well_alone_is_not_blamed(bench: Bench) -> None:
    """Without a schema the first file gives the columns, and Spark names the good one, which differs."""
    bench.plan(objects=2, isolate=True, max_attempts=1)
    failed = ScriptResult(1, "", "SparkRuntimeException", "another header", files=("s3://in/0.csv",))
    bench.runner.behaviour = lambda call, output: failed if len(bench.runner.event()["inputs"]) > 1 else ScriptResult(0)

    bench.deliver()

    record = the_shard(bench)
    assert (record.state, record.error_class, record.bad) == (ShardState.FAILED, "IsolationError", ())
    assert "inputs that fail together succeed apart" in record.error_message
    assert "another header" in record.error_message


def test_a_name_that_is_no_input_names_nothing(bench: Bench) -> None:
    bench.plan(objects=OBJECTS, isolate=True, max_attempts=1)
    bench.runner.behaviour = fails_on(bench, "s3://in/0-3.csv", files=("s3://elsewhere/x.csv",))

    bench.deliver()

    assert [place for place, *_ in the_shard(bench).bad] == [3]
    assert len(bench.runner.calls) > 2


def test_only_what_no_attempt_repairs_is_isolated(bench: Bench) -> None:
    bench.plan(objects=OBJECTS, isolate=True)
    bench.runner.behaviour = fails_on(bench, "s3://in/0-3.csv")

    bench.deliver()

    assert (the_shard(bench).attempts, the_shard(bench).bad, the_shard(bench).trial) == (1, (), ())


def test_without_half_of_the_time_the_message_comes_back(bench: Bench) -> None:
    bench.plan(objects=OBJECTS, isolate=True, max_attempts=1)
    bench.runner.behaviour = fails_on(bench, "s3://in/0-7.csv", spends_s=400)

    outcome = bench.deliver()

    assert not outcome.acknowledged
    assert (the_shard(bench).bad, the_shard(bench).trial) == ((), (0, 5))
    for _ in range(6):
        if (message := next(iter(bench.queue.receive(1)), None)) is not None:
            bench.deliver(message)
    assert the_shard(bench).settled


def test_a_late_renewal_does_not_stop_the_next_attempt(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a renewal that the ledger answers only once the attempt has given its shard away, THEN it is refused."""
    assert bench.worker.shards is not None
    bench.plan(objects=OBJECTS, isolate=True, max_attempts=1)
    bench.worker.shards = replace(bench.worker.shards, lease_s=SHORT_S)
    fails, isolate, renew = (
        fails_on(bench, "s3://in/0-7.csv"),
        bench.ledger.attempts.isolate,
        bench.ledger.attempts.renew,
    )
    renewing, given_away, refused = threading.Event(), threading.Event(), list[LeaseLostError]()

    def run(call: ScriptCall, output: Output) -> ScriptResult:
        assert renewing.wait(deadline_s())
        return fails(call, output)

    def late(*of: Any) -> None:
        renewing.set()
        assert given_away.wait(deadline_s())
        try:
            renew(*of)
        except LeaseLostError as error:
            refused.append(error)
            raise

    def isolated(*found: Any) -> None:
        isolate(*found)
        given_away.set()
        for thread in threading.enumerate():
            if thread.name == "lease":
                thread.join(deadline_s())

    monkeypatch.setattr(attempt, "RENEWAL_ENDS_WITHIN_S", 0)
    monkeypatch.setattr(bench.ledger.attempts, "isolate", isolated)
    monkeypatch.setattr(bench.ledger.attempts, "renew", late)
    bench.runner.behaviour = run

    assert bench.deliver().acknowledged
    assert the_shard(bench).settled and refused


def test_a_maps_child_says_that_it_is_not_done(bench: Bench) -> None:
    (ref,) = bench.plan(objects=OBJECTS, isolate=True, max_attempts=1)
    bench.runner.behaviour = fails_on(bench, "s3://in/0-7.csv", spends_s=400)

    event = json.loads(ref.to_body())

    with pytest.raises(ShardNotDoneError):
        answer(event, bench.invoke(event))


def test_an_input_that_cannot_be_fetched_is_named(bench: Bench, tmp_path: Path) -> None:
    cut = [InputObject("s3://in/gone.csv", 10, "e", slice=Slice(SliceKind.LINES, n, n + 5)) for n in (0, 5)]
    staging = Staging(tuple(cut), Access(), bench.store)

    with pytest.raises(ObjectNotFoundError) as raised:
        staging.fetch(tmp_path, Deadline.within(60), 0)

    assert raised.value.files == (described(cut[0]),)
