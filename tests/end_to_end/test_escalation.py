"""Shards that are too much for a function: with --too-large engine a process without its limits does them, once."""

import os
import signal
from pathlib import Path

import pytest

from tests.end_to_end.conftest import User, answer, eventually, every_row, rows_of

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


def escalated(user: User) -> list[Path]:
    """The logs of escalated workers whose scripts have begun: each is named by its token."""
    logs = (path for path in (user.state / "log").glob("worker-*.log") if len(path.stem) == len("worker-") + 32)
    return [path for path in logs if "doing " in path.read_text()]


def test_a_killed_escalated_worker_is_followed_by_another(user: User) -> None:
    """The function has too little time; its successor is killed, and the next one brings every row home once.

    Within the minute after, the schedule has invoked the checker, too.
    """
    caught = user.home / "caught"  # whoever does the shard after the kill does not sleep
    slow = ("--param", "slow_on=001.csv", "--param", "slow_s=60", "--param", f"caught={caught}", "--timeout", "25")
    process = user.start(*user.run_arguments(user.inputs(2), "--too-large", "engine", *slow, "--keep"))
    eventually(lambda: escalated(user), 150, "an escalated worker does the shard")
    [first] = user.processes("sparklet.engines.one_shard")

    os.kill(first, signal.SIGKILL)
    caught.touch()

    done = answer(process, 300)
    assert done.code == 0, done.err
    assert rows_of(user.home / "out") == every_row(2)
    engines = {shard["shard"]: shard["engine"] for shard in user.shards()}
    assert engines[1] == "process"  # on a busy machine the other shard's time is over, too
    assert len(escalated(user)) >= 2
    eventually(lambda: list((user.state / "log").glob("checker-*.log")), 90, "the schedule invokes the checker")
