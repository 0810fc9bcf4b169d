"""What users type: sizes, pairs, tolerances and shard lists are read, or refused with what was wrong."""

import pytest

from sparklet.cli.options import parse_pairs, parse_shards, parse_tolerance, run_options
from sparklet.cli.sizes import duration_text, parse_size_bytes, size_text
from sparklet.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("128MiB", 128 * 2**20), ("128M", 128 * 2**20), ("1.5 GiB", 1610612736), ("7", 7), ("10b", 10), ("2kb", 2048)],
)
def test_sizes_are_read_as_people_write_them(text: str, size_bytes: int) -> None:
    assert parse_size_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1 XB", "1e6", "12 34"])
def test_what_is_no_size_is_refused_and_named(text: str) -> None:
    with pytest.raises(SettingsError, match="no size"):
        parse_size_bytes(text)


def test_sizes_and_durations_are_written_for_people() -> None:
    assert [size_text(n) for n in (0, 1023, 1536, 5 * 2**30)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
    assert [duration_text(s) for s in (0.54, 42, 61, 3725)] == ["0.5 s", "42 s", "1 min 01 s", "1 h 02 min"]


def test_pairs_keep_everything_behind_the_first_equals_sign() -> None:
    assert parse_pairs("--param", ["a=1", "url=s3://b/?x=y", "empty="]) == {"a": "1", "url": "s3://b/?x=y", "empty": ""}


@pytest.mark.parametrize("given", [["novalue"], ["=x"], ["a=1", "a=2"]])
def test_a_wrong_pair_is_refused_with_its_options_name(given: list[str]) -> None:
    with pytest.raises(SettingsError, match="--param"):
        parse_pairs("--param", given)


def test_tolerance_is_a_count_or_a_percentage() -> None:
    assert parse_tolerance("5") == (5, 0.0)
    assert parse_tolerance("2.5%") == (0, 2.5)
    with pytest.raises(SettingsError, match="--tolerate"):
        parse_tolerance("some")


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(SettingsError):
        run_options("0", 1, None, None)
    with pytest.raises(SettingsError):
        run_options("1M", 1, None, None, tolerate="101%")


def test_shards_are_numbers_and_ranges_each_once() -> None:
    assert parse_shards("3, 17,20-22,21") == (3, 17, 20, 21, 22)
    assert parse_shards("") == ()


@pytest.mark.parametrize("text", ["a", "1-", "-1", "5-3", "1;2"])
def test_a_wrong_shard_list_is_refused_and_named(text: str) -> None:
    with pytest.raises(SettingsError, match="--shards"):
        parse_shards(text)
