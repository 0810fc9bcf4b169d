"""The ledger's promises about runs that are cancelled, and about runs that are deleted."""

from dataclasses import replace

import pytest

from sparklet.errors import CheckpointConflictError, LedgerError, RunExistsError, RunNotFoundError
from sparklet.model import Counts, RunState
from sparklet.ports import Ledger
from tests.contract.samples import FLAKY, claim, part, planned, ref, run, script
from tests.stand_ins.memory import FakeClock


def test_a_run_is_cancelled_once(ledger: Ledger, run_id: str, clock: FakeClock) -> None:
    planned(ledger, run_id)
    before = ledger.runs.get(run_id)

    cancelled = ledger.runs.cancel(run_id)
    clock.advance(10)

    assert cancelled == replace(before, cancelled_s=clock.now_s() - 10)
    assert ledger.runs.cancel(run_id) == ledger.runs.get(run_id) == cancelled


def test_a_run_that_has_ended_is_not_cancelled(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id)
    ended = ledger.runs.finish(run_id, 0, RunState.SUCCEEDED)

    assert ledger.runs.cancel(run_id) == ended
    assert ledger.runs.get(run_id).cancelled_s is None


def test_an_unknown_run_is_neither_cancelled_nor_deleted(ledger: Ledger, run_id: str) -> None:
    for call in (ledger.runs.cancel, ledger.runs.retire, ledger.runs.delete):
        with pytest.raises(RunNotFoundError, match=run_id):
            call(run_id)


def test_a_cancelled_run_takes_no_part_and_no_generation(ledger: Ledger, run_id: str) -> None:
    ledger.runs.create(run(run_id))
    ledger.runs.add_part(run_id, part(0, 0, 2))
    ledger.runs.cancel(run_id)

    with pytest.raises(CheckpointConflictError, match="being cancelled"):
        ledger.runs.add_part(run_id, part(1, 2, 2))

    ledger.runs.seal_plan(run_id, 2, 4, 20, {"not planned": 0})
    sealed = ledger.runs.get(run_id)
    assert (sealed.shard_count, sealed.skipped, sealed.state) == (2, {"not planned": 0}, RunState.RUNNING)
    with pytest.raises(LedgerError, match="being cancelled"):
        ledger.runs.start_generation(run_id, 1, script())
    assert ledger.runs.get(run_id).generation == 0


def test_only_a_cancelled_run_ends_as_cancelled(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id)
    assert ledger.runs.finish(run_id, 0, RunState.CANCELLED).state is RunState.RUNNING
    ledger.runs.cancel(run_id)

    assert ledger.runs.finish(run_id, 0, RunState.SUCCEEDED).state is RunState.RUNNING
    assert ledger.runs.finish(run_id, 0, RunState.CANCELLED).state is RunState.CANCELLED


def test_a_redriven_run_is_no_longer_cancelled(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id)
    ledger.runs.cancel(run_id)
    ledger.runs.finish(run_id, 0, RunState.CANCELLED)

    opened = ledger.runs.start_generation(run_id, 1, script("repaired"))

    assert opened == ledger.runs.get(run_id)
    assert (opened.state, opened.cancelled_s, opened.ended_s) == (RunState.RUNNING, None, None)
    assert ledger.runs.finish(run_id, 1, RunState.SUCCEEDED).state is RunState.SUCCEEDED


def test_a_cancelled_run_can_be_opened_and_stay_cancelled(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id)
    cancelled = ledger.runs.cancel(run_id)
    ledger.runs.finish(run_id, 0, RunState.CANCELLED)

    opened = ledger.runs.start_generation(run_id, 1, script(), stays_cancelled=True)

    assert (opened.state, opened.cancelled_s, opened.ended_s) == (RunState.RUNNING, cancelled.cancelled_s, None)
    assert ledger.runs.finish(run_id, 1, RunState.SUCCEEDED).state is RunState.RUNNING
    assert ledger.runs.finish(run_id, 1, RunState.CANCELLED).state is RunState.CANCELLED


# --- deleting ---


def test_only_an_ended_run_is_retired_and_only_then_deleted(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id, 2)
    with pytest.raises(LedgerError, match="has not ended"):
        ledger.runs.retire(run_id)
    ledger.runs.finish(run_id, 0, RunState.FAILED)

    with pytest.raises(LedgerError, match="not retired"):
        ledger.runs.delete(run_id)

    assert ledger.shards.count(run_id) == Counts(pending=2)


def test_a_retired_run_is_still_there_but_takes_no_generation(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id)
    ended = ledger.runs.finish(run_id, 0, RunState.FAILED)

    assert ledger.runs.retire(run_id) == ledger.runs.retire(run_id) == ledger.runs.get(run_id) == ended

    with pytest.raises(LedgerError, match="being deleted"):
        ledger.runs.start_generation(run_id, 1, script())


def test_a_deleted_runs_id_is_taken_and_other_runs_stay(ledger: Ledger, run_id: str) -> None:
    other = f"{run_id}-b"
    for name in (run_id, other):
        planned(ledger, name, 60)
        ledger.runs.finish(name, 0, RunState.FAILED)
    ledger.runs.retire(run_id)

    assert ledger.runs.delete(run_id) == 60 + 1 + 1

    with pytest.raises(RunNotFoundError):
        ledger.runs.get(run_id)
    with pytest.raises(RunNotFoundError):
        ledger.runs.delete(run_id)
    assert [r.run_id for r in ledger.runs.list() if r.run_id.startswith(run_id)] == [other]
    assert ledger.shards.count(other) == Counts(pending=60)
    with pytest.raises(RunExistsError, match="was deleted"):  # late messages have the id, which must not mean a new run
        ledger.runs.create(run(run_id))
    with pytest.raises(RunNotFoundError):
        ledger.runs.get(run_id)


def test_a_late_worker_changes_nothing_of_a_deleted_run(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id)
    claim(ledger, run_id, "late")
    ledger.runs.finish(run_id, 0, RunState.FAILED)
    ledger.runs.retire(run_id)
    ledger.runs.delete(run_id)

    for call in (
        lambda: ledger.attempts.release(run_id, 0, "late", FLAKY),
        lambda: ledger.attempts.claim(ref(run_id), "later", 10, 3),
    ):
        with pytest.raises(LedgerError):
            call()
    with pytest.raises(RunNotFoundError):
        ledger.runs.add_part(run_id, part(0, 0, 1))
