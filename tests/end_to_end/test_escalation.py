"""Shards that are too much for a function: with --too-large engine a process without its limits does them, once."""

import os
import signal
from pathlib import Path

import pytest

from tests.end_to_end.conftest import SCRIPTS, User, answer, eventually, every_row, rows_of

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


def engines(user: User) -> dict[int, str | None]:
    """Which engine did each shard."""
    listed = user.types("status", "test-run", "--shards", "--json").document["shard_list"]
    return {shard["shard"]: shard["engine"] for shard in listed}


def escalated(user: User) -> list[Path]:
    """The logs of escalated workers whose scripts have begun: each is named by its token."""
    logs = (path for path in (user.state / "log").glob("worker-*.log") if len(path.stem) == len("worker-") + 32)
    return [path for path in logs if "doing " in path.read_text()]


def test_out_of_memory_in_a_function_ends_well_in_a_process(user: User) -> None:
    arguments = user.run_arguments(
        user.inputs(2), "--too-large", "engine", "--memory", "1536", "--param", "large=001.csv"
    )
    arguments[1] = str(SCRIPTS / "hold_much.py")

    done = user.types(*arguments, within_s=300)

    assert done.code == 0, done.err
    assert done.document["shards"]["succeeded"] == 2
    assert rows_of(user.home / "out") == every_row(2)
    assert engines(user) == {0: None, 1: "process"}


def test_a_killed_escalated_worker_is_followed_by_another(user: User) -> None:
    """The function has too little time; its successor is killed, and the next one brings every row home once.

    That takes more than a minute, so the schedule has invoked the checker, too.
    """
    slow = ("--param", "slow_on=001.csv", "--param", "slow_s=30", "--timeout", "25")
    process = user.start(*user.run_arguments(user.inputs(2), "--too-large", "engine", *slow))
    eventually(lambda: escalated(user), 150, "an escalated worker does the shard")
    [first] = user.processes("sparklet.engines.one_shard")

    os.kill(first, signal.SIGKILL)

    done = answer(process, 300)
    assert done.code == 0, done.err
    assert rows_of(user.home / "out") == every_row(2)
    assert engines(user)[1] == "process"  # on a busy machine the other shard's time is over, too
    assert len(escalated(user)) >= 2
    assert list((user.state / "log").glob("checker-*.log"))
