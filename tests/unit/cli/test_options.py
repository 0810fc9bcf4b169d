"""What users type: sizes, pairs, tolerances and shard lists are read, or refused with what was wrong."""

import io
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sparklet.cli.options import known_runs, parse_pairs, parse_shards
from sparklet.cli.planning_options import (
    EndOptions,
    InputOptions,
    ShardOptions,
    parse_since_s,
    run_options,
)
from sparklet.cli.sizes import duration_text, size_text
from sparklet.errors import PlanError, SettingsError
from sparklet.fanout.planning.list_requests import ListRequest
from sparklet.model import Access, RunOptions
from sparklet.quantities import parse_duration_s, parse_size_bytes, parse_tolerance

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


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
    assert parse_tolerance("5", "--tolerate") == (5, 0.0)
    assert parse_tolerance("2.5%", "--tolerate") == (0, 2.5)
    with pytest.raises(SettingsError, match="--tolerate"):
        parse_tolerance("some", "--tolerate")


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(SettingsError):
        run_options(InputOptions(), ShardOptions(shard_size="0"), EndOptions())
    with pytest.raises(SettingsError):
        run_options(InputOptions(), ShardOptions(), EndOptions(tolerate="101%"))


def test_options_that_nobody_gave_are_those_of_the_model() -> None:
    assert run_options(InputOptions(), ShardOptions(), EndOptions()) == RunOptions()


def test_every_option_reaches_the_run() -> None:
    given = InputOptions(
        include=["*.csv"],
        exclude=["_*"],
        since="2026-11-20T08:30",
        incremental=True,
        versions=True,
        keep_empty=True,
        archived="skip",
        other_region=True,
    )
    shards = ShardOptions("1MiB", 7, "dt=*", 2.5, "csv", "2GiB", "mark")

    assert run_options(given, shards, EndOptions(5, "2.5%", 9.0)) == RunOptions(
        target_bytes=2**20,
        max_objects=7,
        include=("*.csv",),
        exclude=("_*",),
        modified_since_s=datetime(2026, 11, 20, 8, 30, tzinfo=UTC).timestamp(),
        incremental=True,
        all_versions=True,
        keep_empty=True,
        archived="skip",
        other_region=True,
        group_by="dt=*",
        compression_factor=2.5,
        split="csv",
        max_shard_bytes=2 * 2**30,
        oversize="mark",
        max_attempts=5,
        tolerated_failure_percentage=2.5,
        rate_per_s=9.0,
    )


@pytest.mark.parametrize(
    ("text", "ago_s"), [("36h", 36 * 3600), ("7d", 7 * 86400), ("1.5H", 5400), ("90s", 90), ("2w", 14 * 86400)]
)
def test_since_may_be_how_long_ago(text: str, ago_s: float) -> None:
    assert parse_duration_s(text) == ago_s
    assert parse_since_s(text, NOW) == NOW.timestamp() - ago_s


def test_since_may_be_a_day_or_a_time_in_utc_or_its_own_zone() -> None:
    assert parse_since_s("2026-11-20", NOW) == datetime(2026, 11, 20, tzinfo=UTC).timestamp()
    assert parse_since_s("2026-11-20T10:00+02:00", NOW) == datetime(2026, 11, 20, 8, tzinfo=UTC).timestamp()
    for wrong in ("yesterday", "36", "", "2026-13-01", "7 days"):
        with pytest.raises(SettingsError, match="--since"):
            parse_since_s(wrong, NOW)


# --- lists ---


def test_lists_of_this_machine_are_read_and_those_in_s3_are_named(tmp_path: Path) -> None:
    path = tmp_path / "keys.csv"
    path.write_bytes(b"bucket,key\n")

    requests = InputOptions(lists=[str(path), "s3://b/m.json"], list_format="csv", list_path="key").list_requests()

    assert requests == (
        ListRequest(str(path), b"bucket,key\n", "csv", "key"),
        ListRequest("s3://b/m.json", None, "csv", "key"),
    )


def test_lists_of_items_are_marked_as_such(tmp_path: Path) -> None:
    path = tmp_path / "cities.csv"
    path.write_bytes(b"city\n")

    requests = InputOptions(items=[str(path), "s3://b/c.csv"], list_path="city").list_requests()

    assert requests == (
        ListRequest(str(path), b"city\n", "", "city", items=True),
        ListRequest("s3://b/c.csv", None, "", "city", items=True),
    )


@pytest.mark.parametrize("options", [InputOptions(inputs=["-"]), InputOptions(lists=["-"])])
def test_standard_input_is_a_list_of_addresses(options: InputOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"s3://b/a\n")))
    assert options.named() == ()
    assert options.list_requests() == (ListRequest("-", b"s3://b/a\n", "lines", ""),)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (InputOptions(), "no input was given"),
        (InputOptions(inputs=["-"], lists=["-"]), "once only"),
        (InputOptions(items=["-"], lists=["-"]), "once only"),
        (InputOptions(lists=["nowhere.csv"]), "nowhere.csv cannot be read"),
        (InputOptions(inputs=["s3://b/"], list_path="key"), "there is none"),
    ],
)
def test_wrong_lists_are_told_with_the_remedy(options: InputOptions, told: str) -> None:
    with pytest.raises(PlanError, match=told):
        options.list_requests()


def test_access_is_named_by_a_roles_arn() -> None:
    role = "arn:aws:iam::123456789012:role/readers/raw"
    assert InputOptions(requester_pays=True, role=role).access() == Access(True, role)
    with pytest.raises(SettingsError, match="--role"):
        InputOptions(role="readers").access()


def test_runs_that_were_started_from_here_complete_on_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARKLET_STATE_DIR", str(tmp_path))
    assert known_runs("") == []
    (tmp_path / "local-paths").mkdir()
    for name in ("flights-1", "other-2"):
        (tmp_path / "local-paths" / f"{name}.json").write_text("{}")

    assert known_runs("fl") == ["flights-1"]
    assert set(known_runs("")) == {"flights-1", "other-2"}


def test_shards_are_numbers_and_ranges_each_once() -> None:
    assert parse_shards("3, 17,20-22,21") == (3, 17, 20, 21, 22)
    assert parse_shards("") == ()


@pytest.mark.parametrize("text", ["a", "1-", "-1", "5-3", "1;2"])
def test_a_wrong_shard_list_is_refused_and_named(text: str) -> None:
    with pytest.raises(SettingsError, match="--shards"):
        parse_shards(text)
