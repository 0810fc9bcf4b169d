"""Whole runs through the command line: the counts add up, every row is in the output once, no process is left."""

import json
import os
import signal
import socket
import time

import pytest

from tests.end_to_end.conftest import RUN_S, User, answer, every_row, rows_of
from tests.functional.local.conftest import server_of
from tests.waiting import PATIENCE, eventually

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]
OUTAGE_S = 10.0


@pytest.mark.smoke
def test_a_run_outputs_every_row_and_leaves_no_process(user: User) -> None:
    done = user.types(*user.run_arguments(user.inputs(6), "--dispatch-mode", "loop"))

    assert done.code == 0, done.err
    assert "test-run-g0" in done.err  # the name of the state machine's execution
    shards = done.document["shards"]
    assert shards == {"total": 6, "pending": 0, "running": 0, "succeeded": 6, "failed": 0}
    assert done.document["rows"] == 60
    assert rows_of(user.home / "out") == every_row(6)
    eventually(lambda: not user.processes(), "no process, no JVM is left")


def test_a_killed_command_leaves_no_process_and_its_run_resumes(user: User) -> None:
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
def test_ten_seconds_of_outage_lose_no_row(user: User) -> None:
    """Ledger, queue and object store do not respond; the worker, the planner's client and the checker wait."""
    held = user.holds()
    slow = ("--param", "slow_on=001.csv", "--param", f"held={held.name}")
    process = user.start(*user.run_arguments(user.inputs(6), *slow))
    eventually(lambda: "doing 001.csv" in logs(user), "a shard is being done", RUN_S)
    stand_in = server_of(json.loads((user.state / "stack.json").read_text())["host_pid"])

    os.kill(stand_in, signal.SIGSTOP)
    held.close()  # the shard ends during the outage
    end_s = time.monotonic() + OUTAGE_S
    eventually(lambda: time.monotonic() > end_s, "the outage is over")
    os.kill(stand_in, signal.SIGCONT)
    done = answer(process)

    assert done.code == 0, done.err
    assert done.document["shards"]["succeeded"] == 6
    assert rows_of(user.home / "out") == every_row(6)


def logs(user: User) -> str:
    """The logs of all workers so far."""
    return "".join(path.read_text(errors="replace") for path in (user.state / "log").glob("worker-*.log"))
