"""Whole runs through the command line: counts add up, every row comes home once, nothing is left running."""

import json
import shlex
import signal
import socket
from itertools import pairwise

import pytest

from tests.end_to_end.conftest import RUN_S, User, answer, every_row, rows_of
from tests.waiting import PATIENCE, eventually

TIMED = """\
import time
from sparklet.job import Job

begin_s, job = time.time(), Job.from_args()
job.answer([begin_s, time.time()])
"""

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


@pytest.mark.smoke
def test_a_run_brings_every_row_home_and_leaves_nothing_behind(user: User) -> None:
    done = user.types(*user.run_arguments(user.inputs(6), "--dispatch-mode", "loop"))

    assert done.code == 0, done.err
    assert "test-run-g0" in done.err  # the execution that drove it
    shards = done.document["shards"]
    assert shards == {"total": 6, "pending": 0, "running": 0, "succeeded": 6, "failed": 0}
    assert done.document["rows"] == 60
    assert rows_of(user.home / "out") == every_row(6)
    eventually(lambda: not user.processes(), "no process, no JVM is left")


@pytest.mark.nightly
def test_a_capped_run_spares_a_worker(user: User) -> None:
    script = user.home / "timed.py"
    script.write_text(TIMED)
    where = ("--input", str(user.inputs(6)), "--output", str(user.home / "out"))
    caps = ("--max-objects", "1", "--workers", "2", "--max-concurrency", "1")
    ended = user.types("run", str(script), *where, "--run-id", "capped", *caps)

    assert ended.code == 0, ended.err
    results = map(json.loads, user.types("results", "capped", "--json").out.splitlines())
    times = sorted(each["answer"] for each in results)
    assert len(times) == 6
    assert all(end_s <= begin_s for (_, end_s), (begin_s, _) in pairwise(times)), "though there are two workers"


def test_a_killed_command_leaves_nothing_and_its_run_resumes(user: User) -> None:
    held = user.holds()
    slow = ("--param", "slow_on=003.csv", "--param", f"held={held.name}")
    arguments = user.run_arguments(user.inputs(5), *slow, "--timeout", f"{45 * PATIENCE:.0f}")
    process = user.start(*arguments)
    eventually(lambda: any((user.state / "log").glob("worker-*.log")), "a worker has started", RUN_S)
    port = int(json.loads((user.state / "stack.json").read_text())["endpoint_url"].rsplit(":", 1)[1])
    eventually(lambda: "doing 001.csv" in logs(user), "a shard is being done", RUN_S)

    process.send_signal(signal.SIGKILL)
    process.communicate()
    held.close()

    eventually(lambda: not user.processes(), "everything ended with the command")
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 2):
        pass
    later = user.types("watch", "test-run", "--json")
    assert later.code == 0, later.err
    assert later.document["shards"]["succeeded"] == 5
    assert rows_of(user.home / "out") == every_row(5)


@pytest.mark.nightly
def test_ctrl_c_prints_what_goes_on(user: User) -> None:
    arguments = user.run_arguments(user.inputs(8), "--max-concurrency", "1")
    process = user.start(*(word for word in arguments if word not in ("--run-id", "test-run")))  # an id nobody knows
    eventually(lambda: "doing 000.csv" in logs(user), "a shard is being done", RUN_S)

    process.send_signal(signal.SIGINT)
    stopped = answer(process)
    eventually(lambda: not user.processes(), "nothing is left")
    (command,) = (line.strip() for line in stopped.err.splitlines() if line.strip().startswith("sparklet resume "))
    resumed = user.types(*shlex.split(command)[1:], "--json")

    assert stopped.code == 130
    assert resumed.code == 0, resumed.err
    assert rows_of(user.home / "out") == every_row(8)


def logs(user: User) -> str:
    """What all workers wrote so far."""
    return "".join(path.read_text(errors="replace") for path in (user.state / "log").glob("worker-*.log"))
