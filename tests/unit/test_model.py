"""The values of the model: plan lines, references, options, runs and buckets."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.errors import EventError, SettingsError
from sparklet.model import (
    SHARDS_PER_BUCKET,
    InputObject,
    JobOutcome,
    Run,
    RunOptions,
    RunState,
    ScriptRef,
    Shard,
    ShardRecord,
    ShardRef,
    ShardState,
    ledger_bucket,
    ledger_bucket_count,
)

NUMBERS = st.integers(0, 10**9 - 1)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TIMES = st.floats(0, 1e10)
OBJECTS = st.builds(InputObject, uri=WORDS, size_bytes=NUMBERS, etag=WORDS, version_id=WORDS, modified_s=TIMES)
REF = ShardRef("run-1", 7, 2, "part-000000.jsonl", 100, 50)


@given(st.builds(Shard, number=NUMBERS, objects=st.lists(OBJECTS, max_size=5).map(tuple)))
def test_a_shard_is_one_line_and_comes_back(shard: Shard) -> None:
    line = shard.to_line()

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert Shard.from_line(line) == shard


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"null",
        b"[]",
        b"{}",
        b'{"shard":1}',
        b'{"shard":"x","objects":[]}',
        b'{"shard":1,"objects":[["uri"]]}',
        b'{"shard":1,"objects":[["uri","size","etag"]]}',
        b'{"shard":1,"objects":[[1,2,3',
        b"\xff\xfe",
    ],
)
def test_a_plan_line_that_is_no_shard_raises_an_event_error(line: bytes) -> None:
    with pytest.raises(EventError, match="no shard"):
        Shard.from_line(line)


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, WORDS.filter(lambda part: "/" not in part))
def test_a_reference_comes_back_from_its_message(
    shard: int, generation: int, offset: int, length: int, part: str
) -> None:
    ref = ShardRef("run-1", shard, generation, part, offset, length)

    assert ShardRef.from_document(json.loads(ref.to_body())) == ref


def test_a_message_is_a_few_hundred_bytes() -> None:
    longest = ShardRef("r" * 63, 999_999_999, 999, "part-000000000.jsonl", 10**9, 10**6)

    assert len(longest.to_body()) < 300


@pytest.mark.parametrize("document", [None, 1, "text", [], {}, {"run_id": "r"}, {"shard": 1}, {"Records": []}])
def test_a_document_that_is_no_reference_is_read_as_none(document: object) -> None:
    assert ShardRef.from_document(document) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run_id", 5),
        ("run_id", ""),
        ("run_id", "Upper"),
        ("run_id", "a/../b"),
        ("run_id", "r" * 64),
        ("run_id", "-starts-with-a-dash"),
        ("run_id", "line\n"),
        ("part", None),
        ("part", "../../etc/passwd"),
        ("shard", -1),
        ("shard", "1"),
        ("shard", True),
        ("shard", 1.0),
        ("generation", None),
        ("offset", -5),
        ("length", []),
    ],
)
def test_a_reference_with_a_wrong_field_names_it(field: str, value: object) -> None:
    document = {"run_id": "r", "shard": 1, "generation": 0, "part": "p", "offset": 0, "length": 1, field: value}

    with pytest.raises(EventError, match=f"a shard message has a wrong {field}, a {type(value).__name__}") as error:
        ShardRef.from_document(document)

    assert "passwd" not in str(error.value)


@pytest.mark.parametrize("field", ["generation", "part", "offset", "length"])
def test_a_reference_that_lacks_a_field_names_it(field: str) -> None:
    document: dict[str, object] = {"run_id": "r", "shard": 1, "generation": 0, "part": "p", "offset": 0, "length": 1}
    del document[field]

    with pytest.raises(EventError, match=field):
        ShardRef.from_document(document)


def test_a_record_names_its_message() -> None:
    record = ShardRecord("run-1", 7, "part-000000.jsonl", 100, 50, 3, 4000, generation=2)

    assert record.ref == REF


def test_outcomes_of_rules_are_no_report_of_work() -> None:
    assert JobOutcome(quality=({"rules": []},)).is_empty
    assert not JobOutcome(rows=0).is_empty and not JobOutcome(quality=({},), answer=(None,)).is_empty


# --- options, runs, counts ---


def test_a_run_knows_its_generation_and_whether_it_is_sealed() -> None:
    script = ScriptRef("s3://b/s", "0", "s3://mine/s")
    run = Run("r", ("s3://in/",), "s3://out/x/", (script,))

    assert (run.generation, run.sealed) == (0, False)
    assert replace(run, scripts=(script, script)).generation == 1
    assert replace(run, shard_count=0).sealed


def test_no_two_runs_publish_at_one_path() -> None:
    run = Run("r", ("s3://in/",), "s3://out/x/", (), created_s=1.5)
    others = [replace(run, run_id="r-1"), replace(run, run_id="r2"), replace(run, created_s=1.502)]

    assert run.shard_output(7) == "s3://out/x/shard=r_5dc_000007"
    assert run.shard_output(1_234_567) == "s3://out/x/shard=r_5dc_1234567"
    assert replace(run, output_uri="s3://out/x").shard_output(7) == run.shard_output(7)
    for other in others:
        assert not any(other.shard_output(n).startswith(f"{run.output_uri}{run.shard_prefix}") for n in range(3))


def test_an_incremental_run_appends_and_cannot_overwrite() -> None:
    assert RunOptions(incremental=True).existing == "append"
    with pytest.raises(SettingsError, match="never be planned again"):
        RunOptions(incremental=True, existing="overwrite")


def test_which_states_have_ended() -> None:
    assert [state for state in ShardState if state.ended] == [
        ShardState.SUCCEEDED,
        ShardState.FAILED,
        ShardState.SPLIT,
    ]
    assert [state for state in RunState if not state.ended] == [RunState.PLANNING, RunState.RUNNING]


# --- buckets ---


@given(NUMBERS, NUMBERS)
def test_the_bucket_of_any_shard_is_read_in_runs_that_have_it(number: int, more: int) -> None:
    """A reader of a run with any number of shards beyond this one reads the shard's bucket."""
    assert 0 <= ledger_bucket(number) < ledger_bucket_count(number + 1) <= ledger_bucket_count(number + 1 + more)


@pytest.mark.parametrize(
    ("shard_count", "buckets"),
    [(0, 1), (1, 1), (10_000, 1), (10_001, 2), (20_000, 2), (20_001, 4), (1_000_000, 128), (10**9, 256)],
)
def test_the_number_of_buckets_follows_from_the_shards(shard_count: int, buckets: int) -> None:
    assert ledger_bucket_count(shard_count) == buckets


def test_no_bucket_grows_with_the_run() -> None:
    """The first bucket is the fullest: each doubling of the run adds half of a bucket's intended size to it."""
    filled: dict[int, int] = {}
    for number in range(200_000):
        filled[ledger_bucket(number)] = filled.get(ledger_bucket(number), 0) + 1

    doublings = (ledger_bucket_count(200_000)).bit_length() - 1
    assert sum(filled.values()) == 200_000
    assert set(filled) == set(range(ledger_bucket_count(200_000)))
    assert max(filled.values()) <= SHARDS_PER_BUCKET * (1 + doublings / 2)


def test_shards_written_together_spread_over_the_buckets() -> None:
    """A partition allows 1,000 writes a second, so neighbouring shards must not share one."""
    for first in (10_000, 100_000, 5_000_000):
        written = [ledger_bucket(number) for number in range(first, first + 1_000)]
        buckets = ledger_bucket_count(first + 1_000)
        assert len(set(written)) == buckets
        assert max(written.count(bucket) for bucket in set(written)) <= 2 * 1_000 / buckets + 2
