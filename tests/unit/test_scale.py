"""``make scale`` finds what is lost and what is doubled, and meets the same shards with the same faults again."""

from dataclasses import replace

import pytest

from benchmarks.scale.account import Account, Executions, account, unexplained
from benchmarks.scale.faults import Faults
from benchmarks.scale.notes import BACK, DIED, EXECUTED, TOLD, Note
from sparklet.model import ShardRecord, ShardState

COUNT = 4
INPUTS = [f"s3://in/{number}" for number in range(COUNT)]
PLANNED = list(enumerate(INPUTS))
LEDGER = [
    ShardRecord("run-1", n, "part", 0, 1, 1, 1, state=ShardState.SUCCEEDED, attempts=1, attempt_id=f"a{n}")
    for n in range(COUNT)
]
LISTED = [(n, "SUCCEEDED") for n in range(COUNT)]
NOTES = [note for n in range(COUNT) for note in (Note(EXECUTED, n, f"a{n} {INPUTS[n]}"), Note(TOLD, n, f"a{n}"))]


def of(
    planned: list[tuple[int, str]] = PLANNED,
    ledger: list[ShardRecord] = LEDGER,
    listed: list[tuple[int, str]] = LISTED,
    notes: list[Note] = NOTES,
    to_fail: frozenset[int] = frozenset(),
) -> Account:
    return account(INPUTS, planned, ledger, listed, Executions.of(notes), to_fail)


def test_a_run_in_which_all_is_well_adds_up() -> None:
    found = of()

    assert found.good
    assert found.line == "shards=4 succeeded=4 failed=0 lost=0 duplicated=0"


def test_an_object_in_no_shard_is_lost() -> None:
    found = of(PLANNED[:3], LEDGER[:3], LISTED[:3], NOTES[:6])

    assert found.lost == ["s3://in/3 is in no shard"]


def test_an_object_in_two_shards_is_doubled() -> None:
    found = of([*PLANNED[:3], (3, INPUTS[0])])

    assert f"{INPUTS[0]} is in 2 shards" in found.duplicated


@pytest.mark.parametrize("notes", [NOTES[:-2], [*NOTES[:-2], Note(EXECUTED, 3, "a3 s3://in/another")]])
def test_a_success_without_its_own_execution_is_lost(notes: list[Note]) -> None:
    found = of(notes=notes)

    assert [name.partition(" (")[0] for name in found.lost] == ["shard 3"]


@pytest.mark.parametrize("state", [ShardState.PENDING, ShardState.RUNNING])
def test_a_shard_that_has_not_ended_is_lost(state: ShardState) -> None:
    found = of(ledger=[*LEDGER[:3], replace(LEDGER[3], state=state)], listed=[*LISTED[:3], (3, state)])

    assert found.lost == [f"shard 3 ({INPUTS[3]}) is {state}"]


def test_a_shard_that_is_not_in_the_ledger_is_lost() -> None:
    assert of(ledger=LEDGER[:3], listed=LISTED[:3]).lost == [f"shard 3 ({INPUTS[3]}) is not in the ledger"]


def test_two_workers_that_both_finished_a_shard_are_a_double() -> None:
    notes = [*NOTES, Note(EXECUTED, 3, f"b {INPUTS[3]}"), Note(TOLD, 3, "b")]

    assert of(notes=notes).duplicated == [f"shard 3 ({INPUTS[3]}) was done by a3 and b"]


def test_a_worker_contradicting_the_ledger_is_a_double() -> None:
    assert of(ledger=[*LEDGER[:3], replace(LEDGER[3], attempt_id="b")]).duplicated


@pytest.mark.parametrize("what", [BACK, DIED])
def test_an_execution_known_not_to_count_is_no_double(what: str) -> None:
    notes = [*NOTES, Note(EXECUTED, 3, f"b {INPUTS[3]}"), Note(what, 3, "b executed")]
    done = Executions.of(notes)

    assert of(notes=notes).good
    assert of(notes=notes).repeated == 1
    assert unexplained(done, {n: f"a{n}" for n in range(COUNT)}) == []


def test_an_unknown_execution_is_reported() -> None:
    done = Executions.of([*NOTES, Note(EXECUTED, 3, f"b {INPUTS[3]}")])

    (told,) = unexplained(done, {n: f"a{n}" for n in range(COUNT)})
    assert "shard 3" in told
    assert "attempt b" in told


def test_result_files_must_agree_with_the_ledger() -> None:
    assert of(listed=LISTED[:3]).wrong
    assert of(listed=[*LISTED[:3], (3, "FAILED")]).wrong
    assert of(listed=[*LISTED, (3, "SUCCEEDED")]).duplicated
    assert of(listed=[*LISTED, (9, "SUCCEEDED")]).wrong


def test_exactly_those_fail_that_are_meant_to() -> None:
    failed = [*LEDGER[:3], replace(LEDGER[3], state=ShardState.FAILED)]
    listed = [*LISTED[:3], (3, "FAILED")]

    assert of(ledger=failed, listed=listed, notes=NOTES[:6], to_fail=frozenset({3})).good
    assert of(ledger=failed, listed=listed, notes=NOTES[:6]).wrong
    assert of(to_fail=frozenset({3})).wrong


def test_faults_have_their_share_and_repeat_with_their_seed() -> None:
    faults, again, other = Faults(1, 0.01), Faults(1, 0.01), Faults(2, 0.01)
    crashed = [shard for shard in range(5_000) if faults.crash(shard)]

    assert 25 < len(crashed) < 100
    assert crashed == [shard for shard in range(5_000) if again.crash(shard)]
    assert crashed != [shard for shard in range(5_000) if other.crash(shard)]
    assert {faults.crash(shard) for shard in crashed} == {"claimed", "executed", "recorded"}
    assert crashed != [shard for shard in range(5_000) if faults.twice(shard)]
