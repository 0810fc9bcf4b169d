"""Shards that are too much for a function: with --too-large engine a process without its limits does them, once."""

import os
import signal
from pathlib import Path

import pytest

from tests.end_to_end.conftest import RUN_S, User, answer, every_row, rows_of
from tests.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.nightly, pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


def escalated(user: User) -> list[Path]:
    """The logs of escalated workers whose scripts have begun: each is named by its token."""
    logs = (path for path in (user.state / "log").glob("worker-*.log") if len(path.stem) == len("worker-") + 32)
    return [path for path in logs if "doing " in path.read_text()]


def test_a_killed_escalated_worker_is_followed_by_another(user: User) -> None:
    """The function has too little time; its successor is killed, and the next one brings every row home once.

    Within the minute after, the schedule has invoked the checker, too.
    """
    held = user.holds()
    slow = ("--param", "slow_on=001.csv", "--param", f"held={held.name}", "--timeout", f"{25 * PATIENCE:.0f}")
    process = user.start(*user.run_arguments(user.inputs(2), "--too-large", "engine", *slow, "--keep"))
    eventually(lambda: escalated(user), "an escalated worker does the shard", RUN_S)
    [first] = user.processes("sparklet.engines.one_shard")

    os.kill(first, signal.SIGKILL)
    held.close()

    done = answer(process)
    assert done.code == 0, done.err
    assert rows_of(user.home / "out") == every_row(2)
    engines = {shard["shard"]: shard["engine"] for shard in user.shards()}
    assert engines[1] == "process"  # on a busy machine the other shard's time is over, too
    assert len(escalated(user)) >= 2
    eventually(lambda: list((user.state / "log").glob("checker-*.log")), "the schedule invokes the checker", RUN_S)
