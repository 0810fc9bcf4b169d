"""The rule that finds the bad objects of a failing shard, held against every set of bad objects."""

import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.ledger.isolation import MAX_BAD, after_failure, after_success, handled, is_conclusive, isolates
from sparklet.ledger.rules import LEASE_EXPIRED
from sparklet.model import Failure, Isolation, ShardRecord

BAD = Failure("BadRecordException", "malformed", by_input=True)
SHARDS = st.integers(2, 1000).flatmap(
    lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1), min_size=1, max_size=12))
)


def a_shard(objects: int, isolate: int = 1, **more: object) -> ShardRecord:
    return replace(ShardRecord("run-1", 0, "part", 0, 1, objects, 10, isolate=isolate), **more)  # type: ignore[arg-type]


def isolated(
    record: ShardRecord, bad: set[int], *, named: bool, has_schema: bool = True
) -> tuple[ShardRecord | Failure, int, int]:
    """What becomes of a shard whose attempts fail if they do a bad object; how many attempts, and their objects."""
    attempts = done = 0
    while True:
        doing = handled(record)
        attempts, done = attempts + 1, done + len(doing)
        failing = [place for place in doing if place in bad]
        if not failing and not record.trial:
            return record, attempts, done
        if failing:
            found = after_failure(record, BAD, failing[:1] if named else (), has_schema=has_schema)
            record = replace(record, error_class=BAD.error_class, error_message=BAD.message)
        else:
            found = after_success(record)
        if isinstance(found, Failure):
            return found, attempts, done
        record = replace(record, **asdict(found))


def most(objects: int) -> int:
    return min(max(1, objects // 10), MAX_BAD)


@given(SHARDS, st.booleans(), st.booleans())
def test_exactly_the_bad_objects_are_found(shard: tuple[int, set[int]], named: bool, has_schema: bool) -> None:
    objects, bad = shard

    found, attempts, _ = isolated(a_shard(objects), bad, named=named, has_schema=has_schema)

    if len(bad) > most(objects):
        assert isinstance(found, Failure)
        assert (found.error_class, found.retryable) == ("IsolationError", False)
        assert "malformed" in found.message
    elif isinstance(found, Failure):  # the control was bad, too
        assert not named and {0, objects - 1} <= bad
    else:
        assert {place for place, *_ in found.bad} == bad
        assert {tuple(cause) for _, *cause in found.bad} == {("BadRecordException", "malformed")}
    each = 2 - has_schema if named else math.ceil(math.log2(objects)) + 2
    assert attempts <= 1 + (min(len(bad), most(objects)) + 1) * each


@given(st.integers(2, 1000).flatmap(lambda count: st.tuples(st.just(count), st.integers(0, count - 1))))
def test_one_bad_object_costs_what_is_promised(shard: tuple[int, int]) -> None:
    objects, bad = shard

    found, attempts, done = isolated(a_shard(objects), {bad}, named=False)

    assert isinstance(found, ShardRecord)
    assert [place for place, *_ in found.bad] == [bad]
    assert attempts - 1 <= math.ceil(math.log2(objects)) + 2
    assert done - objects <= 2 * objects


@pytest.mark.parametrize("objects", [2, 3, 40, 1000])
def test_a_broken_script_is_found_out_soon(objects: int) -> None:
    found, attempts, _ = isolated(a_shard(objects), set(range(objects)), named=False)

    assert isinstance(found, Failure)
    assert attempts - 1 <= math.ceil(math.log2(objects)) + 1


def test_what_fails_together_and_succeeds_apart_ends() -> None:
    record, failed = a_shard(8, error_class="X", error_message="as a whole"), after_failure(a_shard(8), BAD)
    for _ in range(4):
        assert isinstance(failed, Isolation)
        failed = after_success(replace(record, **asdict(failed)))

    assert isinstance(failed, Failure)
    assert "succeed apart" in failed.message and "X: as a whole" in failed.message


def test_several_named_objects_are_bad_at_once() -> None:
    found = after_failure(a_shard(40), BAD, [3, 7])

    assert isinstance(found, Isolation)
    assert [place for place, *_ in found.bad] == [3, 7]
    assert not found.trial


@pytest.mark.parametrize(
    ("failure", "isolate", "expected"),
    [
        (BAD, 0, False),
        (BAD, 1, True),
        (BAD, 2, True),
        (Failure("PlanError", "the part is gone"), 1, False),
        (Failure("NameError", "'x'", by_input=True), 1, False),
        (Failure("AccessDeniedException", "s3://b/k", files=("s3://b/k",), by_input=True), 1, True),
        (Failure("TableError", "stage it", by_input=True), 2, False),
        (Failure("OutOfMemoryError", "heap"), 1, False),
        (Failure("OutOfMemoryError", "heap"), 2, True),
        (Failure(LEASE_EXPIRED, "lost"), 1, False),
        (Failure(LEASE_EXPIRED, "lost"), 2, True),
    ],
)
def test_what_an_input_may_be_to_blame_for(failure: Failure, isolate: int, expected: bool) -> None:
    assert isolates(a_shard(10, isolate), failure) is expected


@pytest.mark.parametrize("shard", [a_shard(1), a_shard(10, winner="a")])
def test_single_objects_and_winners_are_left_alone(shard: ShardRecord) -> None:
    assert not isolates(shard, BAD)


def test_only_a_failure_of_the_same_class_needs_no_repetition() -> None:
    trying = a_shard(10, trial=(0, 5), suspects=(0, 10), error_class="BadRecordException")

    assert is_conclusive(trying, BAD)
    assert not is_conclusive(trying, Failure("OSError", "503", by_input=True))
    assert not is_conclusive(a_shard(10, error_class="BadRecordException"), BAD)
    assert is_conclusive(a_shard(10, 2), Failure("DeadlineExceededError", "it was ended"))
