"""A script of Glue, which knows nothing of Sparklet, runs over many shards without a change."""

import duckdb
import pytest

from tests.end_to_end.conftest import SCRIPTS, User

pytestmark = [pytest.mark.nightly, pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


def test_a_second_attempt_replaces_what_glues_writers_have_added(sharing: User) -> None:
    (sharing.home / "in").mkdir()
    for number in range(2):
        (sharing.home / "in" / f"{number}.csv").write_text(f"id,city\n{number},Ulm\n{number + 10},Bonn\n")
    where = ["--input", str(sharing.home / "in"), "--output", str(sharing.home / "out"), "--max-objects", "1"]

    target = ["--", "--target", str(sharing.home / "own")]
    rows = [("0", "Ulm"), ("1", "Ulm"), ("10", "Bonn"), ("11", "Bonn")]

    done = sharing.types("run", str(SCRIPTS / "glue_fails_first.py"), *where, "--json", *target)

    assert done.code == 0, done.err + done.out
    assert done.document["attempts"] == 4
    for files, times in (("out/*/*/*", 1), ("own/*/*/*", 1), ("own-twice/*/*", 2)):
        place = f"read_parquet('{sharing.home}/{files}.parquet', hive_partitioning=true)"
        assert duckdb.sql(f"SELECT id, city FROM {place} ORDER BY id").fetchall() == sorted(rows * times), files
