"""A Glue script that was not written for Sparklet runs over many shards without a change."""

import json
from pathlib import Path

import duckdb
import pytest

from tests.end_to_end.conftest import SCRIPTS, User, at_home

GLUE_JOB = str(Path(__file__).parents[1] / "functional" / "glue" / "glue_job.py")

pytestmark = [pytest.mark.nightly, pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


@pytest.fixture
def user(state: Path, tmp_path: Path) -> User:
    """A user of the shared stack."""
    return at_home(state, tmp_path)


def test_a_glue_job_runs_over_many_shards(user: User) -> None:
    folder = user.home / "in"
    folder.mkdir()
    for number, price in enumerate((70, 80, 90)):
        (folder / f"{number}.csv").write_text(f"id;price;city\n{number};{price};Ulm\n")
    places = ["--input", str(folder), "--output", str(user.home / "out"), "--max-objects", "1"]

    done = user.types("run", GLUE_JOB, *places, "-p", "least=75", "--env", "region=eu", "--json", "--", "--other", "x")

    assert done.code == 0, done.err + done.out
    found = duckdb.sql(f"SELECT id, price, region FROM read_parquet('{user.home}/out/*/*/*.parquet') ORDER BY id")
    assert found.fetchall() == [(1, 80.0, "eu"), (2, 90.0, "eu")]


def test_a_second_attempt_replaces_rows_of_glues_writers(user: User) -> None:
    (user.home / "in").mkdir()
    for number in range(2):
        (user.home / "in" / f"{number}.csv").write_text(f"id,city\n{number},Ulm\n{number + 10},Bonn\n")
    places = ["--input", str(user.home / "in"), "--output", str(user.home / "out"), "--max-objects", "1"]

    target = ["--", "--target", str(user.home / "own")]
    rows = [("0", "Ulm"), ("1", "Ulm"), ("10", "Bonn"), ("11", "Bonn")]

    done = user.types("run", str(SCRIPTS / "glue_fails_first.py"), *places, "--json", *target)

    assert done.code == 0, done.err + done.out
    assert done.document["attempts"] == 4
    for files, times in (("out/*/*/*", 1), ("own/*/*/*", 1), ("own-twice/*/*", 2)):
        relation = f"read_parquet('{user.home}/{files}.parquet', hive_partitioning=true)"
        assert duckdb.sql(f"SELECT id, city FROM {relation} ORDER BY id").fetchall() == sorted(rows * times), files


def test_a_runs_warnings_name_the_rules_that_shards_failed(user: User) -> None:
    (user.home / "in").mkdir()
    for number, city in enumerate(("Ulm", "Bonn", None)):
        (user.home / "in" / f"{number}.json").write_text(json.dumps({"id": number, "city": city}) + "\n")
    places = ["--input", str(user.home / "in"), "--output", str(user.home / "out"), "--max-objects", "1"]

    done = user.types("run", str(SCRIPTS / "glue_studio.py"), *places, "--json")

    assert done.code == 0, done.err + done.out
    found = duckdb.sql(f"SELECT id FROM read_parquet('{user.home}/out/*/*.parquet', union_by_name=true) ORDER BY id")
    assert found.fetchall() == [(0,), (1,), (2,)]
    (warning,) = done.document["warnings"]
    assert ('IsComplete "city"' in warning["message"], warning["count"]) == (True, 1)
    results = [json.loads(line) for line in user.types("results", done.document["run_id"], "--json").out.splitlines()]
    outcomes = [rule["Outcome"] for each in results for rule in each["answer"]["data_quality"][0]["rules"]]
    assert sorted(outcomes) == ["Failed", *["Passed"] * 5]

    places[3] = str(user.home / "strict")
    strict = user.types("run", str(SCRIPTS / "glue_studio.py"), *places, "--strict", "--json")

    assert (strict.code, strict.document["shards"]["failed"]) == (2, 1), strict.err + strict.out
    assert 'IsComplete "city"' in strict.document["failures"][0]["example_message"]
