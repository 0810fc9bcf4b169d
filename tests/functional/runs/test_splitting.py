"""Whole runs with bad objects, by real workers and checks over ports in memory; ``test_readers`` adds kills.

At the end each good object's rows are in the output once, and each bad object is a FAILED shard of its own; status,
manifest and verification agree.
"""

import atexit
import math
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sparklet.app.documents import object_status
from sparklet.errors import CheckpointConflictError, OutOfMemoryError, ScriptFailedError, SparkletError
from sparklet.model import (
    HALVES,
    Dispatch,
    ExecutionResult,
    Failure,
    RunOptions,
    RunState,
    ShardRecord,
    ShardResult,
    ShardState,
)
from sparklet.model.options import NO_LIMIT_BYTES
from sparklet.planning.new_run import new_run
from sparklet.planning.output_claims import finished_objects
from sparklet.planning.plan_files import planned_shard
from sparklet.planning.planner import plan
from sparklet.runs.cancel import cancel
from sparklet.runs.checker import check
from sparklet.runs.dead_letters import consume
from sparklet.runs.manifest import verify
from sparklet.runs.redrive import Again, redrive
from sparklet.worker.executor import Execution
from tests.functional.runs.readers import Worker, event_of, rows_below, write_rows
from tests.stand_ins.memory import MemoryTaskQueue
from tests.world import SOURCE, World

OUT, LINE = "s3://data/out/", "line 7 of job.py"
OBJECTS, PER_SHARD, MAX_ROUNDS = 24, 20, 120
SCRIPTS = tempfile.TemporaryDirectory(prefix="isolation-")
atexit.register(SCRIPTS.cleanup)


class Splitting:
    """A world with a run whose script fails on bad objects, and workers that do it."""

    def __init__(
        self, per_shard: int = PER_SHARD, objects: int = OBJECTS, per_group: int = OBJECTS, **options: Any
    ) -> None:
        self.world = World()
        self.world.queue = MemoryTaskQueue(
            self.world.clock, visibility_s=600.0, dead_letters=self.world.dead_letters, max_receive_count=4
        )
        self.uris = [f"{SOURCE}{number // per_group}/{number:05d}.csv" for number in range(objects)]
        for uri in self.uris:
            self.world.store.put(uri, f"{uri} 1\n{uri} 2\n".encode())
        self.bad = self.bad_once = frozenset[str]()
        self.named = False
        self.attempts: list[list[str]] = []  # the inputs of each attempt
        self.cause: Callable[[list[str]], SparkletError | None] = self._of_bad_ones
        self.workers = [Worker(self.world, self._script, Path(SCRIPTS.name, str(n))) for n in range(2)]
        options = {"max_objects": per_shard, "isolate": True, "tolerated_failure_count": objects, **options}
        self.run = new_run(self.world.deployment, self.world.request(options=RunOptions(**options), output_uri=OUT))

    def _script(self, execution: Execution, path: Path) -> ExecutionResult:
        inputs = event_of(execution)["inputs"]
        self.attempts.append(inputs)
        if cause := self.cause(inputs):
            raise cause
        return write_rows(self.world, execution, [uri for uri in inputs for _ in range(2)])

    def _of_bad_ones(self, inputs: list[str]) -> SparkletError | None:
        if failing := [uri for uri in inputs if uri in self.bad]:
            return malformed(*failing[: int(self.named)])
        return None

    def spoil(self, *numbers: int) -> None:
        """Let the objects of these numbers be bad."""
        self.bad = self.bad_once = frozenset(self.uris[number] for number in numbers)

    @property
    def most_bad(self) -> int:
        """The most bad objects of a shard that are isolated; if there are more, good ones can be FAILED with them."""
        return max(1, min(self.run.options.max_objects, len(self.uris)) // 10)

    def work(self) -> None:
        """Let workers end their attempts and do all messages; handle the dead letters."""
        for worker in self.workers:
            worker.finish()
        while message := self.world.receive():
            self.workers[0].take(message)
            self.workers[0].finish()
        for letter in self.world.dead_letters.receive():
            consume(self.world.deployment, letter)
            self.world.dead_letters.delete(letter.receipt)

    def to_the_end(self) -> RunState:
        for _ in range(MAX_ROUNDS):
            with suppress(CheckpointConflictError):
                plan(self.world.deployment, "run-1")
            state = check(self.world.deployment, "run-1").run.state
            if state.ended and not self.world.ledger.shards.count("run-1").open:
                return state
            self.work()
            self.world.clock.advance(170)
        raise AssertionError("the run does not end")

    def shards_of(self) -> dict[str, ShardRecord]:
        """The shard of each object, without split shards; an assertion fails if an object has two."""
        shards: dict[str, ShardRecord] = {}
        for record in self.world.shards():
            if record.state is ShardState.SPLIT:
                continue
            for item in planned_shard(self.world.deployment, record).objects:
                assert item.uri not in shards, f"{item.uri} is in two shards"
                shards[item.uri] = record
        return shards

    def assert_outcome(self) -> None:
        """Assert what the module's docstring promises for the end of a run."""
        shards, rows = self.shards_of(), Counter(rows_below(self.world, OUT))
        assert sorted(shards) == self.uris
        done = {uri for uri, record in shards.items() if record.state is ShardState.SUCCEEDED}
        half = {uri for uri, record in shards.items() if record.state is ShardState.FAILED and record.winner}
        assert Counter({uri: rows[uri] for uri in rows.keys() - half}) == Counter(dict.fromkeys(done, 2))
        for uri, record in shards.items():
            if record.error_class == "BadRecord" and record.state is ShardState.FAILED:
                assert record.object_count == 1 or len(self.bad_once) > self.most_bad
            (holding,) = object_status(self.world.deployment, "run-1", uri).shards
            assert holding.record == record
        assert list(verify(self.world.deployment, "run-1")) == []
        assert self.world.json("manifest.json")["run"]["objects"] == len(self.uris)


def malformed(*files: str) -> ScriptFailedError:
    return ScriptFailedError("s3://job.py", 1, cause_class="BadRecord", cause="malformed", place=LINE, files=files)


def not_done_before(run: Splitting) -> list[str]:
    """The objects that the next incremental run would take."""
    done = finished_objects(run.world.deployment, run.run.name)
    return [info.uri for info in run.world.store.list(SOURCE) if not done.has(info.uri, "", info.etag)]


def failed_in(run: Splitting) -> dict[str, ShardRecord]:
    """The failed shard of each object that is in one."""
    return {uri: record for uri, record in run.shards_of().items() if record.state is ShardState.FAILED}


@pytest.mark.parametrize(("named", "cap"), [(True, 0), (False, 0), (False, 1)])
@pytest.mark.parametrize("bad", [[7], [0], [19], [3, 11], [0, 19], [5, 21]])
def test_bad_objects_fail_alone(named: bool, cap: int, bad: list[int]) -> None:
    run = Splitting(max_concurrency=cap)
    run.named = named
    run.spoil(*bad)

    assert run.to_the_end() is RunState.SUCCEEDED_WITH_FAILURES

    run.assert_outcome()
    failed = failed_in(run)
    assert failed.keys() == run.bad
    assert {each.error_class for uri, each in run.shards_of().items() if uri not in failed} == {""}
    assert {(each.error_class, each.error_message) for each in failed.values()} == {
        ("BadRecord", f"malformed ({LINE}; exit code 1)")
    }
    assert run.world.json("manifest.json")["run"]["attempts"] == len(run.attempts)


@pytest.mark.parametrize(("objects", "bad"), [(n, place) for n in (2, 3, 4, 5, 20) for place in (0, n // 2, n - 1)])
@pytest.mark.parametrize("named", ["rightly", "wrongly", "not at all"])
def test_one_bad_object_costs_what_is_promised(objects: int, bad: int, named: str) -> None:
    """Spark might name the wrong file: without a schema it takes the columns of one file, and names another."""
    run = Splitting(objects, objects, max_attempts=1)
    run.spoil(bad)

    def cause(inputs: list[str]) -> SparkletError | None:
        others = [uri for uri in inputs if uri not in run.bad]
        if not run.bad & {*inputs}:
            return None
        return malformed(*{"rightly": run.bad, "wrongly": others[:1]}.get(named, ()))

    run.cause = cause

    run.to_the_end()

    assert failed_in(run).keys() == run.bad
    assert len(run.attempts) - 1 <= 2 * math.ceil(math.log2(objects)) + 2


def test_objects_that_fail_only_together_are_done_apart() -> None:
    """GIVEN a good file and an HTML page whose columns Spark takes for both, THEN neither is FAILED."""
    run = Splitting(2, 2)
    run.cause = lambda inputs: malformed(run.uris[1]) if len(inputs) > 1 else None

    assert run.to_the_end() is RunState.SUCCEEDED

    run.assert_outcome()


@pytest.mark.parametrize("named", [True, False])
def test_a_broken_script_is_detected_after_few_attempts(named: bool) -> None:
    run = Splitting(OBJECTS, max_attempts=1)
    run.named = named
    run.spoil(*range(OBJECTS))

    run.to_the_end()

    run.assert_outcome()
    causes = {record.number: record for record in failed_in(run).values()}
    (whole,) = [record for record in causes.values() if record.object_count > 1]
    assert whole.object_count == OBJECTS - int(named)
    assert whole.error_message == f"the script is at fault, not an input: malformed ({LINE}; exit code 1)"
    assert len(run.attempts) == 1 + 3 + 2 * int(named)
    run.bad = frozenset()  # the script is repaired
    redrive(run.world.deployment, "run-1")
    assert run.to_the_end() is RunState.SUCCEEDED
    run.assert_outcome()
    assert len(run.attempts[1 + 3 + 2 * int(named) :]) == 1 + int(named)


def test_pieces_of_which_one_has_won_are_not_joined() -> None:
    """The output of a piece that has won might be published already."""
    run = Splitting(6, 6, max_attempts=1)
    run.spoil(*range(6))
    plan(run.world.deployment, "run-1")
    run.work()
    check(run.world.deployment, "run-1")
    attempts, (_, *pieces) = run.world.ledger.attempts, run.world.shards()
    for piece in pieces:
        attempts.claim(piece.ref, "a", 60, 1)
        if piece.number == 1:
            attempts.renew("run-1", 1, "a", 60, ShardResult())
            attempts.fail("run-1", 1, "a", Failure(piece.error_class, piece.error_message))
        else:
            attempts.release("run-1", piece.number, "a", Failure(piece.error_class, piece.error_message), split=HALVES)

    check(run.world.deployment, "run-1")

    assert run.world.ledger.shards.get("run-1", 0).state is ShardState.SPLIT


def test_failures_at_different_lines_do_not_blame_the_script() -> None:
    run = Splitting(max_attempts=1)
    run.spoil(0, 19)
    run.cause = lambda inputs: (
        ScriptFailedError("s3://job.py", 1, cause_class="BadRecord", cause="x", place=f"line {len(inputs)} of job.py")
        if run.bad & {*inputs}
        else None
    )

    run.to_the_end()

    assert failed_in(run).keys() == run.bad


def test_no_more_than_a_tenth_of_a_shard_is_isolated() -> None:
    run = Splitting()
    run.named = True
    run.spoil(1, 5, 9, 13)

    run.to_the_end()

    run.assert_outcome()
    (rest,) = {record.number: record for record in failed_in(run).values() if record.object_count > 1}.values()
    assert rest.error_message.startswith(
        "more than 2 of the shard's inputs are bad; its last attempt: BadRecord: malformed"
    )


def test_a_repaired_object_is_done_alone() -> None:
    """A redrive does only the repaired object, and the next incremental run would do only that, too."""
    run = Splitting()
    run.spoil(7)
    run.to_the_end()
    before, run.bad = run.shards_of(), frozenset()
    run.attempts.clear()
    assert not_done_before(run) == [run.uris[7]]

    redrive(run.world.deployment, "run-1")

    assert run.to_the_end() is RunState.SUCCEEDED
    run.assert_outcome()
    assert run.attempts == [[run.uris[7]]]
    assert run.shards_of()[run.uris[8]] == before[run.uris[8]]
    assert not_done_before(run) == []


def test_a_redrive_with_isolate_splits_shards_that_lack_memory() -> None:
    run = Splitting(isolate=False)
    run.spoil(7)
    run.cause = lambda inputs: OutOfMemoryError("the JVM ran out of memory") if run.bad & {*inputs} else None
    run.to_the_end()
    assert run.world.ledger.shards.count("run-1").failed == 1

    redrive(run.world.deployment, "run-1", how=Again(isolate=True))
    run.to_the_end()

    run.assert_outcome()
    assert failed_in(run).keys() == run.bad


@pytest.mark.parametrize(
    ("per_shard", "group_by", "is_whole"),
    [(PER_SHARD, "prefix", True), (8, "prefix", False), (NO_LIMIT_BYTES, "", True)],
)
def test_a_group_is_isolated_only_if_the_plan_has_cut_it(per_shard: int, group_by: str, is_whole: bool) -> None:
    """A group of 12 objects is one shard, or two shards of 8 and 4; a reduce is one shard of all objects."""
    run = Splitting(per_shard, per_group=12, group_by=group_by)
    run.spoil(7, 11, 23)

    run.to_the_end()

    run.assert_outcome()
    failed = failed_in(run)
    assert failed.keys() == ({*run.uris} if is_whole else run.bad)
    prefixes = {each.error_message.partition("BadRecord: ")[0] for each in failed.values()}
    assert (prefixes == {"a group, or a reduce, stays whole; its last attempt: "}) is is_whole


def test_a_split_waits_until_the_plan_is_sealed() -> None:
    run = Splitting(max_attempts=1)
    run.spoil(7)
    plan(run.world.deployment, "run-1", part_shards=1, stop=lambda: True)
    run.work()

    check(run.world.deployment, "run-1")

    (waiting,) = run.world.shards()
    assert (waiting.state, waiting.split) == (ShardState.PENDING, HALVES)
    run.to_the_end()
    run.assert_outcome()
    assert run.world.ledger.shards.count("run-1").failed == 1


def test_a_shard_that_waits_for_its_split_is_cancelled_whole() -> None:
    run = Splitting(max_attempts=1)
    run.spoil(7)
    plan(run.world.deployment, "run-1")
    run.work()

    cancel(run.world.deployment, "run-1")

    assert run.to_the_end() is RunState.CANCELLED
    run.assert_outcome()
    whole, other = run.world.shards()
    assert (whole.error_class, other.state) == ("RunCancelled", ShardState.SUCCEEDED)
    assert "malformed" in whole.error_message


def test_a_shard_whose_plan_is_damaged_fails() -> None:
    run = Splitting(max_attempts=1)
    run.spoil(7)
    plan(run.world.deployment, "run-1")
    run.work()
    run.world.store.put(run.world.deployment.part_uri("run-1", run.world.shards()[0].part), b"damaged")

    run.to_the_end()

    assert run.world.shards()[0].state is ShardState.FAILED


def test_pieces_of_a_maps_shard_get_messages() -> None:
    world = World(dispatch=Dispatch.MAP)
    world.put(10)
    plan(
        world.deployment,
        new_run(world.deployment, world.request(options=RunOptions(max_attempts=1, isolate=True))).run_id,
    )
    (ref,) = world.handed_out(world.step("map"))
    claim = world.ledger.attempts.claim(ref, "a", 60, 1)
    world.ledger.attempts.release("run-1", 0, "a", Failure("BadRecord", "malformed"), split="3")
    assert claim.record.object_count == 10

    check(world.deployment, "run-1")

    assert [ref.shard for ref in world.bodies()] == [1, 2]


def test_an_object_that_is_split_off_during_a_read_is_found() -> None:
    """GIVEN a reader that has read the plan's parts before the split, THEN it finds the object all the same."""
    run = Splitting(max_attempts=1)
    run.named = True
    run.spoil(7)
    plan(run.world.deployment, "run-1")
    run.work()
    deployment, parts = run.world.deployment, run.world.ledger.runs.parts
    reads: list[int] = []

    def old_parts(run_id: str) -> Any:
        before = list(parts(run_id))
        reads.append(len(before))
        if len(reads) == 1:
            run.world.clock.advance(1)
            check(run.world.deployment, "run-1")
        return iter(before)

    run.world.ledger.runs.parts = old_parts  # type: ignore[method-assign]

    (holding,) = object_status(deployment, "run-1", run.uris[7]).shards

    assert holding.record is not None
    assert (holding.record.state, holding.record.object_count) == (ShardState.PENDING, 1)
