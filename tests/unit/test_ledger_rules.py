"""What the ledger's adapters do alike."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.ledger.rules import (
    ERROR_CLASS_BYTES,
    ERROR_MESSAGE_BYTES,
    OUTPUTS_BYTES,
    bounded_failure,
    bounded_result,
    cut,
    expired_failure,
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
def test_a_text_that_fits_stays_as_it_is(text: str) -> None:
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
    kept = bounded_result(ShardResult(1, 2, tuple(outputs))).outputs

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
