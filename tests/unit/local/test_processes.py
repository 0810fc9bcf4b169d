"""Real process trees: found and ended whole."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import psutil
import pytest

from sparklet.spark.processes import descendants, kill_tree

TREE = """
import subprocess, sys, time
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
subprocess.Popen([sys.executable, "-c", child])
print("ready", flush=True)
time.sleep(60)
"""
FORKS = """
import os, time
print("ready", flush=True)
for _ in range(400):
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(60)
        os._exit(0)
    os.wait()
    time.sleep(0.002)
time.sleep(60)
"""


@pytest.fixture
def start() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
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


def await_end(pids: Iterable[int]) -> None:
    """Wait until none of the processes runs any more; one that nobody has waited for is a zombie."""
    end_s = time.monotonic() + 10
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < end_s, "some processes are still there"
        time.sleep(0.02)


def test_a_tree_with_stubborn_members_is_killed(
    start: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    parent = start(TREE)
    tree = [parent.pid, *descendants(parent.pid)]
    assert len(tree) == 3

    kill_tree(parent.pid)

    await_end(tree)
    assert parent.wait() == -signal.SIGKILL


def test_only_what_is_below_is_killed_if_the_root_is_spared(start: Callable[[str], subprocess.Popen[bytes]]) -> None:
    parent = start(TREE)
    below = descendants(parent.pid)

    kill_tree(parent.pid, itself=False)

    await_end(below)
    assert parent.poll() is None


def test_a_tree_that_grows_while_it_is_killed_is_killed_whole(start: Callable[[str], subprocess.Popen[bytes]]) -> None:
    process = start(TREE.replace("time.sleep(60)\n", FORKS.replace('print("ready", flush=True)', "")))
    time.sleep(0.2)

    kill_tree(process.pid)

    await_end([process.pid])
    assert not descendants(process.pid)


ORPHANS = """
import os, subprocess, sys, time
from sparklet.local.host import end_children
from sparklet.spark.processes import become_subreaper, descendants
become_subreaper()
spared = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
orphan = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
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
    done = subprocess.run([sys.executable, "-c", ORPHANS], capture_output=True, text=True, timeout=60)

    assert done.stdout == "True None\n", done.stderr
