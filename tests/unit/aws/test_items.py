"""Items of the ledger: their size, and that records come back from them unchanged."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.aws.dynamodb import attributes, item_of
from sparklet.errors import LedgerError
from sparklet.ledger.items import (
    FORMAT,
    part_item,
    part_value,
    run_item,
    run_value,
    shard_item,
    shard_record,
    sortable,
)
from sparklet.ledger.rules import ERROR_CLASS_BYTES, ERROR_MESSAGE_BYTES, LOG_STREAM_BYTES, OUTPUTS_BYTES
from sparklet.model import (
    PartRecord,
    Position,
    Run,
    RunOptions,
    RunState,
    ScriptRef,
    ShardRecord,
    ShardState,
)

TIMES = st.floats(0, 4e9, allow_nan=False)
COUNTS = st.integers(0, 10**15)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def item_bytes(item: dict[str, Any]) -> int:
    """An item's size by DynamoDB's rules: names and values in UTF-8; a number at most 21; a list 3 and 1 for each."""
    return sum(len(name.encode()) + _value_bytes(value) for name, value in item.items())


def _value_bytes(value: dict[str, Any]) -> int:
    ((kind, content),) = value.items()
    if kind == "S":
        return len(content.encode())
    if kind == "N":
        return min(21, len(re.sub(r"\D", "", content)) // 2 + 2)
    if kind == "L":
        return 3 + sum(1 + _value_bytes(entry) for entry in content)
    raise AssertionError(f"unexpected kind {kind}")


def stored(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The item as it is read back from the table."""
    return item_of(attributes(item))


def test_the_largest_item_of_a_shard_is_below_1_kb() -> None:
    """So every transition costs one write unit, whatever was written into the item before."""
    record = ShardRecord(
        *("r" * 63, 999_999_999, "part-999999.jsonl", 10**10, 10**7, 10**5, 10**13, 1000),
        state=ShardState.RUNNING,
        attempts=1000,
        requeues=1000,
        unrun=3,  # its most: see runs.dispatch
        attempt_id="a" * 36,
        taken_from=ShardState.RUNNING,
        lease_end_s=1_763_625_600.123456,
        changed_s=1_763_625_600.123456,
        started_s=1_763_625_600.123456,
        error_class="e" * ERROR_CLASS_BYTES,
        error_message="m" * ERROR_MESSAGE_BYTES,
        rows=10**12,
        output_bytes=10**15,
        outputs=("o" * (OUTPUTS_BYTES // 5),) * 5,
        log_stream="l" * LOG_STREAM_BYTES,
    )
    item = attributes({**shard_item(record), "state": ShardState.SUCCEEDED, "writer": "0" * 12, "revision": 100_000})

    assert item_bytes(item) <= 1024


@given(
    st.builds(
        ShardRecord,
        run_id=st.just("run-1"),
        number=st.integers(0, 10**9 - 1),
        part=WORDS,
        offset=COUNTS,
        length=COUNTS,
        object_count=COUNTS,
        size_bytes=COUNTS,
        generation=st.integers(0, 50),
        isolate=st.integers(0, 2),
    ),
    TIMES,
)
def test_a_new_shard_comes_back_from_its_item(record: ShardRecord, now_s: float) -> None:
    assert shard_record(stored(shard_item(replace(record, changed_s=now_s)))) == replace(record, changed_s=now_s)


SCRIPTS = st.builds(ScriptRef, uri=WORDS, sha256=WORDS, source_uri=WORDS, py_files=st.lists(WORDS).map(tuple))


@given(
    st.builds(
        Run,
        run_id=st.just("run-1"),
        inputs=st.lists(WORDS).map(tuple),
        output_uri=WORDS,
        scripts=st.lists(SCRIPTS, min_size=1, max_size=3).map(tuple),
        args=st.lists(WORDS).map(tuple),
        env=st.dictionaries(WORDS, WORDS),
        params=st.dictionaries(WORDS, st.none() | st.booleans() | st.integers() | WORDS | st.lists(WORDS)),
        options=st.builds(
            RunOptions, include=st.lists(WORDS).map(tuple), tolerated_failure_percentage=st.floats(0, 100)
        ),
        state=st.sampled_from(RunState),
        shard_count=st.none() | COUNTS,
        object_count=COUNTS,
        size_bytes=COUNTS,
        created_s=TIMES,
        ended_s=st.none() | TIMES,
    )
)
def test_a_run_comes_back_from_its_item(run: Run) -> None:
    assert run_value(stored(run_item(run))) == run


@given(
    st.builds(
        PartRecord,
        index=st.integers(0, 999_999),
        part=WORDS,
        first_shard=COUNTS,
        shard_count=COUNTS,
        object_count=COUNTS,
        size_bytes=COUNTS,
        position=st.builds(Position, source=COUNTS, after=WORDS),
        dispatched=st.booleans(),
    )
)
def test_a_part_comes_back_from_its_item(part: PartRecord) -> None:
    assert part_value(stored(part_item("run-1", part))) == part


@given(st.lists(TIMES, min_size=2))
def test_times_sort_as_texts_like_numbers(times: list[float]) -> None:
    rounded = sorted(round(time_s, 6) for time_s in times)

    assert sorted(map(sortable, rounded)) == list(map(sortable, rounded))


A_RUN = Run("run-1", ("s3://in/",), "s3://out/", (ScriptRef("s3://b/j.py", "0", "j.py"),))
A_SHARD = ShardRecord("run-1", 3, "part", 0, 1, 1, 1)
NEWER = "run run-1 was written by a newer Sparklet .*: upgrade this one"


def test_items_of_a_newer_format_are_refused_not_misread() -> None:
    newer = {"fmt": FORMAT + 1}

    with pytest.raises(LedgerError, match=NEWER):
        run_value({**run_item(A_RUN), **newer})
    with pytest.raises(LedgerError, match=NEWER):
        shard_record({**shard_item(A_SHARD), **newer})
