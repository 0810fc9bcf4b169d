"""The ledger's promises about runs and their plans."""

from dataclasses import replace

import pytest

from sparklet.errors import CheckpointConflictError, LedgerError, RunNotFoundError
from sparklet.model import RunState
from sparklet.ports import Ledger
from tests.contract.samples import part, planned, run, script
from tests.stand_ins.memory import FakeClock


def test_a_run_comes_back_as_it_was_entered(ledger: Ledger, run_id: str) -> None:
    ledger.runs.create(run(run_id))

    assert ledger.runs.get(run_id) == run(run_id)


def test_runs_are_listed_newest_first(ledger: Ledger, run_id: str) -> None:
    ids = {f"{run_id}-{i}": 1_700_000_000.0 + created for i, created in enumerate((5.5, 1000.0, 0.25))}
    for name, created_s in ids.items():
        ledger.runs.create(run(name, created_s))

    mine = [r for r in ledger.runs.list() if r.run_id in ids]

    assert [r.run_id for r in mine] == [f"{run_id}-1", f"{run_id}-0", f"{run_id}-2"]
    assert mine[0] == run(f"{run_id}-1", 1_700_001_000.0)


def test_an_unknown_run_is_named(ledger: Ledger, run_id: str) -> None:
    for call in (
        lambda: ledger.runs.get(run_id),
        lambda: list(ledger.runs.parts(run_id)),
        lambda: ledger.runs.add_part(run_id, part(0, 0, 1)),
        lambda: ledger.runs.mark_dispatched(run_id, 0),
        lambda: ledger.runs.seal_plan(run_id, 0, 0, 0),
        lambda: ledger.runs.start_generation(run_id, 1, script()),
        lambda: ledger.runs.finish(run_id, 0, RunState.FAILED),
        lambda: ledger.shards.count(run_id),
        lambda: ledger.shards.glance(run_id),
        lambda: list(ledger.shards.list(run_id)),
    ):
        with pytest.raises(RunNotFoundError, match=run_id):
            call()


def test_parts_come_back_in_order(ledger: Ledger, run_id: str) -> None:
    ledger.runs.create(run(run_id))
    sealed = [part(index, 3 * index, 3) for index in range(12)]
    for one in sealed:
        ledger.runs.add_part(run_id, one)

    assert list(ledger.runs.parts(run_id)) == sealed


def test_a_sealed_plan_takes_no_more_parts(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id, 3)

    with pytest.raises(CheckpointConflictError):
        ledger.runs.add_part(run_id, part(1, 3, 3))

    assert [p.index for p in ledger.runs.parts(run_id)] == [0]


def test_a_dispatched_part_stays_dispatched(ledger: Ledger, run_id: str) -> None:
    ledger.runs.create(run(run_id))
    ledger.runs.add_part(run_id, part(0, 0, 3))
    ledger.runs.add_part(run_id, part(1, 3, 3))

    ledger.runs.mark_dispatched(run_id, 0)
    ledger.runs.mark_dispatched(run_id, 0)

    assert list(ledger.runs.parts(run_id)) == [replace(part(0, 0, 3), dispatched=True), part(1, 3, 3)]


def test_only_a_sealed_part_can_be_dispatched(ledger: Ledger, run_id: str) -> None:
    ledger.runs.create(run(run_id))

    with pytest.raises(LedgerError, match="no sealed part 7"):
        ledger.runs.mark_dispatched(run_id, 7)


def test_sealing_ends_planning(ledger: Ledger, run_id: str) -> None:
    ledger.runs.create(run(run_id))
    ledger.runs.add_part(run_id, part(0, 0, 3))

    ledger.runs.seal_plan(run_id, 3, 6, 30)

    sealed = ledger.runs.get(run_id)
    assert sealed == replace(run(run_id), state=RunState.RUNNING, shard_count=3, object_count=6, size_bytes=30)
    assert sealed.sealed


def test_sealing_again_with_the_same_count_does_nothing(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id, 3)
    ledger.runs.finish(run_id, 0, RunState.SUCCEEDED)
    before = ledger.runs.get(run_id)

    ledger.runs.seal_plan(run_id, 3, 6, 30)

    assert ledger.runs.get(run_id) == before


def test_a_plan_is_not_sealed_with_two_counts(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id, 0)

    with pytest.raises(CheckpointConflictError, match=run_id):
        ledger.runs.seal_plan(run_id, 4, 6, 30)

    assert ledger.runs.get(run_id).shard_count == 0


def test_a_plan_is_sealed_only_with_the_shards_of_its_parts(ledger: Ledger, run_id: str) -> None:
    """GIVEN a part that another planner sealed, WHEN one that does not know it seals the plan, THEN it must stop."""
    ledger.runs.create(run(run_id))
    ledger.runs.add_part(run_id, part(0, 0, 3))
    ledger.runs.add_part(run_id, part(1, 3, 2))

    with pytest.raises(CheckpointConflictError, match="5"):
        ledger.runs.seal_plan(run_id, 3, 6, 30)

    assert ledger.runs.get(run_id).state is RunState.PLANNING


def test_a_run_ends_once(ledger: Ledger, run_id: str, clock: FakeClock) -> None:
    planned(ledger, run_id)
    clock.advance(10.5)
    ended = ledger.runs.finish(run_id, 0, RunState.SUCCEEDED_WITH_FAILURES)
    clock.advance(10)

    again = ledger.runs.finish(run_id, 0, RunState.FAILED)

    assert again == ended == ledger.runs.get(run_id)
    assert (ended.state, ended.ended_s) == (RunState.SUCCEEDED_WITH_FAILURES, clock.now_s() - 10)


def test_the_end_of_a_run_is_announced_once_per_generation(ledger: Ledger, run_id: str, clock: FakeClock) -> None:
    planned(ledger, run_id)
    ledger.runs.mark_notified(run_id, 0)
    assert ledger.runs.get(run_id).notified_s is None, "it has not ended"

    ledger.runs.finish(run_id, 0, RunState.FAILED)
    assert ledger.runs.get(run_id).notified_s is None
    ledger.runs.mark_notified(run_id, 0)
    assert ledger.runs.get(run_id).notified_s == clock.now_s()

    ledger.runs.start_generation(run_id, 1, script("repaired"))
    assert ledger.runs.get(run_id).notified_s is None
    ledger.runs.finish(run_id, 1, RunState.SUCCEEDED)
    ledger.runs.mark_notified(run_id, 0)
    assert ledger.runs.get(run_id).notified_s is None, "the later end is still to be told"


def test_a_run_can_fail_while_it_is_planned(ledger: Ledger, run_id: str) -> None:
    ledger.runs.create(run(run_id))

    assert ledger.runs.finish(run_id, 0, RunState.FAILED).state is RunState.FAILED

    with pytest.raises(CheckpointConflictError):
        ledger.runs.add_part(run_id, part(0, 0, 1))
    with pytest.raises(CheckpointConflictError):
        ledger.runs.seal_plan(run_id, 0, 0, 0)


def test_a_run_cannot_finish_in_a_state_that_is_not_final(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id)

    with pytest.raises(ValueError, match="RUNNING"):
        ledger.runs.finish(run_id, 0, RunState.RUNNING)


def test_a_generation_runs_its_own_script(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id)
    ledger.runs.finish(run_id, 0, RunState.FAILED)

    opened = ledger.runs.start_generation(run_id, 1, script("repaired"))

    assert opened == ledger.runs.get(run_id)
    assert opened.scripts == (script(), script("repaired"))
    assert (opened.generation, opened.state, opened.ended_s) == (1, RunState.RUNNING, None)


def test_an_older_generation_does_not_end_the_run(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id)
    ledger.runs.start_generation(run_id, 1, script("repaired"))

    assert ledger.runs.finish(run_id, 0, RunState.FAILED).state is RunState.RUNNING
    assert ledger.runs.finish(run_id, 1, RunState.SUCCEEDED).state is RunState.SUCCEEDED


@pytest.mark.parametrize("generation", [0, 2])
def test_only_the_next_generation_can_start(ledger: Ledger, run_id: str, generation: int) -> None:
    planned(ledger, run_id)

    with pytest.raises(LedgerError, match="the run is at generation 0"):
        ledger.runs.start_generation(run_id, generation, script())

    assert ledger.runs.get(run_id).generation == 0


def test_a_generation_starts_only_once_the_plan_is_sealed(ledger: Ledger, run_id: str) -> None:
    ledger.runs.create(run(run_id))

    with pytest.raises(LedgerError, match="not sealed"):
        ledger.runs.start_generation(run_id, 1, script())
