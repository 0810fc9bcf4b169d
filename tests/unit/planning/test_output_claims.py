"""Claims of output folders: runs that begin at the same time, planners that resume late, redrives, earlier runs."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparklet.errors import CheckpointConflictError, PlanError
from sparklet.model import Failure, Run, RunKind, RunOptions, RunState, ShardResult
from sparklet.planning import new_run as entering
from sparklet.planning import output_claims
from sparklet.planning.inputs.list_requests import ListRequest
from sparklet.planning.new_run import new_run
from sparklet.planning.output_claims import delete_replaced, refuse_outputs, refuse_overtaken
from sparklet.planning.plan_files import planned_objects
from sparklet.planning.planner import plan
from sparklet.ports.deployment import Deployment, put_once
from sparklet.runs import redrive as redriving
from sparklet.runs.checker import check
from sparklet.runs.redrive import redrive
from tests.stand_ins import memory_store
from tests.world import SCRIPT, SOURCE, World

OUT = "s3://data/out/a/"
OLD = f"{OUT}shard=daily_0_000000/part-0.parquet"
BAD = Failure("ValueError", "bad", retryable=False)


@pytest.fixture
def world(world: World) -> World:
    world.put(2)
    return world


def enter(world: World, run_id: str, existing: str, output: str = OUT) -> Run:
    options = RunOptions(max_objects=1, existing=existing)
    return new_run(world.deployment, world.request(run_id=run_id, output_uri=output, options=options))


def work(world: World, run: Run, *failing: int) -> RunState:
    def do(number: int) -> ShardResult | Failure:
        if number in failing:
            return BAD
        world.store.put(f"{run.shard_output(number)}/part-0.parquet", run.run_id.encode())
        return ShardResult(rows=1)

    world.work(do)
    return check(world.deployment, run.run_id).run.state


def writers(world: World) -> list[str]:
    """The run ids in the output's files: each file holds the id of the run that wrote it."""
    return [world.store.get(uri).decode() for uri in world.keys(OUT)]


def act_after(patch: pytest.MonkeyPatch, module: ModuleType, look: Callable[..., None], act: Callable[[], Any]) -> None:
    """Let something else happen just after the function ``look`` of this module has looked."""

    def look_before_the_other(deployment: Deployment, run: Run, **how: Any) -> None:
        look(deployment, run, **how)
        patch.setattr(module, look.__name__, look)
        act()

    patch.setattr(module, look.__name__, look_before_the_other)


class Stopped:
    """The store of a planner that sleeps after it has deleted two objects, or before it lists a ``listing`` folder."""

    def __init__(self, store: Any, meanwhile: Callable[[], None], *, listing: str = "") -> None:
        self._store, self._meanwhile, self._listing = store, meanwhile, listing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _sleep(self) -> None:
        meanwhile, self._meanwhile = self._meanwhile, lambda: None
        meanwhile()

    def list(self, prefix: str, start_after: str = "") -> Any:
        if self._listing and self._listing in prefix:
            self._sleep()
        return self._store.list(prefix, start_after)

    def delete_all(self, uris: Iterable[str], within: str) -> None:
        rest = iter(uris)
        self._store.delete_all(islice(rest, 2), within)
        self._sleep()
        self._store.delete_all(rest, within)


@pytest.mark.parametrize("where", ["", "_outputs/"])
def test_a_planner_that_resumes_late_deletes_no_new_output(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(memory_store, "PAGE_KEYS", 2)
    for number in range(5):
        world.store.put(OLD.replace("000000", f"{number:06d}"), b"yesterday")
    nightly = enter(world, "nightly", "overwrite")

    def meanwhile() -> None:
        world.clock.advance(700)
        plan(world.deployment, "nightly")
        assert work(world, nightly) is RunState.SUCCEEDED
        world.clock.advance(60)
        work(world, plan(world.deployment, enter(world, "hourly", "append").run_id))

    with pytest.raises(CheckpointConflictError):
        plan(replace(world.deployment, store=Stopped(world.store, meanwhile, listing=where)), "nightly")

    assert writers(world) == ["hourly", "hourly", "nightly", "nightly"]


@pytest.mark.parametrize(("first", "second"), [("append", "overwrite"), ("refuse", "refuse"), ("overwrite", "append")])
@pytest.mark.parametrize("output", [OUT, f"{OUT}deeper/", "s3://data/out/"])
def test_only_one_of_two_runs_that_begin_at_once_gets_the_output(
    world: World, monkeypatch: pytest.MonkeyPatch, first: str, second: str, output: str
) -> None:
    act_after(monkeypatch, entering, refuse_outputs, lambda: enter(world, "hourly", first, output))

    with pytest.raises(PlanError, match=r"hourly writes to .*; nightly has ended with nothing planned"):
        enter(world, "nightly", second)

    assert world.ledger.runs.get("nightly").state is RunState.FAILED
    assert work(world, plan(world.deployment, "hourly")) is RunState.SUCCEEDED


def test_a_claim_with_a_reused_number_sees_later_claims(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """``nightly`` has read the claims, and pauses before it puts its own.

    Meanwhile ``between`` takes the same number, ``hourly`` claims the output with the next one, and ``between`` ends,
    so that its number is free again. Then nightly's put succeeds, and it must notice the claim of hourly.
    """

    def put_after_others(*arguments: Any) -> None:
        monkeypatch.setattr(output_claims, "put_once", put_once)
        between = enter(world, "between", "append", "s3://data/elsewhere/")
        with monkeypatch.context() as patch:  # hourly does not see unfinished runs
            patch.setattr(world.ledger.runs, "unfinalized", lambda: iter(()))
            enter(world, "hourly", "refuse")
        work(world, plan(world.deployment, between.run_id))
        put_once(*arguments)

    monkeypatch.setattr(output_claims, "put_once", put_after_others)
    with pytest.raises(PlanError, match=r"hourly writes to .*; nightly has ended with nothing planned"):
        enter(world, "nightly", "refuse")

    assert work(world, plan(world.deployment, "hourly")) is RunState.SUCCEEDED


def test_a_planner_that_resumes_late_does_not_fail_the_run(world: World) -> None:
    enter(world, "nightly", "refuse")

    def meanwhile() -> None:
        plan(world.deployment, "nightly")
        enter(world, "hourly", "append")

    with suppress(CheckpointConflictError):
        plan(replace(world.deployment, store=Stopped(world.store, meanwhile, listing="_outputs/")), "nightly")

    assert world.ledger.runs.get("nightly").state is RunState.RUNNING


def test_runs_that_append_begin_side_by_side(world: World) -> None:
    runs = [enter(world, name, "append") for name in ("a", "b", "c")]

    assert [work(world, plan(world.deployment, run.run_id)) for run in runs] == [RunState.SUCCEEDED] * 3
    assert writers(world) == ["a", "a", "b", "b", "c", "c"]


@pytest.mark.parametrize("planned", [False, True])
def test_a_redrive_is_refused_if_a_later_run_replaces_its_output(
    world: World, monkeypatch: pytest.MonkeyPatch, planned: bool
) -> None:
    world.clock.advance(60)
    run = plan(world.deployment, enter(world, "nightly", "refuse").run_id)
    assert work(world, run, 1) is RunState.FAILED
    world.clock.advance(60)

    def replaces() -> None:
        enter(world, "later", "overwrite")
        if planned:
            plan(world.deployment, "later")

    act_after(monkeypatch, redriving, refuse_overtaken, replaces)
    with pytest.raises(PlanError, match="later"):
        redrive(world.deployment, "nightly")

    assert world.ledger.runs.get("nightly").state is RunState.FAILED
    assert work(world, plan(world.deployment, "later")) is RunState.SUCCEEDED
    assert writers(world) == ["later", "later"]


def test_an_overwriting_run_is_refused_during_a_redrive(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    work(world, run := plan(world.deployment, enter(world, "nightly", "refuse").run_id), 1)
    world.clock.advance(60)
    act_after(monkeypatch, entering, refuse_outputs, lambda: redrive(world.deployment, "nightly"))

    with pytest.raises(PlanError, match="nightly writes to"):
        enter(world, "later", "overwrite")

    assert work(world, run) is RunState.SUCCEEDED and writers(world) == ["nightly"] * 2


def test_a_redrive_is_refused_if_a_later_run_planned_the_same(world: World) -> None:
    """The later incremental run plans again what the earlier run has not done."""

    def enter(run_id: str) -> Run:
        options = RunOptions(max_objects=1, incremental=True, existing="append")
        world.clock.advance(60)
        request = world.request(run_id=run_id, name="nightly", output_uri=OUT, options=options)
        return plan(world.deployment, new_run(world.deployment, request).run_id)

    assert work(world, enter("monday"), 1) is RunState.FAILED
    assert work(world, enter("tuesday")) is RunState.SUCCEEDED

    with pytest.raises(PlanError, match="tuesday plans again what it has not done; redrive that one"):
        redrive(world.deployment, "monday")


def test_a_next_run_waits_for_the_earlier_generations_next_run(world: World) -> None:
    first = replace(enter(world, "run-1", "append"), run_id="run-1-next-0", parent="run-1", kind=RunKind.NEXT)
    world.ledger.runs.create(first)
    second = replace(first, run_id="run-1-next-1", number=1)

    with pytest.raises(CheckpointConflictError, match="cannot be planned before run-1-next-0, whose output"):
        delete_replaced(world.deployment, second, world.clock.now_s())


PUBLISHED = ["shard=old_0_000000/part-0.parquet", "shard=old_0_000001/a/b.parquet", "x/q.parquet"]
LISTED = f"{OUT}.sparklet/old_0_000002-a.json"
WAYS = [dict[str, Any](existing="append"), {"incremental": True}, {"existing": "overwrite"}]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_run_deletes_inputs_of_its_own_or_of_an_open_run(data: st.DataObject) -> None:
    """An input may be a folder, an object or a list within an output of the same run or of another run."""
    world, earlier = World(), [f"{OUT}{name}" for name in PUBLISHED]
    for uri in earlier:
        world.store.put(uri, b"old")
    world.store.put(LISTED, b'{"x/q.parquet": 3}')
    world.put(2)
    world.clock.advance(60)

    def entered(run_id: str, *, replaces: bool) -> Run:
        folders = [SOURCE, *(f"{uri.rpartition('/')[0]}/" for uri in earlier)]
        kind = data.draw(st.sampled_from(["folder", "object", "list"]))
        read = data.draw(st.sampled_from(folders if kind == "folder" else [f"{SOURCE}00000.csv", *earlier]))
        listed = (ListRequest("-", f"{SOURCE}00001.csv\n{read}\n".encode(), "lines"),) if kind == "list" else ()
        options = RunOptions(
            **data.draw(st.sampled_from(WAYS[-1:] if replaces else WAYS)),
            output_per=data.draw(st.sampled_from(["", "input"])),
            limit=data.draw(st.sampled_from([0, 100])),
            max_objects=1,
        )
        more = data.draw(st.sampled_from([{}, {}, {"next": SCRIPT, "next_output": OUT}]))
        output = data.draw(st.sampled_from([OUT, "s3a://data/out/{run_id}", "s3://data/out/", "s3://data/{run_id}/"]))
        asked: dict[str, Any] = {
            "inputs": () if listed else (read,),
            "lists": listed,
            "output_uri": output,
            "options": options,
            **more,
        }
        return new_run(world.deployment, world.request(run_id=run_id, **asked))

    held = set(world.store.objects)
    for run_id, replaces in (("b", False), ("a", True)):
        with suppress(PlanError):
            plan(world.deployment, entered(run_id, replaces=replaces).run_id)
    for run in world.ledger.runs.list():
        gone = [
            item.uri for item in planned_objects(world.deployment, run.run_id) if item.uri not in world.store.objects
        ]
        assert not gone or run.state.ended
    if not list(world.ledger.runs.list()):
        assert held <= set(world.store.objects)


@pytest.mark.parametrize("given", [{"inputs": (OLD,)}, {"lists": (ListRequest("-", OLD.encode(), "lines"),)}])
def test_a_run_that_replaces_its_own_input_is_refused(world: World, given: dict[str, Any]) -> None:
    world.store.put(OLD, b"yesterday")
    world.clock.advance(60)
    options = RunOptions(existing="overwrite")

    with pytest.raises(PlanError, match=r"daily_0_000000/part-0.parquet lies in the output .* would delete it"):
        new_run(world.deployment, world.request(**{"inputs": (), "output_uri": OUT, "options": options, **given}))

    assert world.store.get(OLD) == b"yesterday" and not list(world.ledger.runs.list())


@pytest.mark.parametrize("given", [{"inputs": (OUT,)}, {"lists": (ListRequest("-", OLD.encode(), "lines"),)}])
def test_a_run_that_would_delete_an_open_runs_input_is_refused(world: World, given: dict[str, Any]) -> None:
    world.store.put(OLD, b"yesterday")
    world.clock.advance(60)
    reader = world.plan(**{"inputs": (), "run_id": "reader", **given})

    with pytest.raises(PlanError, match=r"the run reader reads it.*; nightly has ended with nothing planned"):
        plan(world.deployment, enter(world, "nightly", "overwrite").run_id)

    assert world.store.get(OLD) == b"yesterday"
    assert work(world, reader) is RunState.SUCCEEDED
    world.clock.advance(60)
    plan(world.deployment, enter(world, "again", "overwrite").run_id)
    assert OLD not in world.store.objects


def test_an_output_inside_a_replaced_next_output_is_refused(world: World) -> None:
    request = world.request(
        options=RunOptions(existing="overwrite"), output_uri=f"{OUT}deeper/", next=SCRIPT, next_output=OUT
    )
    with pytest.raises(PlanError, match="which the next run reads, lies inside s3://data/out/a/"):
        new_run(world.deployment, request)


def test_claims_of_ended_runs_do_not_pile_up(world: World) -> None:
    for number in range(30):
        work(world, plan(world.deployment, enter(world, f"run-{number}", "append").run_id))

    assert len(world.keys("s3://sparklet/runs/_outputs/")) <= 2
