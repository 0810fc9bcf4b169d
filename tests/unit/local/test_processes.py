"""Real process trees are found and ended completely."""

import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from sparklet.spark.processes import descendants, kill_tree, wait_until_handled
from tests.waiting import deadline_s, eventually, has_ended

Start = Callable[[str], "subprocess.Popen[bytes]"]
TREE = """
import subprocess, sys, time
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
subprocess.Popen([sys.executable, "-c", child])
print("ready", flush=True)
time.sleep(3600)
"""
BLOCKS = """
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # as in a program with a thread that handles the signal
print("ready", flush=True)
time.sleep(3600)
"""
FORKS = """
import os
wait, held = os.pipe()
for number in range(400):
    if os.fork() == 0:
        if os.fork() == 0:
            os.close(held)
            os.read(wait, 1)  # until the root has ended: an orphan is below it no more, and nobody kills it
        os._exit(0)
    os.wait()
    if number == 20:
        print("ready", flush=True)
    time.sleep(0.002)
time.sleep(3600)
"""


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def run(program: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        return process

    yield run
    for process in started:
        kill_tree(process.pid)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def await_end(pids: Collection[int]) -> None:
    """Wait until none of the processes runs any more."""
    eventually(lambda: all(map(has_ended, pids)))


@pytest.mark.parametrize("itself", [True, False])
def test_a_tree_is_killed_with_its_root_unless_that_is_spared(start: Start, itself: bool) -> None:
    parent = start(TREE)
    below = descendants(parent.pid)
    assert len(below) == 2

    kill_tree(parent.pid, itself=itself)

    await_end(below)  # both processes ignore SIGTERM
    assert (parent.wait() == -signal.SIGKILL) if itself else (parent.poll() is None)


def test_a_tree_that_grows_while_it_is_killed_is_killed_whole(start: Start) -> None:
    process = start(TREE.replace('print("ready", flush=True)\ntime.sleep(3600)\n', FORKS))

    kill_tree(process.pid)

    await_end([process.pid])
    assert not descendants(process.pid)


ORPHANS = """
import os, subprocess, sys, time
from sparklet.local.host import end_children
from sparklet.spark.processes import become_subreaper, descendants
become_subreaper()
spared = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
orphan = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])"
subprocess.run([sys.executable, "-c", orphan], check=True)
assert len(descendants(os.getpid())) == 2
while len(descendants(os.getpid())) > 1:
    end_children(spared=[spared.pid])
    time.sleep(0.02)
end_children(spared=[spared.pid])
print(descendants(os.getpid()) == {spared.pid}, spared.poll())
spared.kill()
spared.wait()
"""


def test_orphans_are_ended_and_the_spared_child_lives_on() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHANS], capture_output=True, text=True, timeout=deadline_s())

    assert done.stdout == "True None\n", done.stderr


def test_a_thread_that_ends_does_not_hide_another_threads_signal(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ended thread's status file is listed, but no longer exists when it is read."""
    process = start(BLOCKS)
    threads = Path(f"/proc/{process.pid}/task")
    with_ended = [threads / "0" / "status", *threads.glob("*/status")]
    monkeypatch.setattr(Path, "glob", lambda *_: with_ended)
    looks = list[float]()

    def wait(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            process.kill()
            process.wait()

    monkeypatch.setattr("sparklet.spark.processes.time.sleep", wait)

    wait_until_handled(process.pid, signal.SIGUSR1, deadline_s(60))

    assert len(looks) == 3
