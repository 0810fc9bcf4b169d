"""A script of Glue, which knows nothing of Sparklet, runs over many shards without a change."""

import json
from pathlib import Path

import duckdb
import pytest

from tests.end_to_end.conftest import SCRIPTS, User, at_home

GLUE_JOB = str(Path(__file__).parents[1] / "functional" / "glue" / "glue_job.py")

pytestmark = [pytest.mark.nightly, pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


@pytest.fixture
def user(state: Path, tmp_path: Path) -> User:
    """Somebody who shares the stack."""
    return at_home(state, tmp_path)


def test_a_job_of_glue_runs_over_many_shards(user: User) -> None:
    folder = user.home / "in"
    folder.mkdir()
    for number, price in enumerate((70, 80, 90)):
        (folder / f"{number}.csv").write_text(f"id;price;city\n{number};{price};Ulm\n")
    where = ["--input", str(folder), "--output", str(user.home / "out"), "--max-objects", "1"]

    done = user.types("run", GLUE_JOB, *where, "-p", "least=75", "--env", "region=eu", "--json", "--", "--other", "x")

    assert done.code == 0, done.err + done.out
    found = duckdb.sql(f"SELECT id, price, region FROM read_parquet('{user.home}/out/*/*/*.parquet') ORDER BY id")
    assert found.fetchall() == [(1, 80.0, "eu"), (2, 90.0, "eu")]


def test_a_second_attempt_replaces_what_glues_writers_have_added(user: User) -> None:
    (user.home / "in").mkdir()
    for number in range(2):
        (user.home / "in" / f"{number}.csv").write_text(f"id,city\n{number},Ulm\n{number + 10},Bonn\n")
    where = ["--input", str(user.home / "in"), "--output", str(user.home / "out"), "--max-objects", "1"]

    target = ["--", "--target", str(user.home / "own")]
    rows = [("0", "Ulm"), ("1", "Ulm"), ("10", "Bonn"), ("11", "Bonn")]

    done = user.types("run", str(SCRIPTS / "glue_fails_first.py"), *where, "--json", *target)

    assert done.code == 0, done.err + done.out
    assert done.document["attempts"] == 4
    for files, times in (("out/*/*/*", 1), ("own/*/*/*", 1), ("own-twice/*/*", 2)):
        place = f"read_parquet('{user.home}/{files}.parquet', hive_partitioning=true)"
        assert duckdb.sql(f"SELECT id, city FROM {place} ORDER BY id").fetchall() == sorted(rows * times), files


def test_the_run_tells_which_rules_its_shards_failed(user: User) -> None:
    (user.home / "in").mkdir()
    for number, city in enumerate(("Ulm", "Bonn", None)):
        (user.home / "in" / f"{number}.json").write_text(json.dumps({"id": number, "city": city}) + "\n")
    where = ["--input", str(user.home / "in"), "--output", str(user.home / "out"), "--max-objects", "1"]

    done = user.types("run", str(SCRIPTS / "glue_studio.py"), *where, "--json")

    assert done.code == 0, done.err + done.out
    found = duckdb.sql(f"SELECT id FROM read_parquet('{user.home}/out/*/*.parquet', union_by_name=true) ORDER BY id")
    assert found.fetchall() == [(0,), (1,), (2,)]
    (warning,) = done.document["warnings"]
    assert ('IsComplete "city"' in warning["message"], warning["count"]) == (True, 1)
    results = [json.loads(line) for line in user.types("results", done.document["run_id"], "--json").out.splitlines()]
    outcomes = [rule["Outcome"] for each in results for rule in each["answer"]["data_quality"][0]["rules"]]
    assert sorted(outcomes) == ["Failed", *["Passed"] * 5]

    where[3] = str(user.home / "strict")
    strict = user.types("run", str(SCRIPTS / "glue_studio.py"), *where, "--strict", "--json")

    assert (strict.code, strict.document["shards"]["failed"]) == (2, 1), strict.err + strict.out
    assert 'IsComplete "city"' in strict.document["failures"][0]["example_message"]
