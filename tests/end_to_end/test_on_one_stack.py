"""Runs that can share a stack and a JVM with others: one schema per run, one task per row, Spark's own figures."""

import gzip
import json
import re
import signal
import urllib.request
from pathlib import Path

import duckdb
import pytest

from tests.end_to_end.conftest import SCRIPTS, User, at_home, every_row, rows_of
from tests.waiting import deadline_s

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

WEIGH_CITIES = SCRIPTS / "weigh_cities.py"
READS = """from sparklet.job import Job

job = Job.from_args()
rows = job.read_csv(job.spark(), sep=";")
rows.write.parquet(job.output)
job.report(rows=rows.count())
"""


@pytest.fixture
def user(state: Path, tmp_path: Path) -> User:
    """A user of the shared stack."""
    return at_home(state, tmp_path)


# --- one schema per run: inferred once, the same in every shard, and strict ---


def script(user: User, text: str) -> str:
    path = user.home / "reads.py"
    path.write_text(text)
    return str(path)


def inputs(user: User, *texts: str) -> str:
    """Make a folder of CSV files with these texts."""
    folder = user.home / "in"
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number}.csv").write_text(text)
    return str(folder)


def run(user: User, text: str, folder: str, run_id: str, *more: str) -> list[str]:
    places = ["--input", folder, "--output", str(user.home / "out"), "--run-id", run_id, "--max-objects", "1"]
    return ["run", script(user, text), *places, "--workers", "1", "--json", *more]


def test_shards_share_the_schema_that_a_first_task_infers(user: User) -> None:
    folder = inputs(user, "id;amount\n1;2.5\n", "id;amount\n2;\n", "id;amount\n3;4\n")

    done = user.types(*run(user, READS, folder, "inferred", "--schema", "infer"))

    assert done.code == 0, done.err
    files = f"{user.home}/out/shard=*/*.parquet"
    types = duckdb.sql(
        f"SELECT DISTINCT name, type FROM parquet_schema('{files}') WHERE type IS NOT NULL ORDER BY name"
    )
    assert types.fetchall() == [("amount", "DOUBLE"), ("id", "INT64")]
    assert duckdb.sql(f"SELECT id, amount FROM '{files}' ORDER BY id").fetchall() == [(1, 2.5), (2, None), (3, 4.0)]


# --- one task for each row of a CSV, and the answers ---


def test_each_row_of_a_csv_is_a_task_with_an_answer(user: User) -> None:
    cities = user.home / "cities.csv"
    cities.write_text("city,country\nUlm,DE\nKöln,DE\nBern,CH\n", encoding="utf-8")
    places = ["--items", str(cities), "--max-objects", "1", "--output", str(user.home / "out"), "--run-id", "cities"]
    arguments = ["run", str(WEIGH_CITIES), *places, "--workers", "1", "--max-attempts", "1", "--json"]

    preview = user.types(*arguments, "--dry-run")
    failed = user.types(*arguments, "--param", "fail_on=Köln")
    first = user.types("results", "cities", "--json")
    explained = user.types("explain", "cities", "--json").document
    repaired = user.home / "repaired.py"
    repaired.write_text(WEIGH_CITIES.read_text().replace('"fail_on"', '"never"'))
    redriven = user.types("redrive", "cities", "--script", str(repaired), "--json")
    results = user.types("results", "cities", "--json")

    assert preview.document["shards"] == preview.document["objects"] == 3
    assert failed.code == 2 and failed.document["shards"]["failed"] == 1, failed.err
    assert [json.loads(line)["shard"] for line in first.out.splitlines()] == [0, 2]
    assert explained[0]["example_object"] == 'item {"city":"Köln","country":"DE"}', explained
    assert redriven.code == 0, redriven.err
    answers = [json.loads(line)["answer"] for line in results.out.splitlines()]
    assert answers == [{"Ulm": 3}, {"Köln": 4}, {"Bern": 4}]


# --- event logs: in the report and in Spark's History Server ---


@pytest.mark.nightly
def test_sparks_own_figures_are_kept_and_shown(user: User) -> None:
    inputs = user.inputs(3)

    # GIVEN a run with event logs, all of whose shards are done by one worker, one after the other
    arguments = user.run_arguments(inputs, "--event-log", run_id="logged")
    done = user.types(*arguments)
    assert done.code == 0, done.err

    # THEN each attempt has a complete log of its own, with one application, and the output is right
    logs = sorted(user.state.rglob("events/*.gz"))
    assert [int(path.name[:9]) for path in logs] == [0, 1, 2]
    for path in logs:
        events = [json.loads(line)["Event"] for line in gzip.decompress(path.read_bytes()).splitlines()]
        assert events.count("SparkListenerApplicationStart") == events.count("SparkListenerApplicationEnd") == 1
    assert rows_of(user.home / "out") == every_row(3)

    # AND the report has the figures that Spark measured
    figures = user.types("report", "logged", "--json").document["spark"]
    assert {each["shard"] for each in figures} == {0, 1, 2}
    assert all(each["records_read"] > 0 and each["records_written"] > 0 and each["stages"] > 0 for each in figures)

    # AND Spark's History Server shows each attempt by its shard
    history = user.start("history", "logged")
    try:
        assert history.stdout
        address = next(match[0] for line in history.stdout if (match := re.search(r"http://127\.0\.0\.1:\d+/", line)))
        with urllib.request.urlopen(f"{address}api/v1/applications", timeout=deadline_s()) as answer:
            applications = json.load(answer)
    finally:
        history.send_signal(signal.SIGINT)
        history.wait(deadline_s())
    assert sorted(each["name"].partition(":")[0] for each in applications) == ["shard 0", "shard 1", "shard 2"]
    assert all(attempt["completed"] for each in applications for attempt in each["attempts"])

    # AND a clean deletes the logs with the run
    assert user.types("clean", "--keep", "0", "--yes").code == 0
    assert not list(user.state.rglob("events/*.gz"))
