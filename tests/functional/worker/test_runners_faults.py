"""A task that fails has its cause in the error, ends in time and leaves nothing, and the next task works."""

import os
import signal
from pathlib import Path

import pytest

from sparklet.errors import DeadlineExceededError, GatewayLostError, OutOfMemoryError, SettingsError
from sparklet.spark.runner import Deadline, ScriptCall
from sparklet.spark.script import Script
from sparklet.spark.warm_runner import WarmRunner
from tests.functional.worker.conftest import (
    JVM,
    JVM_PID,
    MARK,
    SMALL,
    SPARK,
    Bench,
    make,
    processes_with,
    small_settings,
    wait_until_none,
)
from tests.functional.worker.test_runners_freeze import working
from tests.waiting import deadline_s, eventually, has_ended

pytestmark = pytest.mark.spark


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the grace, as it is waited for in full: no script in these tests ends by itself at its deadline."""
    monkeypatch.setattr("sparklet.spark.runner.MAX_SCRIPT_GRACE_S", 0.5)


def test_a_hanging_script_is_ended_at_its_deadline_with_its_line(bench: Bench) -> None:
    hang = """
import os, signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["setsid", "sleep", "600"])

def hang():
    print("hanging", flush=True); time.sleep(600)

hang()
"""
    with pytest.raises(DeadlineExceededError, match=r"job\.py was ended at its deadline, at line 7 of job\.py: make"):
        bench.run(hang, until=b"hanging\n", left_s=1)

    assert ("stdout", b"hanging\n") in bench.lines
    assert bench.survivors() == {}
    bench.settle()


def test_a_thread_that_never_ends_is_ended_at_its_line(bench: Bench) -> None:
    code = """
import threading, time
def linger():
    threading.main_thread().join(); print("lingering", flush=True); time.sleep(600)
threading.Thread(target=linger).start()
"""
    with pytest.raises(DeadlineExceededError, match=r"at line 4 of job"):
        bench.run(code, until=b"lingering\n")


def test_a_spark_job_is_ended_at_its_deadline(bench: Bench) -> None:
    code = """
import threading, time
def tell():
    while not spark.sparkContext.statusTracker().getActiveJobsIds():
        time.sleep(0.01)
    print("working", flush=True)
threading.Thread(target=tell, daemon=True).start()
spark.range(10**15).selectExpr("sum(id % 7)").collect()
"""
    with pytest.raises(DeadlineExceededError, match=r"at line 10 of job"):
        bench.run(SPARK + code, until=b"working\n")

    assert bench.survivors() == {}
    bench.settle()


@pytest.mark.nightly
def test_a_slow_script_has_the_time_to_report_its_line(bench: Bench) -> None:
    """The script is paused, as on a busy processor, in one of the two calls of its last line."""
    code = """
import os, subprocess, time
pause = "kill -STOP {0}; echo paused; sleep 0.5; kill -CONT {0}".format(os.getpid())
subprocess.Popen(["sh", "-c", pause]); time.sleep(600)
"""
    with pytest.raises(DeadlineExceededError, match=r"at line 4 of job"):
        bench.run(code, until=b"paused\n")


def test_nothing_is_started_after_the_deadline(bench: Bench) -> None:
    with pytest.raises(DeadlineExceededError, match="was not started: its deadline is over"):
        bench.run("open('/nowhere')", limit_s=-1)


def test_a_jvm_that_is_killed_under_the_script_is_a_lost_gateway(bench: Bench) -> None:
    with pytest.raises(GatewayLostError, match="ended by SIGKILL under the script"):
        bench.run(f"{SPARK}{JVM}import os, time\nos.kill({JVM_PID}, 9)\ntime.sleep(600)")

    assert bench.survivors() == {}
    bench.settle()


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (f"os.kill({JVM_PID}, 9)\n    os._exit(0)", "ended by SIGKILL"),
        (f"os.kill({JVM_PID}, 9)\n    os._exit(1)", "ended by SIGKILL"),  # whichever of the two ends first
        (f"os.kill({JVM_PID}, 9)\n    jvm.java.lang.System.nanoTime()", "ended by SIGKILL"),
        ("jvm.java.lang.System.exit(5)", "ended with 5"),  # this call does not return
    ],
    ids=["killed", "killed, and the script has failed", "killed and seen", "ended"],
)
def test_a_script_that_loses_its_jvm_has_no_exit_code(bench: Bench, code: str, cause: str) -> None:
    """The exit code of the script is ignored, whether or not the script has noticed that the JVM is lost."""
    with pytest.raises(GatewayLostError, match=f"{cause} under the script"):
        bench.run(f"{JVM}import os\ntry:\n    {code}\nexcept Exception:\n    pass")

    assert bench.survivors() == {}


def test_impossible_process_arguments_are_reported(bench: Bench) -> None:
    """Only under spark-submit arguments go through a command line, which cannot have a null byte."""
    ran = bench.run("import sys\nprint(len(sys.argv[1]))", args=["a\0b"])

    if isinstance(bench.runner, WarmRunner):
        assert ran.text("stdout") == "3\n"
    else:
        assert (ran.code, "embedded null byte" in ran.result.stderr_tail) == (127, True)


def test_a_jvm_out_of_memory_is_reported(bench: Bench) -> None:
    code = SPARK + "spark.range(1).selectExpr(\"repeat('x', 600000000)\").collect()"
    with pytest.raises(OutOfMemoryError, match="Java heap space; give the function more memory"):
        bench.run(code)

    assert bench.survivors() == {}
    bench.settle()


FULL_HEAP = """
ints, longs = jvm.java.util.stream.IntStream, jvm.java.util.stream.LongStream
runtime, kept = jvm.java.lang.Runtime.getRuntime(), jvm.java.util.ArrayList()
for piece, left_mb in ((1_000_000, 40), (20_000, 6)):
    jvm.java.lang.System.gc()
    free = runtime.maxMemory() - runtime.totalMemory() + runtime.freeMemory()
    for _ in range((free - left_mb * 2**20) // (20 * piece)):  # an Integer has 16 bytes, its place in the list 4
        kept.add(ints.range(1000, 1000 + piece).boxed().toList())
longs.range(1000, 10**12).boxed().max(jvm.java.util.Comparator.naturalOrder())  # keeps nothing
"""


@pytest.mark.parametrize("kind", ["warm", "submit"])
def test_a_jvm_that_only_collects_garbage_is_ended(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Java itself does not run out of memory, as each new object fits after a collection."""
    monkeypatch.setattr("sparklet.spark.runner.WATCHED_S", 3.0)
    monkeypatch.setattr("sparklet.spark.runner.MIN_BUSY", 0.0)  # other processes can use the cores
    small_steps = f"{SMALL['SPARKLET_JAVA_OPTIONS']} -Xmn8m"  # a collection each 6 MB
    bench = Bench(make(kind, tmp_path, SPARKLET_JAVA_OPTIONS=small_steps), tmp_path)
    try:
        with pytest.raises(OutOfMemoryError, match=r"GC overhead limit exceeded.*; give the function more memory"):
            bench.run(JVM + FULL_HEAP, limit_s=deadline_s(200))
        assert bench.survivors() == {}
        bench.settle()
    finally:
        bench.runner.close()


def test_python_out_of_memory_is_reported_with_its_line(bench: Bench) -> None:
    with pytest.raises(OutOfMemoryError, match=r"Python ran out of memory at line 1 of job\.py; give the function"):
        bench.run("x = bytes(1 << 60)")


def test_a_script_that_kills_its_parent_process_harms_no_other(bench: Bench) -> None:
    code = "import os, subprocess, time\nsubprocess.Popen(['setsid', 'sleep', '600'])\nos.kill(os.getppid(), 9)\n"
    with pytest.raises(GatewayLostError):
        bench.run(code + "time.sleep(600)")

    assert bench.survivors() == {}
    bench.settle()


@pytest.mark.parametrize("print_pid", [f"{JVM}print({JVM_PID})", "import os\nprint(os.getppid())"], ids=["JVM", "host"])
def test_a_process_that_dies_between_tasks_is_replaced(warm: Bench, print_pid: str) -> None:
    pid = int(warm.run(print_pid).printed())
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: has_ended(pid), "it has ended")

    warm.settle()
    assert warm.run(print_pid).printed() != pid


def test_a_jvm_that_cannot_be_cleaned_is_replaced(warm: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparklet.spark.warm_runner.CLEAN_LIMIT_S", 2.0)  # the test waits for all of it
    stuck = f"""
import os, threading, time
jvm = spark._jvm
print({JVM_PID}, flush=True)
threading.Thread(target=lambda: spark._jvm.java.lang.Thread.sleep(600_000)).start()

def sleeps(thread):  # for Python
    stack = " ".join(map(str, thread))
    return "java.lang.Thread.sleep" in stack and "py4j." in stack

while not any(map(sleeps, jvm.java.lang.Thread.getAllStackTraces().values())):
    time.sleep(0.01)
os._exit(0)
"""
    pid = int(warm.run(SPARK + stuck).printed())  # a thread of the script still sleeps in the JVM

    assert warm.jvm_pid() != pid


def test_a_failing_output_is_an_error_and_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text("import time\nprint('x', flush=True)\ntime.sleep(600)")

    def fail(stream: str, line: bytes) -> None:
        raise BrokenPipeError(stream)

    call = ScriptCall(
        script, Script(script.read_bytes()), (), tmp_path, Deadline.within(deadline_s()), {MARK: bench.mark}
    )
    with pytest.raises(BrokenPipeError):
        bench.runner.run(call, fail)

    assert bench.survivors() == {}
    bench.settle()


NO_START = "-XX:-IgnoreUnrecognizedVMOptions -XX:+NoSuchCollector"


def test_a_jvm_that_does_not_start_is_reported_with_its_reason(tmp_path: Path) -> None:
    runner = make("warm", tmp_path, SPARKLET_JAVA_OPTIONS=NO_START)
    runner.start()
    try:
        with pytest.raises(GatewayLostError, match=r"did not start: Unrecognized VM option .NoSuchCollector"):
            Bench(runner, tmp_path).run("pass")
    finally:
        runner.close()


def test_a_spark_submit_that_cannot_start_has_javas_message(tmp_path: Path) -> None:
    failed = Bench(make("submit", tmp_path, SPARKLET_JAVA_OPTIONS=NO_START), tmp_path).run("pass")

    assert failed.code == 1
    assert "NoSuchCollector" in failed.result.stderr_tail


def test_starting_and_running_wait_only_until_the_deadline(tmp_path: Path) -> None:
    java = tmp_path / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\nsleep 600\n")  # a JVM that never comes up
    java.chmod(0o755)
    runner = make("warm", tmp_path, JAVA_HOME=str(tmp_path / "java"))
    bench = Bench(runner, tmp_path)
    runner.start()
    try:
        for _ in range(2):
            with pytest.raises(DeadlineExceededError, match="was not started: the JVM was not up by its deadline"):
                bench.run("pass", limit_s=0.5)
    finally:
        runner.close()


def test_settings_that_name_no_java_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no Java"):
        WarmRunner(small_settings(JAVA_HOME=str(tmp_path)), tmp_path).start()


@pytest.mark.parametrize("kind", ["warm", "submit"])
def test_everything_dies_with_a_worker_that_is_killed(kind: str, tmp_path: Path) -> None:
    with working(kind, tmp_path, {}) as worker:
        worker.begin(
            f"{SPARK}import subprocess, time\nsubprocess.Popen(['setsid', 'sleep', '600'])\n"
            "print('busy', flush=True)\ntime.sleep(600)"
        )
        assert worker.next_event("stdout") == {"stdout": "busy\n"}
        process = worker.process
        assert process.stdin is not None and process.stdout is not None
        ours = {os.fstat(pipe.fileno()).st_ino for pipe in (process.stdin, process.stdout)}
        # Worker, host, JVM, script, sleep; a process that has just begun a new program has no environment yet.
        eventually(lambda: len(processes_with(worker.mark)) >= 5, "every process has started")
        family = processes_with(worker.mark)
        for pid in family:
            if pid != process.pid:
                open_files = {entry.stat().st_ino for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.exists()}
                assert not open_files & ours, f"{family[pid]} holds the worker's standard input or output"
        process.kill()

        wait_until_none(worker.mark)
