"""lambda-large: the worker's function once more, with more memory, does what a small one has no memory for."""

import json

import pytest

from tests.end_to_end.conftest import SCRIPTS, User, every_row, rows_of

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


def test_what_lacks_memory_ends_well_in_the_large_function(user: User) -> None:
    more = ("--too-large", "engine", "--engine", "lambda-large", "--memory", "1536", "--param", "large=001.csv")
    arguments = user.run_arguments(user.inputs(2), *more)
    arguments[1] = str(SCRIPTS / "hold_much.py")

    done = user.types(*arguments, within_s=300)

    assert done.code == 0, done.err
    assert rows_of(user.home / "out") == every_row(2)
    [other, large] = user.types("status", "test-run", "--shards", "--json").document["shard_list"]
    assert (other["engine"], large["engine"], large["attempts"]) == (None, "lambda-large", 1)
    [log] = (user.state / "log").glob("large-worker-*.log")  # called once, asynchronously, by Lambda's stand-in
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert any(line.get("run") == "test-run" and line.get("shard") == 1 for line in lines)
