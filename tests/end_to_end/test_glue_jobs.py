"""A script of Glue, which knows nothing of Sparklet, runs over many shards without a change."""

from pathlib import Path

import duckdb
import pytest

from tests.end_to_end.conftest import SCRIPTS, User, at_home

pytestmark = [pytest.mark.nightly, pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


@pytest.fixture
def user(state: Path, tmp_path: Path) -> User:
    """Somebody who shares the stack."""
    return at_home(state, tmp_path)


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
