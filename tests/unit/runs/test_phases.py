"""Check runs decide how their run ends; next runs read the output of their run."""

import hashlib
import json
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest

from sparklet.app.clean import clean, ended_runs, folders_of, named_run
from sparklet.errors import PlanError, RunExistsError
from sparklet.model import NAMES, Dispatch, Failure, Run, RunKind, RunOptions, RunState, ShardResult, split_uri
from sparklet.model.redaction import HIDDEN
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.planning.request import read_request
from sparklet.runs import phases
from sparklet.runs.cancel import cancel
from sparklet.runs.checker import UNPLANNED_S, check
from sparklet.runs.manifest import runs_to_check
from sparklet.runs.phases import MIN_CHECK_S, NO_ANSWERS, TOO_MANY_FAILED
from sparklet.runs.redrive import redrive
from tests.stand_ins import memory_store
from tests.stand_ins.memory import MemoryEngine
from tests.unit.runs.conftest import once
from tests.world import BUCKET, LEASE_S, WELL, Do, World, all_but

CHECK, NEXT, NEXT_OUTPUT = "s3://data/jobs/check.py", "s3://data/jobs/next.py", "s3://data/next/"
WRONG = Failure("ExpectationError", "3 rows, at least 4 were expected", retryable=False)
FOLLOWED = {"check": CHECK, "next": NEXT, "next_output": NEXT_OUTPUT}


def start(world: World, shards: int = 3, options: dict[str, Any] | None = None, **changes: Any) -> Run:
    """Plan a run with a check and a next script, and seal the plan."""
    for uri in (CHECK, NEXT):
        world.store.put(uri, b"print()\n")
    world.put(shards)
    return world.plan(options=RunOptions(max_objects=1, **(options or {})), **{**FOLLOWED, **changes})


def followed(world: World, shards: int = 3, do: Do = WELL, **changes: Any) -> Run:
    """A run whose shards have ended, so that the checker has created its check or next run."""
    run = start(world, shards, **changes)
    world.work_and_check(do)
    return run


def put_outputs(world: World, run: Run, size_bytes: int = 10) -> list[str]:
    """Store a file for each shard, as its output. Return the addresses of the files."""
    uris = [f"{run.shard_output(record.number)}/part-0.parquet" for record in world.shards()]
    for uri in uris:
        world.store.put(uri, b"x" * size_bytes)
    return uris


def run_of(world: World, run_id: str) -> Run:
    return world.ledger.runs.get(run_id)


def ids(world: World) -> set[str]:
    return {run.run_id for run in world.ledger.runs.list()}


# --- the check run ---


def test_a_check_gets_the_runs_figures_as_its_only_input(world: World) -> None:
    """Secrets are redacted in the figures, but not in the check's own parameters."""
    given: dict[str, Any] = {"params": {"least": 4, "db_token": "of-a-param"}, "args": ("--password=of-an-arg",)}
    run = followed(world, do=all_but(1), options={"tolerated_failure_count": 1}, **given)

    (shard,) = world.planned("run-1-check-0")
    (item,) = shard.objects
    judge = run_of(world, "run-1-check-0")
    assert item.uri == world.deployment.run_uri("run-1", f"_summary-{run.identity}-0.json") == judge.inputs[0]
    assert judge.scripts == (run.check,) and judge.params == run.params == given["params"]
    figures = json.loads(world.store.get(item.uri))
    assert (figures["id"], figures["state"], figures["output"]) == (
        "run-1",
        "SUCCEEDED_WITH_FAILURES",
        "s3://data/out/",
    )
    assert figures["counts"] == {"pending": 0, "running": 0, "succeeded": 2, "failed": 1, "total": 3}
    assert (figures["rows"], figures["inputs"]) == (2, ["s3://data/in/"])
    assert (figures["params"], figures["args"]) == ({"least": 4, "db_token": HIDDEN}, [f"--password={HIDDEN}"])
    assert figures["causes"][0]["class"] == "ValueError"
    # a folder in which a worker can write without harm
    assert split_uri(judge.output_uri) == (BUCKET, "output/run-1-check-0/")


def test_a_runs_shards_are_not_recounted_during_its_check(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """``count`` reads all shards; ``glance`` reads the index, at a lower price, and suffices until the check has ended.

    The ledger in memory implements ``glance`` by ``count``, so both are replaced.
    """
    followed(world)
    count = world.ledger.shards.count
    monkeypatch.setattr(world.ledger.shards, "glance", count)
    monkeypatch.setattr(world.ledger.shards, "count", exact_count := Mock(side_effect=count))

    world.check()

    assert call("run-1") not in exact_count.mock_calls


def test_a_check_that_no_worker_runs_fails_at_its_own_time_limit(world: World) -> None:
    start(world, options={"time_limit_s": 1000.0})
    world.clock.advance(990)
    world.work_and_check()
    world.queue.entries.clear()
    world.clock.advance(MIN_CHECK_S - 1)
    assert world.check().run.state is RunState.RUNNING
    world.clock.advance(2)

    assert world.check().run.state is RunState.FAILED
    assert world.json("manifest.json")["run"]["check"]["error"]["class"] == "RunTimeLimit"


def test_a_check_that_is_cancelled_fails_the_run(world: World) -> None:
    followed(world)
    cancel(world.deployment, "run-1-check-0")

    assert world.check().run.state is RunState.FAILED
    assert world.json("manifest.json")["run"]["check"]["error"]["class"] == "RunCancelled"


def test_cancelling_a_run_cancels_its_check(world: World) -> None:
    followed(world)

    cancel(world.deployment, "run-1")
    check(world.deployment, "run-1-check-0")

    assert world.check().run.state is RunState.CANCELLED
    assert run_of(world, "run-1-check-0").state is RunState.CANCELLED
    assert ids(world) == {"run-1", "run-1-check-0"}


# --- the next run ---


def test_a_next_run_reads_the_output_of_its_run(world: World) -> None:
    run = start(world, check="", params={"k": 1}, dispatch=Dispatch.QUEUE)
    outputs = put_outputs(world, run)
    world.store.put(f"{run.shard_output(0)}/_SUCCESS", b"")
    world.store.put("s3://data/out/shard=000000/part-0.parquet", b"another tool's")
    world.store.put("s3://data/out/shard=run-1b_0_000000/part-0.parquet", b"another run's")

    assert world.work_and_check().run.state is RunState.SUCCEEDED
    follower = run_of(world, "run-1-next-0")
    assert (follower.parent, follower.inputs, follower.output_uri) == ("run-1", ("s3://data/out/",), NEXT_OUTPUT)
    assert run.next and follower.scripts == (run.next.script,) and follower.params == {"k": 1}
    assert world.json("manifest.json")["run"]["next_run_id"] == "run-1-next-0"
    plan(world.deployment, "run-1-next-0")
    assert world.taken("run-1-next-0") == outputs
    assert world.ledger.runs.followers(run_of(world, "run-1")) == {RunKind.NEXT: run_of(world, "run-1-next-0")}
    world.work()
    assert check(world.deployment, "run-1-next-0").run.state is RunState.SUCCEEDED


def fail_while_published(world: World, *numbers: int) -> None:
    """Let these shards fail after their scripts succeeded, while their output was being published."""
    for record in world.shards():
        if record.number in numbers:
            world.ledger.attempts.claim(record.ref, f"won-{record.number}", LEASE_S, 3)
            world.ledger.attempts.renew("run-1", record.number, f"won-{record.number}", LEASE_S, ShardResult(rows=1))
            world.ledger.attempts.fail("run-1", record.number, f"won-{record.number}", WRONG)


def test_a_next_run_does_not_read_half_published_output(world: World) -> None:
    first, _, last = put_outputs(world, start(world, check="", options={"tolerated_failure_count": 1}))
    fail_while_published(world, 1)
    world.work_and_check()

    plan(world.deployment, "run-1-next-0")

    assert world.taken("run-1-next-0") == [first, last]


@pytest.mark.parametrize("existing", ["append", "refuse"])
@pytest.mark.parametrize("has_failed", [True, False])
def test_a_next_run_reads_the_files_of_inputs(world: World, existing: str, has_failed: bool) -> None:
    options = {"output_per": "input", "existing": existing, "tolerated_failure_count": 1}
    run = start(world, check="", options=options)
    for number in range(3):
        names_file = f"{run.output_uri}{NAMES}{run.owner_prefix(number)}-a.json"
        world.store.put(names_file, json.dumps({f"{number}.parquet": 1}).encode())
        world.store.put(f"{run.output_uri}{number}.parquet", b"x")
    if existing == "append":
        world.store.put(f"{run.output_uri}theirs.parquet", b"x")
    if has_failed:
        fail_while_published(world, 1)
    world.work_and_check()

    plan(world.deployment, "run-1-next-0")

    numbers = (0, 2) if has_failed else (0, 1, 2)
    assert world.taken("run-1-next-0") == [f"{run.output_uri}{number}.parquet" for number in numbers]


def test_too_many_half_published_shards_stop_the_next_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "MAX_LEFT_OUT", 1)
    start(world, check="", options={"tolerated_failure_count": 2})
    fail_while_published(world, 0, 1)

    assert world.work_and_check().run.state is RunState.SUCCEEDED_WITH_FAILURES
    assert ids(world) == {"run-1"}
    assert world.json("manifest.json")["run"]["no_next_run"] == TOO_MANY_FAILED


def test_the_checker_plans_a_next_run_that_no_machine_drives(world: World) -> None:
    put_outputs(world, followed(world, check=""))

    assert not check(world.deployment, "run-1-next-0").planned
    world.clock.advance(UNPLANNED_S + 1)
    assert check(world.deployment, "run-1-next-0").planned
    assert [each.run_id for each in runs_to_check(world.deployment, world.ledger.runs.unfinalized())] == [
        "run-1-next-0"
    ]


def test_a_next_run_inherits_the_mode_and_a_check_uses_the_queue(world: World) -> None:
    start(world, dispatch=Dispatch.MAP)
    world.children([record.ref for record in world.shards()])
    world.queue.entries.clear()
    world.check()
    assert len(world.queue) == 1
    world.work_and_check()

    assert run_of(world, "run-1-check-0").dispatch is Dispatch.QUEUE
    assert run_of(world, "run-1-next-0").dispatch is Dispatch.MAP


def test_cancelling_wins_over_a_checker_about_to_end_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    start(world, check="")
    world.work()
    once(monkeypatch, world.ledger.runs, "finish", before=lambda: world.ledger.runs.cancel("run-1"))

    assert not world.check().run.state.ended

    assert world.check().run.state is RunState.CANCELLED
    assert world.json("manifest.json")["run"]["state"] == "CANCELLED"
    assert run_of(world, "run-1-next-0").cancelled_s is not None


# --- a next run as the reduce step ---


def answer_all(world: World, *values: Any) -> None:
    """End each shard with its answer, and check the run."""
    for record, value in zip(world.shards(), values, strict=True):
        attempt_id, claim = world.claim_ref(record.ref)
        body = json.dumps({"shard": record.number, "answer": value}).encode()
        world.store.put(world.deployment.run_uri("run-1", claim.record.answer_file), body)
        world.ledger.attempts.succeed("run-1", record.number, attempt_id, ShardResult())
    world.queue.entries.clear()
    world.check()


@pytest.mark.parametrize(
    ("engines", "size_bytes", "engine"),
    [((), 10, ""), ((), 10**6, ""), (("fargate",), 10, ""), (("fargate",), 10**6, "fargate")],
)
def test_a_reduce_is_one_shard_in_an_engine_if_it_is_large(
    engines: tuple[str, ...], size_bytes: int, engine: str
) -> None:
    world = World(engines={name: MemoryEngine() for name in engines})
    put_outputs(world, followed(world, check="", options={"max_shard_bytes": 10**6}, next_shards=1), size_bytes)

    plan(world.deployment, "run-1-next-0")

    (record,) = world.shards("run-1-next-0")
    assert (record.object_count, record.engine) == (3, engine)


def test_a_next_run_inherits_the_engine() -> None:
    world = World(engines={"fargate": MemoryEngine()})
    put_outputs(world, start(world, shards=1, check="", options={"engine": "fargate"}))
    attempt_id, _ = world.claim_ref(world.shards()[0].ref, "fargate")
    world.ledger.attempts.succeed("run-1", 0, attempt_id, ShardResult())
    world.check()

    plan(world.deployment, "run-1-next-0")

    assert [each.engine for each in world.shards("run-1-next-0")] == ["fargate"]


def test_a_next_run_with_next_items_reads_the_answers_as_items(world: World) -> None:
    start(world, check="", next_items=True, next_shards=1)
    answer_all(world, 3, None, {"rows": 7})

    plan(world.deployment, "run-1-next-0")

    (shard,) = world.planned("run-1-next-0")
    assert shard.items == [{"shard": 0, "answer": 3}, {"shard": 1, "answer": None}, {"shard": 2, "answer": {"rows": 7}}]
    assert run_of(world, "run-1-next-0").inputs == ()


def test_a_reduce_of_many_answers_is_one_shard(world: World) -> None:
    start(world, shards=30, check="", next_items=True, next_shards=1)
    answer_all(world, *["x" * 60_000] * 30)  # a shard of other runs has at most 1 MiB of items

    plan(world.deployment, "run-1-next-0")

    assert [record.object_count for record in world.shards("run-1-next-0")] == [30]


@pytest.mark.parametrize("answer", [None, "x" * 70_000])
def test_without_usable_answers_there_is_no_next_run(world: World, answer: str | None) -> None:
    start(world, check="", next_items=True)
    if answer:
        answer_all(world, answer, 1, 2)
    else:
        world.work_and_check()

    assert ids(world) == {"run-1"} and run_of(world, "run-1").state is RunState.SUCCEEDED
    assert world.json("manifest.json")["run"]["no_next_run"] == NO_ANSWERS


def test_a_request_with_other_next_options_is_refused(world: World) -> None:
    start(world, next_shards=1)
    given = {"script": CHECK, "inputs": ["s3://data/in/"], "output": "s3://data/o/", "next": NEXT}

    with pytest.raises(RunExistsError, match="next"):
        start(world)
    for wrong in ({"next_shards": 2}, {"next": "", "next_items": True}):
        with pytest.raises(PlanError, match=r"next_(shards|items)"):
            read_request({**given, **wrong})


# --- redrive, clean ---


def test_a_redrive_has_check_and_next_runs_of_its_own(world: World) -> None:
    followed(world, do=all_but(1), options={"tolerated_failure_count": 1})
    assert world.work_and_check().run.state is RunState.SUCCEEDED_WITH_FAILURES
    redrive(world.deployment, "run-1")
    world.work_and_check()

    report = world.work_and_check()

    assert (report.run.state, report.run.generation) == (RunState.SUCCEEDED, 1)
    assert world.json("manifest.json")["run"]["check"]["run_id"] == "run-1-check-1"
    assert run_of(world, "run-1-next-0").cancelled_s is not None  # it would write to the same folder
    assert run_of(world, "run-1-next-1").state is RunState.PLANNING


def test_a_run_with_an_open_follow_up_is_not_cleaned(world: World) -> None:
    followed(world, check="")

    assert list(ended_runs(world.deployment)) == []
    with pytest.raises(PlanError, match="run-1-next-0 has not ended"):
        named_run(world.deployment, "run-1")
    cancel(world.deployment, "run-1-next-0")
    check(world.deployment, "run-1-next-0")
    assert [run.run_id for run in ended_runs(world.deployment)] == ["run-1"]
    with pytest.raises(PlanError, match="belongs to run-1"):
        named_run(world.deployment, "run-1-next-0")
    clean(world.deployment, named_run(world.deployment, "run-1"), folders_of(world.deployment, "run-1"))
    assert [run.run_id for run in ended_runs(world.deployment)] == ["run-1-next-0"]


# --- next runs of an earlier generation ---


def test_an_open_next_run_keeps_its_parent_from_being_deleted(world: World) -> None:
    start(world, check="")
    world.work_and_check()
    redrive(world.deployment, "run-1", [0])
    world.work_and_check(lambda _: WRONG)
    assert (world.check().run.state, run_of(world, "run-1-next-0").state.ended) == (RunState.FAILED, False)

    with pytest.raises(PlanError, match="run-1-next-0"):
        named_run(world.deployment, "run-1")


def test_a_cancel_also_cancels_the_next_run_of_before_a_redrive(world: World) -> None:
    start(world, check="")
    world.work_and_check()
    redrive(world.deployment, "run-1", [0])

    cancel(world.deployment, "run-1")

    assert run_of(world, "run-1-next-0").cancelled_s is not None


def test_a_refused_redrive_can_repeat_the_check_later(world: World) -> None:
    followed(world)
    world.work_and_check(lambda _: WRONG)
    assert world.check().run.state is RunState.FAILED
    new_run(world.deployment, world.request(run_id="run-2", output_uri="s3://data/out/"))  # it is being planned
    with pytest.raises(PlanError, match="wait for its end"):
        redrive(world.deployment, "run-1")
    cancel(world.deployment, "run-2")
    check(world.deployment, "run-2")

    assert redrive(world.deployment, "run-1").run.generation == 2


def test_answers_are_read_if_equal_bytes_have_different_etags(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 gives objects under a KMS key such etags."""
    uploads = count()
    salted = SimpleNamespace(md5=lambda body, **how: hashlib.md5(body + str(next(uploads)).encode(), **how))
    monkeypatch.setattr(memory_store, "hashlib", salted)
    start(world, check="", next_items=True, next_shards=1)
    answer_all(world, 3, None, {"rows": 7})

    plan(world.deployment, "run-1-next-0")

    (shard,) = world.planned("run-1-next-0")
    assert len(shard.objects) == 3


def test_a_run_without_new_input_gives_no_reason_for_no_next_run(world: World) -> None:
    for uri in (CHECK, NEXT):
        world.store.put(uri, b"print()\n")
    world.put(1)
    options = RunOptions(incremental=True, existing="append")
    world.plan(options=options)
    world.work_and_check()
    request = world.request(run_id="run-2", next=NEXT, next_output=NEXT_OUTPUT, options=options)
    plan(world.deployment, new_run(world.deployment, request, even_empty=True).run_id)

    assert check(world.deployment, "run-2").run.state is RunState.SUCCEEDED

    assert world.json("manifest.json", "run-2")["run"]["no_next_run"] is None
