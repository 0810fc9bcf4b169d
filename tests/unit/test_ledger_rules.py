"""Rules that all adapters of the ledger share."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.ledger.rules import (
    ERROR_CLASS_BYTES,
    ERROR_MESSAGE_BYTES,
    LEASE_EXPIRED,
    OUTPUTS_BYTES,
    bounded_failure,
    cut,
    expired_failure,
    is_conclusive,
    splits,
    stored_result,
)
from sparklet.model import Failure, ShardRecord, ShardResult

RECORD = ShardRecord("r", 1, "p", 0, 1, 1, 1, attempt_id="a-1")


@given(st.text(), st.integers(3, 40))
def test_a_cut_text_fits_and_is_the_beginning_of_the_whole(whole: str, most_bytes: int) -> None:
    short = cut(whole, most_bytes)

    assert len(short.encode()) <= most_bytes
    if short != whole:
        assert short.endswith("…") or len(whole.encode("utf-8", "replace")) <= most_bytes
        assert whole.encode("utf-8", "replace").decode().startswith(short.removesuffix("…"))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_text_that_fits_is_not_changed(text: str) -> None:
    assert cut(text, len(text.encode())) == text


def test_characters_that_no_store_accepts_are_replaced() -> None:
    assert cut("a\ud800b", 10) == "a?b"


@given(st.text(), st.text(), st.booleans())
def test_a_failure_fits(error_class: str, message: str, retryable: bool) -> None:
    kept = bounded_failure(Failure(error_class, message, retryable))

    assert len(kept.error_class.encode()) <= ERROR_CLASS_BYTES
    assert len(kept.message.encode()) <= ERROR_MESSAGE_BYTES
    assert kept.retryable is retryable


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=120)))
def test_outputs_are_kept_from_the_first_on_each_whole(outputs: list[str]) -> None:
    kept = stored_result(RECORD, ShardResult(1, 2, tuple(outputs)))["outputs"]

    assert kept == tuple(outputs[: len(kept)])
    assert sum(len(uri.encode()) for uri in kept) <= OUTPUTS_BYTES
    if len(kept) < len(outputs):
        assert sum(len(uri.encode()) for uri in outputs[: len(kept) + 1]) > OUTPUTS_BYTES


def test_a_lost_lease_names_its_attempt_and_since_when() -> None:
    failure = expired_failure(replace(RECORD, lease_end_s=3_725.0))

    assert failure.error_class == "LeaseExpired"
    assert "attempt a-1" in failure.message and "01:02:05 UTC" in failure.message


@pytest.mark.parametrize(("error_class", "kept"), [("OSError", True), ("LeaseExpired", False), ("", False)])
def test_a_lost_lease_keeps_an_earlier_cause(error_class: str, kept: bool) -> None:
    failure = expired_failure(replace(RECORD, error_class=error_class, error_message="of the attempt before"))

    assert ("of the attempt before" in failure.message) is kept


# --- which shards are split ---

BAD = Failure("BadRecordException", "malformed", by_input=True)


def a_shard(objects: int, isolate: int = 1, part: str = "part-0", **more: object) -> ShardRecord:
    return replace(ShardRecord("run-1", 0, part, 0, 1, objects, 10, isolate=isolate), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("failure", "isolate", "expected"),
    [
        (BAD, 0, False),
        (BAD, 1, True),
        (BAD, 2, True),
        (replace(BAD, direct=True), 2, False),
        (Failure("PlanError", "the part is gone"), 1, False),
        (Failure("NameError", "'x'", by_input=True), 1, False),
        (Failure("AccessDeniedException", "s3://b/k", files=("s3://b/k",), by_input=True), 1, True),
        (Failure("CommitStateUnknownError", "?", by_input=True), 2, False),
        (Failure("OutOfMemoryError", "heap"), 1, False),
        (Failure("OutOfMemoryError", "heap"), 2, True),
        (Failure(LEASE_EXPIRED, "lost"), 1, False),
        (Failure(LEASE_EXPIRED, "lost"), 2, True),
    ],
)
def test_only_failures_that_an_input_can_cause_split_a_shard(failure: Failure, isolate: int, expected: bool) -> None:
    assert splits(a_shard(10, isolate), failure) is expected


def test_shards_with_one_object_or_a_winner_are_not_split() -> None:
    assert not splits(a_shard(1), BAD) and not splits(a_shard(10, winner="a"), BAD)


def test_only_a_failure_of_the_same_class_needs_no_repetition() -> None:
    piece = a_shard(1, part="split-000000-000000-1.jsonl", error_class="BadRecordException")

    assert is_conclusive(piece, BAD)
    assert not is_conclusive(piece, Failure("OSError", "503", by_input=True))
    assert not is_conclusive(piece, Failure("BadRecordException", "not of an input"))
    assert not is_conclusive(a_shard(10, error_class="BadRecordException"), BAD)
    assert is_conclusive(a_shard(10, 2), Failure("DeadlineExceededError", "it was ended"))
