"""Whole runs with bad objects, by real workers and checks over ports in memory; ``test_readers`` kills them.

In the end each good object's rows are in the output once, each bad one is a FAILED shard of its own, and readers of
every kind say so.
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
        self.uris = [f"{SOURCE}{place // per_group}/{place:05d}.csv" for place in range(objects)]
        for uri in self.uris:
            self.world.store.put(uri, f"{uri} 1\n{uri} 2\n".encode())
        self.bad = self.bad_once = frozenset[str]()
        self.named = False
        self.attempts: list[list[str]] = []  # what each did
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

    def spoil(self, *places: int) -> None:
        self.bad = self.bad_once = frozenset(self.uris[place] for place in places)

    @property
    def most_bad(self) -> int:
        """Of one shard's objects; if it has more, good ones may be FAILED with them."""
        return max(1, min(self.run.options.max_objects, len(self.uris)) // 10)

    def honest_work(self) -> None:
        """What is begun ends, and everything else that has a message is done."""
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
            self.honest_work()
            self.world.clock.advance(170)
        raise AssertionError("the run does not end")

    def shards_of(self) -> dict[str, ShardRecord]:
        """Each object's shard that counts; an assertion if it has two."""
        found: dict[str, ShardRecord] = {}
        for record in self.world.shards():
            if record.state is ShardState.SPLIT:
                continue
            for item in planned_shard(self.world.deployment, record).objects:
                assert item.uri not in found, f"{item.uri} is in two shards"
                found[item.uri] = record
        return found

    def assert_in_the_end(self) -> None:
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


def not_done_before(it: Splitting) -> list[str]:
    done = finished_objects(it.world.deployment, it.run.name)
    return [info.uri for info in it.world.store.list(SOURCE) if not done.has(info.uri, "", info.etag)]


def failed_in(it: Splitting) -> dict[str, ShardRecord]:
    return {uri: record for uri, record in it.shards_of().items() if record.state is ShardState.FAILED}


@pytest.mark.parametrize(("named", "cap"), [(True, 0), (False, 0), (False, 1)])
@pytest.mark.parametrize("bad", [[7], [0], [19], [3, 11], [0, 19], [5, 21]])
def test_bad_objects_fail_alone(named: bool, cap: int, bad: list[int]) -> None:
    it = Splitting(max_concurrency=cap)
    it.named = named
    it.spoil(*bad)

    assert it.to_the_end() is RunState.SUCCEEDED_WITH_FAILURES

    it.assert_in_the_end()
    failed = failed_in(it)
    assert failed.keys() == it.bad
    assert {each.error_class for uri, each in it.shards_of().items() if uri not in failed} == {""}
    assert {(each.error_class, each.error_message) for each in failed.values()} == {
        ("BadRecord", f"malformed ({LINE}; exit code 1)")
    }
    assert it.world.json("manifest.json")["run"]["attempts"] == len(it.attempts)


@pytest.mark.parametrize(("objects", "bad"), [(n, place) for n in (2, 3, 4, 5, 20) for place in (0, n // 2, n - 1)])
@pytest.mark.parametrize("named", ["rightly", "wrongly", "not at all"])
def test_one_bad_object_costs_what_is_promised(objects: int, bad: int, named: str) -> None:
    """Without a schema Spark takes the columns of one file, and names another that does not fit."""
    it = Splitting(objects, objects, max_attempts=1)
    it.spoil(bad)

    def cause(inputs: list[str]) -> SparkletError | None:
        others = [uri for uri in inputs if uri not in it.bad]
        if not it.bad & {*inputs}:
            return None
        return malformed(*{"rightly": it.bad, "wrongly": others[:1]}.get(named, ()))

    it.cause = cause

    it.to_the_end()

    assert failed_in(it).keys() == it.bad
    assert len(it.attempts) - 1 <= 2 * math.ceil(math.log2(objects)) + 2


def test_what_fails_only_together_is_done_apart() -> None:
    """GIVEN a good file beside an HTML page, of which Spark takes the columns, THEN none of them is FAILED."""
    it = Splitting(2, 2)
    it.cause = lambda inputs: malformed(it.uris[1]) if len(inputs) > 1 else None

    assert it.to_the_end() is RunState.SUCCEEDED

    it.assert_in_the_end()


@pytest.mark.parametrize("named", [True, False])
def test_a_broken_script_is_found_out_soon(named: bool) -> None:
    it = Splitting(OBJECTS, max_attempts=1)
    it.named = named
    it.spoil(*range(OBJECTS))

    it.to_the_end()

    it.assert_in_the_end()
    causes = {record.number: record for record in failed_in(it).values()}
    (whole,) = [record for record in causes.values() if record.object_count > 1]
    assert whole.object_count == OBJECTS - int(named)
    assert whole.error_message == f"the script is at fault, not an input: malformed ({LINE}; exit code 1)"
    assert len(it.attempts) == 1 + 3 + 2 * int(named)
    it.bad = frozenset()  # it is repaired
    redrive(it.world.deployment, "run-1")
    assert it.to_the_end() is RunState.SUCCEEDED
    it.assert_in_the_end()
    assert len(it.attempts[1 + 3 + 2 * int(named) :]) == 1 + int(named)


def test_pieces_of_which_one_has_won_are_not_joined() -> None:
    """What has won may be where readers look already."""
    it = Splitting(6, 6, max_attempts=1)
    it.spoil(*range(6))
    plan(it.world.deployment, "run-1")
    it.honest_work()
    check(it.world.deployment, "run-1")
    attempts, (_, *pieces) = it.world.ledger.attempts, it.world.shards()
    for piece in pieces:
        attempts.claim(piece.ref, "a", 60, 1)
        if piece.number == 1:
            attempts.renew("run-1", 1, "a", 60, ShardResult())
            attempts.fail("run-1", 1, "a", Failure(piece.error_class, piece.error_message))
        else:
            attempts.release("run-1", piece.number, "a", Failure(piece.error_class, piece.error_message), split=HALVES)

    check(it.world.deployment, "run-1")

    assert it.world.ledger.shards.get("run-1", 0).state is ShardState.SPLIT


def test_failures_at_two_lines_are_not_the_scripts() -> None:
    it = Splitting(max_attempts=1)
    it.spoil(0, 19)
    it.cause = lambda inputs: (
        ScriptFailedError("s3://job.py", 1, cause_class="BadRecord", cause="x", place=f"line {len(inputs)} of job.py")
        if it.bad & {*inputs}
        else None
    )

    it.to_the_end()

    assert failed_in(it).keys() == it.bad


def test_no_more_than_a_tenth_is_looked_for() -> None:
    it = Splitting()
    it.named = True
    it.spoil(1, 5, 9, 13)

    it.to_the_end()

    it.assert_in_the_end()
    (rest,) = {record.number: record for record in failed_in(it).values() if record.object_count > 1}.values()
    assert rest.error_message.startswith(
        "more than 2 of the shard's inputs are bad; its last attempt: BadRecord: malformed"
    )


def test_a_repaired_object_is_done_alone() -> None:
    """By a redrive; and the next incremental run would take it alone, too."""
    it = Splitting()
    it.spoil(7)
    it.to_the_end()
    before, it.bad = it.shards_of(), frozenset()
    it.attempts.clear()
    assert not_done_before(it) == [it.uris[7]]

    redrive(it.world.deployment, "run-1")

    assert it.to_the_end() is RunState.SUCCEEDED
    it.assert_in_the_end()
    assert it.attempts == [[it.uris[7]]]
    assert it.shards_of()[it.uris[8]] == before[it.uris[8]]
    assert not_done_before(it) == []


def test_lack_of_memory_splits_after_a_redrive_that_says_so() -> None:
    it = Splitting(isolate=False)
    it.spoil(7)
    it.cause = lambda inputs: OutOfMemoryError("the JVM ran out of memory") if it.bad & {*inputs} else None
    it.to_the_end()
    assert it.world.ledger.shards.count("run-1").failed == 1

    redrive(it.world.deployment, "run-1", how=Again(isolate=True))
    it.to_the_end()

    it.assert_in_the_end()
    assert failed_in(it).keys() == it.bad


@pytest.mark.parametrize(
    ("per_shard", "group_by", "is_whole"),
    [(PER_SHARD, "prefix", True), (8, "prefix", False), (NO_LIMIT_BYTES, "", True)],
)
def test_a_group_is_split_only_where_the_plan_has_cut_it(per_shard: int, group_by: str, is_whole: bool) -> None:
    """Groups of 12 objects are a shard each, or shards of 8 and 4; a reduce is a shard of all."""
    it = Splitting(per_shard, per_group=12, group_by=group_by)
    it.spoil(7, 11, 23)

    it.to_the_end()

    it.assert_in_the_end()
    failed = failed_in(it)
    assert failed.keys() == ({*it.uris} if is_whole else it.bad)
    told = {each.error_message.partition("BadRecord: ")[0] for each in failed.values()}
    assert (told == {"a group, or a reduce, stays whole; its last attempt: "}) is is_whole


def test_a_plan_that_is_not_sealed_is_waited_for() -> None:
    it = Splitting(max_attempts=1)
    it.spoil(7)
    plan(it.world.deployment, "run-1", part_shards=1, stop=lambda: True)
    it.honest_work()

    check(it.world.deployment, "run-1")

    (waiting,) = it.world.shards()
    assert (waiting.state, waiting.split) == (ShardState.PENDING, HALVES)
    it.to_the_end()
    it.assert_in_the_end()
    assert it.world.ledger.shards.count("run-1").failed == 1


def test_what_waits_for_its_split_is_cancelled_as_a_whole() -> None:
    it = Splitting(max_attempts=1)
    it.spoil(7)
    plan(it.world.deployment, "run-1")
    it.honest_work()

    cancel(it.world.deployment, "run-1")

    assert it.to_the_end() is RunState.CANCELLED
    it.assert_in_the_end()
    whole, other = it.world.shards()
    assert (whole.error_class, other.state) == ("RunCancelled", ShardState.SUCCEEDED)
    assert "malformed" in whole.error_message


def test_a_shard_whose_line_is_gone_fails_at_last() -> None:
    it = Splitting(max_attempts=1)
    it.spoil(7)
    plan(it.world.deployment, "run-1")
    it.honest_work()
    it.world.store.put(it.world.deployment.part_uri("run-1", it.world.shards()[0].part), b"damaged")

    it.to_the_end()

    assert it.world.shards()[0].state is ShardState.FAILED


def test_what_is_split_off_a_maps_shard_has_messages() -> None:
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


def test_an_object_that_is_split_off_meanwhile_is_found() -> None:
    """GIVEN a reader that has the plan's parts of before the split, THEN it finds the object all the same."""
    it = Splitting(max_attempts=1)
    it.named = True
    it.spoil(7)
    plan(it.world.deployment, "run-1")
    it.honest_work()
    at, parts = it.world.deployment, it.world.ledger.runs.parts
    reads: list[int] = []

    def old_parts(run_id: str) -> Any:
        found = list(parts(run_id))
        reads.append(len(found))
        if len(reads) == 1:
            it.world.clock.advance(1)
            check(it.world.deployment, "run-1")
        return iter(found)

    it.world.ledger.runs.parts = old_parts  # type: ignore[method-assign]

    (holding,) = object_status(at, "run-1", it.uris[7]).shards

    assert holding.record is not None
    assert (holding.record.state, holding.record.object_count) == (ShardState.PENDING, 1)
