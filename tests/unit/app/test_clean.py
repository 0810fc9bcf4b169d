"""Cleaning deletes old runs completely, but no open runs and no files of others."""

import pytest

from sparklet.app.clean import clean, ended_runs, folders_of, named_run
from sparklet.errors import LedgerError, PlanError, RunNotFoundError
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.runs.checker import check
from tests.world import BUCKET, Fault, KilledError, World

DAY_S = 24 * 3600.0


def ended(world: World, run_id: str) -> None:
    """A run that ended a day ago, with a copied input and an output in the bucket."""
    world.put(3)
    new_run(world.deployment, world.request(run_id=run_id))
    plan(world.deployment, run_id)
    world.work()
    assert check(world.deployment, run_id).run.state.ended
    world.store.put(f"s3://{BUCKET}/input/{run_id}/0/a.csv", b"12345")
    world.store.put(f"s3://{BUCKET}/output/{run_id}/shard=000000/x", b"1")
    world.clock.advance(DAY_S)


def ids(world: World, **which: float) -> list[str]:
    return [run.run_id for run in ended_runs(world.deployment, **which)]  # type: ignore[arg-type]


def test_runs_are_chosen_by_age_and_the_newest_are_kept(world: World) -> None:
    for run_id in ("first", "second", "third"):
        ended(world, run_id)
    new_run(world.deployment, world.request(run_id="open"))

    assert ids(world) == ["third", "second", "first"]
    assert ids(world, older_than_s=2 * DAY_S) == ["second", "first"]
    assert ids(world, keep=1) == ["second", "first"]
    assert ids(world, keep=2, older_than_s=3 * DAY_S) == ["first"]
    assert ids(world, keep=9) == []


def test_a_cleaned_run_is_gone_with_its_own_files_and_no_others(world: World) -> None:
    ended(world, "run-1")
    ended(world, "run-10")
    run, folders = named_run(world.deployment, "run-1"), folders_of(world.deployment, "run-1")
    there = [uri for folder in folders for uri in world.keys(folder)]

    clean(world.deployment, run, folders)

    assert len(there) > 3
    with pytest.raises(RunNotFoundError):
        world.ledger.runs.get("run-1")
    left = world.keys(f"s3://{BUCKET}/")
    assert not [uri for uri in left if "/run-1/" in uri and "/output/" not in uri]
    assert f"s3://{BUCKET}/output/run-1/shard=000000/x" in left
    assert len(world.keys(world.deployment.run_uri("run-10"))) == len(there) - 1
    assert ids(world) == ["run-10"]


def test_an_open_run_is_not_cleaned(world: World) -> None:
    run = world.run(1)
    before = world.keys(f"s3://{BUCKET}/")
    with pytest.raises(PlanError, match="has not ended"):
        named_run(world.deployment, "run-1")
    with pytest.raises(LedgerError, match="has not ended"):
        clean(world.deployment, run, folders_of(world.deployment, "run-1"))
    assert world.keys(f"s3://{BUCKET}/") == before


@pytest.mark.parametrize("after_effect", [False, True])
def test_cleaning_killed_anywhere_is_finished_by_cleaning_again(after_effect: bool) -> None:
    killed = 0
    while True:
        world, fault = World(), Fault(killed + 1, after_effect)
        ended(world, "run-1")
        run, folders = named_run(world.deployment, "run-1"), folders_of(world.deployment, "run-1")
        try:
            clean(fault.deployment(world.deployment), run, folders)
        except KilledError:
            killed += 1
            for each in list(ended_runs(world.deployment)):
                clean(world.deployment, each, folders)
        assert ids(world) == [] and not world.keys(world.deployment.run_uri("run-1"))
        if fault.calls < fault.at_call:
            break
    assert killed > 10
