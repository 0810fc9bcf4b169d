"""``make scale`` finds lost and doubled shards and messages."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.scale.account import Account, Executions, account, unexplained
from benchmarks.scale.notes import BACK, DIED, EXECUTED, TOLD, Note
from sparklet.model import ShardRecord, ShardState

pytestmark = pytest.mark.nightly

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


def test_a_run_without_faults_has_no_findings() -> None:
    found = of()

    assert found.good
    assert found.line == "shards=4 succeeded=4 failed=0 lost=0 duplicated=0"


RUNNING = [*LEDGER[:3], replace(LEDGER[3], state=ShardState.RUNNING)]
CONTRADICTED = [*LEDGER[:3], replace(LEDGER[3], attempt_id="b")]
ANOTHER = [*NOTES[:-2], Note(EXECUTED, 3, "a3 s3://in/another")]
BOTH = [*NOTES, Note(EXECUTED, 3, f"b {INPUTS[3]}"), Note(TOLD, 3, "b")]


@pytest.mark.parametrize(
    ("changed", "kind", "told"),
    [
        ({"planned": PLANNED[:3], "ledger": LEDGER[:3], "listed": LISTED[:3]}, "lost", "s3://in/3 is in no shard"),
        ({"planned": [*PLANNED[:3], (3, INPUTS[0])]}, "duplicated", "s3://in/0 is in 2 shards"),
        ({"notes": NOTES[:-2]}, "lost", "shard 3"),
        ({"notes": ANOTHER}, "lost", "shard 3"),
        ({"ledger": RUNNING, "listed": [*LISTED[:3], (3, "RUNNING")]}, "lost", "shard 3 (s3://in/3) is RUNNING"),
        ({"ledger": LEDGER[:3], "listed": LISTED[:3]}, "lost", "shard 3 (s3://in/3) is not in the ledger"),
        ({"notes": BOTH}, "duplicated", "shard 3 (s3://in/3) was done by a3 and b"),
        ({"ledger": CONTRADICTED}, "duplicated", "shard 3"),
        ({"listed": LISTED[:3]}, "wrong", ""),
        ({"listed": [*LISTED[:3], (3, "FAILED")]}, "wrong", ""),
        ({"listed": [*LISTED, (3, "SUCCEEDED")]}, "duplicated", ""),
        ({"listed": [*LISTED, (9, "SUCCEEDED")]}, "wrong", ""),
    ],
)
def test_lost_doubled_and_contradictory_figures_are_found(changed: dict[str, Any], kind: str, told: str) -> None:
    found = of(**changed)

    assert not found.good
    assert any(told in each for each in getattr(found, kind))


@pytest.mark.parametrize("what", [BACK, DIED])
def test_an_execution_that_came_back_or_died_is_no_double(what: str) -> None:
    notes = [*NOTES, Note(EXECUTED, 3, f"b {INPUTS[3]}"), Note(what, 3, "b executed")]
    done = Executions.of(notes)

    assert of(notes=notes).good
    assert of(notes=notes).repeated == 1
    assert unexplained(done, {n: f"a{n}" for n in range(COUNT)}) == []
    (told,) = unexplained(Executions.of(notes[:-1]), {n: f"a{n}" for n in range(COUNT)})
    assert "shard 3" in told and "attempt b" in told


def test_a_scale_run_is_good_if_only_the_intended_shards_fail() -> None:
    failed = [*LEDGER[:3], replace(LEDGER[3], state=ShardState.FAILED)]
    listed = [*LISTED[:3], (3, "FAILED")]

    assert of(ledger=failed, listed=listed, notes=NOTES[:6], to_fail=frozenset({3})).good
    assert of(ledger=failed, listed=listed, notes=NOTES[:6]).wrong
    assert of(to_fail=frozenset({3})).wrong
