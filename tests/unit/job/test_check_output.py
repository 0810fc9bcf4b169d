"""The example of a check script, and the results for which it fails a run."""

from typing import Any

import pytest
from pyspark.sql import Row

from spark_scripts.check_output import judge
from sparklet.job import ExpectationError

FOUND = Row(**{"rows": 3, "missing id": 0, "missing name": 1, "different": 2})


def figures(rows: int | None = 3, failed: int = 0, silent: int = 0) -> dict[str, Any]:
    return {"output": "s3://b/out/", "rows": rows, "counts": {"failed": failed}, "silent_shards": silent}


@pytest.mark.parametrize(
    "figures_of_run",
    [figures(3), figures(None), figures(4, failed=1), figures(2, silent=1)],
    ids=["all", "none", "failed", "some"],
)
def test_rows_are_compared_if_every_shard_reported_them(figures_of_run: dict[str, Any]) -> None:
    judge(figures_of_run, FOUND, 3, ["id"], [])


@pytest.mark.parametrize(
    ("figures_of_run", "least_rows", "required", "unique", "cause"),
    [
        (figures(4), 0, [], [], "s3://b/out/ holds 3 rows, its shards have reported 4"),
        (figures(), 4, [], [], "s3://b/out/ holds 3 rows, at least 4 were expected"),
        (figures(), 0, ["id", "name"], [], "name has no value in 1 of 3 rows of s3://b/out/"),
        (figures(), 0, ["id"], ["id", "name"], "1 of 3 rows of s3://b/out/ have the same id, name as another one"),
    ],
)
def test_unexpected_results_are_reported(
    figures_of_run: dict[str, Any], least_rows: int, required: list[str], unique: list[str], cause: str
) -> None:
    with pytest.raises(ExpectationError, match=cause):
        judge(figures_of_run, FOUND, least_rows, required, unique)
