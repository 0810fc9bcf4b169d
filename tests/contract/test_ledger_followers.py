"""The ledger's promises about runs that follow another: such a run exists exactly if its parent's record names it."""

from dataclasses import replace

import pytest

from sparklet.errors import CheckpointConflictError, RunNotFoundError
from sparklet.model import Run, RunKind, RunState, follower_id
from sparklet.ports import Ledger
from tests.contract.samples import planned, run, script


def follower(parent: Run, kind: RunKind, number: int = 0) -> Run:
    new = run(follower_id(parent.run_id, kind, number), parent.created_s + 1)
    return replace(new, parent=parent.run_id, kind=kind, number=number)


def test_a_runs_record_names_its_followers(ledger: Ledger, run_id: str) -> None:
    planned(ledger, run_id)
    parent = ledger.runs.get(run_id)
    assert ledger.runs.followers(parent) == {} and parent.next_run_id == ""

    entered = [ledger.runs.follow(parent, follower(parent, kind)) for kind in (RunKind.NEXT, RunKind.CHECK)]

    now = ledger.runs.get(run_id)
    assert now == replace(parent, followers={"check": 0, "next": 0}) and now.next_run_id == f"{run_id}-next-0"
    assert list(ledger.runs.followers(now).items()) == [(RunKind.CHECK, entered[1]), (RunKind.NEXT, entered[0])]
    assert {entry.run_id for entry in ledger.runs.unfinalized()} >= {f"{run_id}-check-0", f"{run_id}-next-0"}


def test_a_follower_is_entered_once_by_the_first_checker(ledger: Ledger, run_id: str) -> None:
    """This holds even if one of the checkers has slept, and later commits have begun meanwhile."""
    planned(ledger, run_id)
    asleep = ledger.runs.get(run_id)
    commits = [follower(asleep, RunKind.COMMIT, number) for number in (0, 1)]
    for commit in commits:
        ledger.runs.follow(asleep, commit)

    late = ledger.runs.follow(asleep, replace(commits[0], inputs=("s3://others/",)))

    assert late == commits[0]
    assert ledger.runs.followers(ledger.runs.get(run_id)) == {RunKind.COMMIT: commits[1]}


@pytest.mark.parametrize("meanwhile", ["cancelled", "ended", "redriven"])
def test_no_run_follows_a_parent_that_has_changed_meanwhile(ledger: Ledger, run_id: str, meanwhile: str) -> None:
    planned(ledger, run_id)
    parent = ledger.runs.get(run_id)
    if meanwhile == "cancelled":
        ledger.runs.cancel(run_id)
    elif meanwhile == "ended":
        ledger.runs.finish(run_id, 0, RunState.FAILED)
    else:
        ledger.runs.start_generation(run_id, 1, script())

    with pytest.raises(CheckpointConflictError, match=run_id):
        ledger.runs.follow(parent, check := follower(parent, RunKind.CHECK))

    with pytest.raises(RunNotFoundError):
        ledger.runs.get(check.run_id)
    assert ledger.runs.get(run_id).followers == {}


def test_a_generation_has_a_check_and_a_next_run_of_its_own(ledger: Ledger, run_id: str) -> None:
    """The earlier followers stay in the record: they might be open, and a cancel or delete must include them."""
    planned(ledger, run_id)
    parent = ledger.runs.get(run_id)
    for kind in (RunKind.SCHEMA, RunKind.CHECK, RunKind.COMMIT, RunKind.NEXT):
        ledger.runs.follow(parent, follower(parent, kind))

    opened = ledger.runs.start_generation(run_id, 1, script())

    assert opened.followers == ledger.runs.get(run_id).followers == {"schema": 0, "check": 0, "commit": 0, "next": 0}
    assert opened.follower_ids.keys() == {"schema", "commit"} and not opened.next_run_id
    ledger.runs.follow(opened, follower(opened, RunKind.CHECK, 1))
    with pytest.raises(CheckpointConflictError, match="generation 1"):  # a checker that has slept since
        ledger.runs.follow(parent, follower(parent, RunKind.CHECK))
