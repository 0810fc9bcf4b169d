"""With --too-large engine a shard that lacks memory in a small function succeeds in a large function or a process."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import SCRIPTS, Answer, User, every_row, rows_of, shared_stack

pytestmark = [pytest.mark.nightly, pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of the stack of this module's tests."""
    with shared_stack(tmp_path_factory.mktemp("a home") / "state dir", memory_mb=1536) as folder:
        yield folder


@pytest.fixture
def user(state: Path, tmp_path: Path) -> User:
    """A user of the shared stack, whose home is the test's folder."""
    return User(state, tmp_path)


def hold_much(user: User, run_id: str, *engine: str) -> Answer:
    """Run two shards, the second of which lacks memory."""
    more = ("--too-large", "engine", *engine, "--memory", "1536", "--param", "large=001.csv")
    arguments = user.run_arguments(user.inputs(2), *more, run_id=run_id)
    arguments[1] = str(SCRIPTS / "hold_much.py")
    return user.types(*arguments)


def test_a_shard_that_lacks_memory_succeeds_in_a_process(user: User) -> None:
    done = hold_much(user, "here")

    assert done.code == 0, done.err
    assert done.document["shards"]["succeeded"] == 2
    assert rows_of(user.home / "out") == every_row(2)
    assert {shard["shard"]: shard["engine"] for shard in user.shards("here")} == {0: None, 1: "process"}


def test_a_shard_that_lacks_memory_succeeds_in_lambda_large(user: User) -> None:
    done = hold_much(user, "test-run", "--engine", "lambda-large")

    assert done.code == 0, done.err
    assert rows_of(user.home / "out") == every_row(2)
    [other, large] = user.shards()
    assert (other["engine"], large["engine"], large["attempts"]) == (None, "lambda-large", 1)
    [log] = (user.state / "log").glob("large-worker-*.log")  # called once, asynchronously, by Lambda's stand-in
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert any(line.get("run") == "test-run" and line.get("shard") == 1 for line in lines)
