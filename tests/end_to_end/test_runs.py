"""Whole runs through the command line: counts add up, every row comes home once, nothing is left running."""

import json
import shlex
import signal
import socket
import time
from itertools import pairwise

import pytest

from tests.end_to_end.conftest import COPY_ROWS, User, answer, eventually, every_row, rows_of

TIMED = """\
import time
from sparklet.job import Job

begin_s = time.time()
time.sleep(1)
Job.from_args().answer([begin_s, time.time()])
"""

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


def test_a_run_brings_every_row_home_and_leaves_nothing_behind(user: User) -> None:
    done = user.types(*user.run_arguments(user.inputs(6), "--dispatch-mode", "loop"))

    assert done.code == 0, done.err
    assert "test-run-g0" in done.err  # the execution that drove it
    shards = done.document["shards"]
    assert shards == {"total": 6, "pending": 0, "running": 0, "succeeded": 6, "failed": 0}
    assert done.document["rows"] == 60
    assert rows_of(user.home / "out") == every_row(6)
    eventually(lambda: not user.processes(), what="no process, no JVM is left")


def test_an_objects_status_and_the_runs_can_be_listed(user: User) -> None:
    done = user.types(*user.run_arguments(user.inputs(2), "--keep", "--dispatch-mode", "inline"))
    uri = done.document["inputs"][0] + "001.csv"

    fate = user.types("status", "test-run", "--object", uri, "--json").document
    listed = user.types("runs", "--json").document
    unknown = user.types("status", "no-such-run")
    driven = user.types("status", "test-run", "--json").document

    assert (driven["dispatch"], driven["execution"]["name"]) == ("map", "test-run-g0")
    (shard,) = fate["shards"]
    assert (fate["state"], shard["shard"], shard["state"], shard["rows"]) == ("SUCCEEDED", 1, "SUCCEEDED", 10)
    assert [run["run_id"] for run in listed] == ["test-run"]
    assert unknown.code == 1
    assert "no-such-run" in unknown.err and "Traceback" not in unknown.err


def test_two_runs_started_at_once_share_one_stack(user: User) -> None:
    one = user.start(*user.run_arguments(user.inputs(3, "a"), run_id="one"))
    two = user.start(
        *["run", str(COPY_ROWS), "--input", str(user.inputs(3, "b")), "--output", str(user.home / "out2")],
        *["--run-id", "two", "--max-objects", "1", "--workers", "1", "--json"],
    )

    first, second = answer(one), answer(two)

    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert rows_of(user.home / "out") == rows_of(user.home / "out2") == every_row(3)


def test_a_capped_run_spares_a_worker_and_is_throttled(user: User) -> None:
    script = user.home / "timed.py"
    script.write_text(TIMED)
    where = ("--input", str(user.inputs(6)), "--output", str(user.home / "out"), "--run-id", "capped")
    running = user.start("run", str(script), *where, "--max-objects", "1", "--workers", "2", "--max-concurrency", "1")

    # WHEN the cap is raised while the run is open
    eventually(lambda: user.types("status", "capped", "--json").out.count('"succeeded": 2'), 120, "two are done")
    raised_s = time.time()
    throttled = user.types("throttle", "capped", "--max-concurrency", "2")
    ended = answer(running)

    # THEN until then no two shards were in work at once, though there are two workers
    assert (throttled.code, ended.code) == (0, 0), throttled.err + ended.err
    results = map(json.loads, user.types("results", "capped", "--json").out.splitlines())
    times = sorted(each["answer"] for each in results)
    assert len(times) == 6
    assert all(end_s <= begin_s for (_, end_s), (begin_s, _) in pairwise(times) if begin_s < raised_s)


def test_a_killed_command_leaves_nothing_and_its_run_resumes(user: User) -> None:
    arguments = user.run_arguments(
        user.inputs(5), "--param", "slow_on=003.csv", "--param", "slow_s=6", "--timeout", "45"
    )
    process = user.start(*arguments)
    eventually(lambda: any((user.state / "log").glob("worker-*.log")), 90, "a worker has started")
    port = int(json.loads((user.state / "stack.json").read_text())["endpoint_url"].rsplit(":", 1)[1])
    eventually(lambda: "doing 001.csv" in logs(user), 90, "a shard is being done")

    process.send_signal(signal.SIGKILL)
    process.communicate()

    eventually(lambda: not user.processes(), 30, "everything ended with the command")
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 2):
        pass
    later = user.types("watch", "test-run", "--json")
    assert later.code == 0, later.err
    assert later.document["shards"]["succeeded"] == 5
    assert rows_of(user.home / "out") == every_row(5)


def test_ctrl_c_prints_what_goes_on(user: User) -> None:
    arguments = user.run_arguments(user.inputs(8), "--max-concurrency", "1")
    process = user.start(*(word for word in arguments if word not in ("--run-id", "test-run")))  # an id nobody knows
    eventually(lambda: "doing 000.csv" in logs(user), 120, "a shard is being done")

    process.send_signal(signal.SIGINT)
    stopped = answer(process, 30)
    eventually(lambda: not user.processes(), 30, "nothing is left")
    (command,) = (line.strip() for line in stopped.err.splitlines() if line.strip().startswith("sparklet resume "))
    resumed = user.types(*shlex.split(command)[1:], "--json")

    assert stopped.code == 130
    assert resumed.code == 0, resumed.err
    assert rows_of(user.home / "out") == every_row(8)


def test_wrong_usage_exits_with_1_and_a_short_message(user: User) -> None:
    user.inputs(1)
    (user.home / "empty").mkdir()

    for arguments, named in (
        (["run", "missing.py", "--input", "in", "--output", "out"], "missing.py"),
        (["run", str(COPY_ROWS), "--input", "nowhere", "--output", "out"], "nowhere"),
        (["run", str(COPY_ROWS), "--input", "in"], "--output"),
        (["run", str(COPY_ROWS), "--input", "in", "--output", "out", "--shard-size", "big"], "big"),
        (["frobnicate"], "frobnicate"),
        (["plan", str(COPY_ROWS), "--input", "empty", "--dry-run"], "empty"),
    ):
        wrong = user.types(*arguments)

        assert wrong.code == 1, arguments
        assert named in wrong.err
        assert "Traceback" not in wrong.err
        assert len(wrong.err.strip().splitlines()) <= 6


def test_a_dry_run_shows_the_plan_and_starts_nothing(user: User) -> None:
    told = user.types(
        "plan", str(COPY_ROWS), "--input", str(user.inputs(7)), "--max-objects", "3", "--dry-run", "--json"
    )

    assert told.document["shards"] == 3
    assert told.document["objects"] == 7
    assert not user.state.exists()


def logs(user: User) -> str:
    """What all workers wrote so far."""
    return "".join(path.read_text(errors="replace") for path in (user.state / "log").glob("worker-*.log"))
