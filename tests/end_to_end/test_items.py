"""One script for each row of a CSV, through the command line, and what it answered."""

import json

import pytest

from tests.end_to_end.conftest import SCRIPTS, User

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

SCRIPT = SCRIPTS / "weigh_cities.py"


def test_each_row_of_a_csv_is_done_and_answered_for(user: User) -> None:
    cities = user.home / "cities.csv"
    cities.write_text("city,country\nUlm,DE\nKöln,DE\nBern,CH\n", encoding="utf-8")
    where = ["--items", str(cities), "--max-objects", "1", "--output", str(user.home / "out"), "--run-id", "cities"]
    arguments = ["run", str(SCRIPT), *where, "--workers", "1", "--max-attempts", "1", "--json"]

    preview = user.types(*arguments, "--dry-run")
    failed = user.types(*arguments, "--param", "fail_on=Köln", "--keep")
    first = user.types("results", "cities", "--json")
    explained = user.types("explain", "cities", "--json").document
    repaired = user.home / "repaired.py"
    repaired.write_text(SCRIPT.read_text().replace('"fail_on"', '"never"'))
    redriven = user.types("redrive", "cities", "--script", str(repaired), "--json")
    results = user.types("results", "cities", "--json")

    assert preview.document["shards"] == preview.document["objects"] == 3
    assert failed.code == 2 and failed.document["shards"]["failed"] == 1, failed.err
    assert [json.loads(line)["shard"] for line in first.out.splitlines()] == [0, 2]
    assert explained[0]["example_object"] == 'item {"city":"Köln","country":"DE"}', explained
    assert redriven.code == 0, redriven.err
    answers = [json.loads(line)["answer"] for line in results.out.splitlines()]
    assert answers == [{"Ulm": 3}, {"Köln": 4}, {"Bern": 4}]
