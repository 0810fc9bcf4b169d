"""Executors with real workers on this machine: how their processes and interpreters begin and end."""

import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

from sparklet.functions.executor import LambdaExecutor
from tests.end_to_end.conftest import heed_ctrl_c
from tests.stand_ins import called
from tests.waiting import deadline_s, eventually, has_ended

END_S = deadline_s()
IMPORTS = "import os, sys, threading, time", "from sparklet.functions.executor import LambdaExecutor"
HEAD = "\n".join([*IMPORTS, "from tests.stand_ins import called", ""])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """A function that starts a script with ``block`` as its main block."""
    started = []

    def run(block: str, *, first: str = "", defined: str = "", as_module: bool = False) -> "subprocess.Popen[str]":
        block = "".join(f"    {line}\n" for line in dedent(block).strip().splitlines())
        script = tmp_path / "user_script.py"
        script.write_text(f'{dedent(first)}{HEAD}{dedent(defined)}\nif __name__ == "__main__":\n{block}')
        command = ["-m", "user_script"] if as_module else [str(script)]
        path = os.pathsep.join([str(tmp_path), *sys.path] if as_module else sys.path)
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ended(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Wait until a script has ended; return its output and its errors."""
    return process.communicate(timeout=END_S)


def gone(pid: int) -> bool:
    return eventually(lambda: has_ended(pid), f"{pid} has ended")


# --- the functions that workers call ---


@pytest.mark.parametrize("as_module", [False, True])
def test_functions_of_the_main_module_work(start: Callable[..., "subprocess.Popen[str]"], as_module: bool) -> None:
    defined = """
        class Point:
            def __init__(self, x):
                self.x = x
            def moved(self, by):
                return Point(self.x + by)
        def double(point):
            return Point(2 * point.x)
        def wrong(point):
            raise LookupError(point.x)
    """
    block = """
        with LambdaExecutor(max_workers=2) as executor:
            print(executor.submit(double, Point(4)).result().x, executor.submit(Point(1).moved, by=2).result().x)
            print([point.x for point in executor.map(double, map(Point, range(3)))])
            print(repr(executor.submit(wrong, Point(5)).exception()))
    """
    printed, errors = ended(start(block, defined=defined, as_module=as_module))

    assert not errors
    assert printed.splitlines() == ["8 3", "[0, 2, 4]", "LookupError(5)"]


def test_a_script_without_a_main_guard_ends(start: Callable[..., "subprocess.Popen[str]"]) -> None:
    process = start("pass", defined="LambdaExecutor(max_workers=1).submit(called.double, 1).result()")
    _, errors = ended(process)

    assert process.returncode == 1
    assert "importing of main module" in errors


def test_threads_share_an_executor() -> None:
    with LambdaExecutor(max_workers=2) as executor:
        found: list[int] = []

        def submit(first: int) -> None:
            futures = [executor.submit(called.double, number) for number in range(first, first + 100)]
            found.extend(future.result(END_S) for future in as_completed(futures, END_S))

        threads = [threading.Thread(target=submit, args=[100 * each]) for each in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(END_S)

    assert sorted(found) == [2 * number for number in range(800)]
    assert executor.stats()["succeeded"] == 800


# --- the ends of executors and callers ---


def test_a_shutdown_leaves_no_process_folder_or_thread() -> None:
    before = set(threading.enumerate())
    with LambdaExecutor(max_workers=2) as executor:
        pids = set(executor.map(called.pid, range(20)))
        folder = executor.backend.folder  # type: ignore[attr-defined]

    assert all(gone(pid) for pid in pids)
    assert not folder.exists()
    for thread in set(threading.enumerate()) - before:
        thread.join(END_S)
        assert not thread.is_alive()


def test_a_collected_executor_ends_its_workers() -> None:
    executor = LambdaExecutor(max_workers=1)
    pid = executor.submit(called.pid).result(END_S)
    results = executor.map(called.double, range(10))
    collected = weakref.ref(executor)
    del executor

    assert list(results) == [2 * number for number in range(10)]
    del results
    gc.collect()
    assert gone(pid)
    assert collected() is None


def test_workers_end_with_a_killed_caller(start: Callable[..., "subprocess.Popen[str]"]) -> None:
    block = """
        executor = LambdaExecutor(max_workers=2)
        print(executor.submit(called.pid).result(), flush=True)
        time.sleep(600)
    """
    process = start(block)
    assert process.stdout
    pid = int(process.stdout.readline())

    process.kill()

    assert gone(pid)


@pytest.mark.parametrize("last", ["", "executor.shutdown(wait=False)"])
def test_an_interpreter_waits_for_its_tasks(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, last: str
) -> None:
    block = f"""
        executor = LambdaExecutor(max_workers=1)
        executor.submit(called.sleep, 0.5)
        executor.submit(called.write, {str(tmp_path / "done")!r})
        {last}
    """
    process = start(block)

    assert ended(process) == ("", "")
    assert process.returncode == 0
    assert (tmp_path / "done").exists()


def test_no_task_is_accepted_at_the_interpreters_end(start: Callable[..., "subprocess.Popen[str]"]) -> None:
    first = """
        import atexit
        def late():
            try:
                executor.submit(called.double, 1)
            except RuntimeError as error:
                print(type(error).__name__)
        atexit.register(late)  # the function that is registered first is called last
    """
    block = """
        executor = LambdaExecutor(max_workers=1)
        print(executor.submit(called.double, 4).result())
    """
    assert ended(start(block, first=first)) == ("8\nRuntimeError\n", "")


def test_a_fork_of_the_caller_ends(start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path) -> None:
    block = f"""
        executor = LambdaExecutor(max_workers=1)
        running = executor.submit(called.meet, {str(tmp_path / "one")!r}, {str(tmp_path / "other")!r}, 60.0)
        while not os.path.exists({str(tmp_path / "one")!r}):
            time.sleep(0.01)
        child = os.fork()
        if child:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            open({str(tmp_path / "other")!r}, "w").close()
            print(running.result())
    """
    assert ended(start(block))[0] == "0\nTrue\n"


HANGING = """
def announce():
    names = []
    while names[:1] != ["wait"] or "result" not in names:
        time.sleep(0.01)
        frame, names = sys._current_frames()[threading.main_thread().ident], []
        while frame:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
    print("it waits", flush=True)

threading.Thread(target=announce, daemon=True).start()
executor = LambdaExecutor(max_workers=2, retry_on=(Exception,))
futures = [executor.submit(called.meet, {mark!r} + str(number), "never", 600.0) for number in range(5)]
"""


@pytest.mark.parametrize("whom", ["the caller alone", "its process group, as a terminal does"])
@pytest.mark.parametrize(
    "wait",
    [
        "with executor:\n    futures[0].result()",
        "futures[0].result()",
        "list(executor.map(called.sleep, [600.0] * 5))",
        "try:\n    futures[0].result()\nexcept KeyboardInterrupt:\n    executor.abort()\n    raise",
    ],
)
def test_ctrl_c_ends_a_caller_and_its_workers(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, wait: str, whom: str
) -> None:
    process = start(HANGING.format(mark=str(tmp_path / "mark")) + wait)
    eventually((tmp_path / "mark0").exists)
    eventually((tmp_path / "mark1").exists)  # a worker that is still starting would print its own traceback
    assert process.stdout and process.stdout.readline() == "it waits\n"
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers

    if whom == "the caller alone":
        process.send_signal(signal.SIGINT)
    else:
        os.killpg(process.pid, signal.SIGINT)
    _, errors = ended(process)

    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert not psutil.wait_procs(workers, END_S)[1]
