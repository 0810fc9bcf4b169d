"""A worker that is killed: every shard ends and the sums add up."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import RUN_S, User, answer, every_row, rows_of, shared_stack
from tests.end_to_end.test_runs import logs
from tests.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

SHORT_S = int(75 * PATIENCE)  # a short timeout, so that the lease of a killed worker ends soon


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of the stack of this module's tests."""
    with shared_stack(tmp_path_factory.mktemp("a home") / "state dir", timeout_s=SHORT_S) as folder:
        yield folder


@pytest.fixture
def user(state: Path, tmp_path: Path) -> User:
    """A user of the shared stack, whose home is the test's folder."""
    return User(state, tmp_path)


def test_a_worker_killed_during_a_shard_loses_no_row(user: User) -> None:
    held = user.holds()
    slow = ("--param", "slow_on=002.csv", "--param", f"held={held.name}")
    process = user.start(*user.run_arguments(user.inputs(5), *slow, run_id="killed"))
    eventually(lambda: "doing 002.csv" in logs(user), "the slow shard is being done", RUN_S)

    for pid in user.workers():
        os.kill(pid, signal.SIGKILL)
    held.close()
    done = answer(process)

    assert done.code == 0, done.err
    assert done.document["shards"]["succeeded"] == 5
    assert done.document["attempts"] > 5  # one attempt was interrupted
    assert rows_of(user.home / "out") == every_row(5)
