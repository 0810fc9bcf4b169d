"""Lambda freezes all processes between invocations, for minutes, and later lets them continue."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.functional.worker.conftest import MARK, SPARK, processes_with, small_env, wait_until_none
from tests.waiting import eventually

pytestmark = pytest.mark.spark

WORKER = """
import json, sys, threading, time
from pathlib import Path
from sparklet.errors import SparkletError
from sparklet.settings import spark_settings
from sparklet.spark.runner import Deadline, task_folder
from sparklet.spark.runner import ScriptCall
from sparklet.spark.script import Script
from sparklet.spark.spark_submit import SubmitRunner
from sparklet.spark.warm_runner import WarmRunner

def tell(**event):
    print(json.dumps(event), flush=True)

scratch = Path(sys.argv[2])
runner = {"warm": WarmRunner, "submit": SubmitRunner}[sys.argv[1]](spark_settings(), scratch)
starting = threading.Thread(target=runner.start)  # as a host like Lambda's: from a thread that ends
starting.start()
starting.join()
for number, line in enumerate(sys.stdin):
    job = json.loads(line)
    with task_folder(scratch, str(number)) as folder:
        script = Path(job["script"])
        call = ScriptCall(script, Script(script.read_bytes()), (), folder, Deadline.within(600))

        def hear(stream, line):
            if job["left_s"]:
                call.deadline.guard_s = time.time() + job["left_s"]
            tell(**{stream: line.decode()})

        try:
            result = runner.run(call, hear)
            tell(code=result.exit_code, cause=result.cause)
        except SparkletError as error:
            tell(error=type(error).__name__)
runner.close()
"""

HELLO = SPARK + "print(spark.range(100).repartition(4).agg(F.sum('id')).first()[0])"
IMPATIENT = {
    "spark.network.timeout": "3s",
    "spark.executor.heartbeatInterval": "1s",
    "spark.storage.blockManagerHeartbeatTimeoutMs": "3000ms",
    "spark.network.timeoutInterval": "1s",
    "spark.rpc.askTimeout": "3s",
}


@dataclass
class Worker:
    """A worker in a separate process, as in Lambda."""

    process: subprocess.Popen[str]
    folder: Path
    mark: str

    def begin(self, code: str, left_s: float = 0.0) -> None:
        """Start a script, whose deadline comes ``left_s`` after its latest line of output."""
        script = self.folder / f"{uuid.uuid4().hex}.py"
        script.write_text(code)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"script": str(script), "left_s": left_s}) + "\n")
        self.process.stdin.flush()

    def next_event(self, *keys: str) -> dict[str, Any]:
        """Return the worker's next event with one of these keys."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if set(keys) & set(event):
                return event
        raise AssertionError("the worker has ended")

    def do(self, code: str) -> str:
        """Run a script that must succeed; return the last line that it printed."""
        self.begin(code)
        printed = ""
        while "code" not in (event := self.next_event("stdout", "code", "error")):
            assert "error" not in event, event
            printed = event["stdout"]
        assert event["code"] == 0, event
        return printed


def freeze(workers: Sequence[Worker], duration_s: float) -> None:
    """Stop workers and all processes that they have started, for this time."""
    family = [pid for worker in workers for pid in (worker.process.pid, *processes_with(worker.mark))]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    end_s = time.monotonic() + duration_s
    eventually(lambda: time.monotonic() > end_s, "the freeze is over", duration_s)
    for pid in reversed(family):
        os.kill(pid, signal.SIGCONT)


@contextmanager
def working(kind: str, folder: Path, conf: dict[str, str]) -> Iterator[Worker]:
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, kind, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            **small_env(),
            MARK: mark,
            "SPARKLET_SPARK_CONF": json.dumps(conf),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
    )
    try:
        yield Worker(process, folder, mark)
    finally:
        process.kill()
        process.communicate()
    wait_until_none(mark)


def test_a_freeze_between_tasks_beyond_every_timeout_is_survived(tmp_path: Path) -> None:
    """Only the warm runner is tested: with the other no Spark process runs between tasks."""
    with working("warm", tmp_path, IMPATIENT) as worker:
        for _ in range(3):  # the context of a JVM's first task is never kept
            assert worker.do(HELLO) == "4950\n"
        freeze([worker], 6)

        assert worker.do(HELLO) == "4950\n"


def test_a_deadline_that_passes_in_a_freeze_is_kept_after_it(tmp_path: Path) -> None:
    with working("warm", tmp_path, {}) as worker:
        worker.do("pass")
        worker.begin("import time\nprint('asleep')\ntime.sleep(600)", left_s=2)
        worker.next_event("stdout")
        freeze([worker], 3)

        assert worker.next_event("code", "error") == {"error": "DeadlineExceededError"}
        assert worker.do(HELLO) == "4950\n"


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_freezes_of_two_minutes_are_survived(tmp_path: Path) -> None:
    """This is longer than Spark's default timeouts; the workers have the timeouts of a function."""
    long = SPARK + (
        "import time\nspark.range(10).cache().count()\nprint('half', flush=True)\n"
        "slow = F.udf(lambda x: open('{}', 'w').close() or time.sleep(0.5) or x, 'long')\n"
        "print(spark.range(0, 20, 1, 4).select(slow('id').alias('id')).agg(F.sum('id')).first()[0])"
    )
    for name in ("idle", "warm", "submit"):
        (tmp_path / name).mkdir()
    with (
        working("warm", tmp_path / "idle", {}) as idle,
        working("warm", tmp_path / "warm", {}) as warm,
        working("submit", tmp_path / "submit", {}) as submit,
    ):
        for _ in range(3):
            assert idle.do(HELLO) == "4950\n"
        assert warm.do(HELLO) == "4950\n"
        for busy in (warm, submit):
            busy.begin(long.format(busy.folder / "begun"))
            assert busy.next_event("stdout") == {"stdout": "half\n"}
            eventually((busy.folder / "begun").exists, "its job has begun")
        freeze([idle, warm, submit], 130)

        assert idle.do(HELLO) == "4950\n"
        for busy in (warm, submit):
            assert busy.next_event("stdout", "code", "error") == {"stdout": "190\n"}
            assert busy.next_event("code", "error")["code"] == 0
            assert busy.do(HELLO) == "4950\n"
