"""Options that users type: sizes, pairs, tolerances, times and lists are read, or refused with the fault."""

import io
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer

from sparklet.app.reporter import duration_text, size_text, usd_text
from sparklet.app.stack import StackSelection
from sparklet.app.start import parse_pairs, run_request
from sparklet.cli.options import RequestOptions, known_runs, parse_shards, with_single_options
from sparklet.errors import PlanError, SettingsError
from sparklet.local.state import StateDir
from sparklet.model import Access, RunOptions
from sparklet.model.quantities import parse_duration_s, parse_size_bytes, parse_time_s, parse_tolerance
from sparklet.planning.inputs.list_requests import ListRequest
from sparklet.planning.plan_requests import run_request as of_document
from sparklet.planning.request import KINDS, RunRequest, places


@pytest.mark.parametrize(
    ("read", "values"),
    [
        (parse_size_bytes, {"128MiB": 2**27, "128M": 2**27, "1.5 GiB": 1610612736, "7": 7, "10b": 10, "2kb": 2048}),
        (parse_tolerance, {"5": (5, 0.0), "2.5%": (0, 2.5)}),
        (parse_shards, {"3, 17,20-22,21": (3, 17, 20, 21, 22), "": ()}),
    ],
)
def test_values_are_read_as_people_write_them(read: Callable[[str], object], values: dict[str, object]) -> None:
    assert {text: read(text) for text in values} == values


def test_pairs_keep_everything_behind_the_first_equals_sign() -> None:
    assert parse_pairs("--param", ["a=1", "url=s3://b/?x=y", "empty="]) == {"a": "1", "url": "s3://b/?x=y", "empty": ""}


@pytest.mark.parametrize(
    ("read", "wrong", "named"),
    [
        (parse_size_bytes, ["", "MiB", "-1", "1 XB", "1e6", "12 34"], "not a size"),
        (parse_shards, ["a", "1-", "-1", "5-3", "1;2"], "--shards"),
        (partial(parse_pairs, "--param"), [["novalue"], ["=x"], ["a=1", "a=2"]], "--param"),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_by_its_option(
    read: Callable[[Any], object], wrong: list[Any], named: str
) -> None:
    for given in wrong:
        with pytest.raises(SettingsError, match=named):
            read(given)


def test_sizes_durations_and_dollars_are_written_for_people() -> None:
    assert [size_text(n) for n in (0, 1023, 1536, 5 * 2**30)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
    assert [duration_text(s) for s in (0.54, 42, 61, 3725)] == ["0.5 s", "42 s", "1 min 01 s", "1 h 02 min"]
    dollars = [usd_text(cost) for cost in (0, 0.00001, 0.0123456, 1234.567)]
    assert dollars == ["0 USD", "< 0.0001 USD", "0.0123 USD", "1,234.57 USD"]


def test_schema_is_a_ddl_text_a_file_or_infer(tmp_path: Path) -> None:
    (tmp_path / "columns.sql").write_text("id INT,\n  name STRING\n")
    where = ("--input", str(tmp_path), "--dry-run")
    for given, schema in (
        ("id INT", "id INT"),
        (str(tmp_path / "columns.sql"), "id INT,\n  name STRING"),
        ("infer", "infer"),
        (f"id INT, {'é' * 130} STRING", f"id INT, {'é' * 130} STRING"),  # too long for a file's name
        (", ".join(f"column_{n} STRING" for n in range(500)), ", ".join(f"column_{n} STRING" for n in range(500))),
    ):
        assert request(*where[:2], "--schema", given).params == {"schema": schema}
    with pytest.raises(PlanError, match=r"colums\.sql"):
        request(*where[:2], "--schema", "colums.sql")


# --- the request of a run ---


def request(*options: str) -> RunRequest:
    """The request that ``sparklet run job.py --dry-run`` makes of these options."""
    found: list[RunRequest] = []

    def command(words: RequestOptions) -> None:
        found.append(run_request(words, StackSelection(), dry_run=True))

    app = typer.Typer()
    app.command()(with_single_options(command))
    app(["job.py", *options], standalone_mode=False)
    return found[0]


def test_missing_options_take_the_models_defaults() -> None:
    made = request("-i", "s3://b/")
    assert made.fitted(0, 0) == RunRequest("job.py", ("s3://b/",), "")


def test_every_option_reaches_the_run() -> None:
    flags = ["--incremental", "--keep-empty", "--requester-pays", "--next-items"]
    shards = {"shard-size": "1MiB", "max-objects": "7", "group-by": "dt=*"}
    limits = {"split": "csv", "too-large": "engine", "engine": "glue", "max-attempts": "5", "tolerate": "2.5%"}
    limits |= {"limit": "9", "max-concurrency": "4"}
    input_ = {"input": "s3://b/in/", "include": "*.csv", "exclude": "_*", "since": "2026-11-20T08:30"}
    role = "arn:aws:iam::123456789012:role/readers/raw"
    run = {
        "output": "s3://b/out/",
        "name": "daily",
        "param": "a=1",
        "env": "b=2",
        "param-file": "c=3",
        "py-files": "x.py",
    }
    run |= {"files": "x.json", "conf": "spark.a=1", "idempotency-key": "k"}
    after = {"check": "check.py", "next": "next.py", "next-output": "s3://b/next/", "next-shards": "1"}
    named = {**shards, **limits, **input_, **run, **after, "archived": "skip", "role": role}
    options = [word for name, value in named.items() for word in (f"--{name}", value)]

    made = request(*flags, *options, "--", "--day", "1")

    assert made == RunRequest(
        script="job.py",
        inputs=("s3://b/in/",),
        output_uri="s3://b/out/",
        name="daily",
        py_files=("x.py",),
        spark_files=("x.json",),
        conf={"spark.a": "1"},
        args=("--day", "1"),
        params={"a": "1"},
        env={"b": "2"},
        files={"c": "3"},
        check="check.py",
        next="next.py",
        next_output="s3://b/next/",
        next_shards=1,
        next_items=True,
        idempotency_key="k",
        access=Access(True, role),
        options=RunOptions(
            target_bytes=2**20,
            max_objects=7,
            include=("*.csv",),
            exclude=("_*",),
            modified_since_s=datetime(2026, 11, 20, 8, 30, tzinfo=UTC).timestamp(),
            incremental=True,
            keep_empty=True,
            archived="skip",
            group_by="dt=*",
            split="csv",
            too_large="engine",
            engine="glue",
            max_attempts=5,
            tolerated_failure_percentage=2.5,
            limit=9,
            max_concurrency=4,
        ),
    )
    document: dict[str, Any] = {
        name.replace("-", "_"): value for name, value in named.items() if name not in ("env", "param-file", "conf")
    }
    document |= {name.strip("-").replace("-", "_"): True for name in flags}
    document |= {"script": "job.py", "inputs": [document.pop("input")], "args": ["--day", "1"], "params": {"a": "1"}}
    document |= {"max_objects": 7, "max_attempts": 5, "limit": 9, "max_concurrency": 4, "next_shards": 1}
    document |= {"py_files": ["x.py"], "spark_files": document.pop("files")}
    del document["param"]
    assert of_document(document, "request-1") == replace(made, env={}, files={}, conf={})


def test_the_command_line_and_documents_have_the_same_keys() -> None:
    documents = {name for name, place in places().items() if place.key.document}
    options = {name for name, place in places().items() if place.key.command}

    assert documents - options == {"dispatch"}  # the command line has --dispatch-mode
    assert options - documents == {"conf", "env", "files"}  # documents cannot set these


def test_a_default_in_the_help_is_the_models_default() -> None:
    for place in places().values():
        if place.key.shown:
            read = KINDS[place.kind].read(place.key.shown)
            assert place.default == (read[0] if place.kind == "tolerance" else read)


@pytest.mark.parametrize(
    ("text", "ago_s"), [("36h", 36 * 3600), ("7d", 7 * 86400), ("1.5H", 5400), ("90s", 90), ("2w", 14 * 86400)]
)
def test_since_can_be_a_duration(text: str, ago_s: float) -> None:
    assert parse_duration_s(text) == ago_s
    ago = datetime.now(UTC).timestamp() - request("-i", "s3://b/", "--since", text).options.modified_since_s
    assert ago_s - 1 <= ago <= ago_s + 60


def test_since_can_be_a_date_or_a_time_with_or_without_a_zone() -> None:
    assert parse_time_s("2026-11-20") == datetime(2026, 11, 20, tzinfo=UTC).timestamp()
    assert parse_time_s("2026-11-20T10:00+02:00") == datetime(2026, 11, 20, 8, tzinfo=UTC).timestamp()
    for wrong in ("yesterday", "36", "2026-13-01", "7 days"):
        with pytest.raises(SettingsError, match="--since"):
            request("-i", "s3://b/", "--since", wrong)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("--shard-size 0", "--shard-size is 0; it must be at least 1"),
        ("--shard-size big", "--shard-size: 'big' is not a size"),
        ("--tolerate some", "--tolerate: 'some'"),
        ("--append --overwrite", "--append and --overwrite exclude each other"),
        ("--run-id a --idempotency-key b", "--run-id and --idempotency-key were given; give one of them"),
        ("--next n.py --next-output out", "--next-output out must be an s3:// folder"),
        ("--env PATH=x", "--env cannot set"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(words: str, names: str) -> None:
    with pytest.raises((SettingsError, PlanError), match=re.escape(names)):
        request("-i", "s3://b/", *words.split())


# --- lists ---


def test_local_lists_are_read_and_s3_lists_stay_addresses(tmp_path: Path) -> None:
    path = tmp_path / "keys.csv"
    path.write_bytes(b"bucket,key\n")

    assert request("--list", str(path), "--list", "s3://b/m.json", "--list-format", "csv").lists == (
        ListRequest(str(path), b"bucket,key\n", "csv"),
        ListRequest("s3://b/m.json", None, "csv"),
    )
    assert request("--items", str(path)).lists == (ListRequest(str(path), b"bucket,key\n", items=True),)


@pytest.mark.parametrize("option", ["--input", "--list"])
def test_standard_input_is_a_list_of_addresses(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"s3://b/a\n")))
    made = request(option, "-")
    assert made.inputs == ()
    assert made.lists == (ListRequest("-", b"s3://b/a\n", "lines"),)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "no input was given"),
        ("--input - --list -", "once only"),
        ("--items - --list -", "once only"),
        ("--list nowhere.csv", "nowhere.csv cannot be read"),
        ("--input s3://b/ --list-format csv", "add --list"),
    ],
)
def test_wrong_lists_are_reported_with_the_remedy(words: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"s3://b/a\n")))
    with pytest.raises(PlanError, match=told):
        request(*words.split())


def test_shell_completion_knows_the_runs_started_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARKLET_STATE_DIR", str(tmp_path))
    assert known_runs("") == []
    StateDir(tmp_path).create()
    for name in ("flights-1", "other-2"):
        (tmp_path / "local-paths" / f"{name}.json").write_text("{}")

    assert known_runs("fl") == ["flights-1"]
    assert set(known_runs("")) == {"flights-1", "other-2"}
