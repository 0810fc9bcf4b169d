"""Real process trees: found and ended whole."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from sparklet.local.processes import is_alive, kill_tree, wait_gone
from sparklet.spark.guards import descendants

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


def test_a_tree_with_stubborn_members_is_killed(
    start: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    parent = start(TREE)
    tree = [parent.pid, *descendants(parent.pid)]
    assert len(tree) == 3

    kill_tree(parent.pid)

    assert wait_gone(tree, 5)
    assert parent.wait() == -signal.SIGKILL


def test_only_what_is_below_is_killed_if_the_root_is_spared(start: Callable[[str], subprocess.Popen[bytes]]) -> None:
    parent = start(TREE)
    below = descendants(parent.pid)

    kill_tree(parent.pid, itself=False)

    assert wait_gone(below, 5)
    assert is_alive(parent.pid)


def test_a_tree_that_grows_while_it_is_killed_is_killed_whole(start: Callable[[str], subprocess.Popen[bytes]]) -> None:
    process = start(TREE.replace("time.sleep(60)\n", FORKS.replace('print("ready", flush=True)', "")))
    time.sleep(0.2)

    kill_tree(process.pid)

    assert wait_gone([process.pid], 5)
    assert not descendants(process.pid)


def test_a_process_that_ended_uncollected_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert is_alive(process.pid)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        assert wait_gone([process.pid], 10)
        process.wait()


ORPHANS = """
import os, subprocess, sys, time
from sparklet.local.processes import end_children
from sparklet.spark.guards import become_subreaper, descendants
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


def test_waiting_for_a_process_that_stays_ends() -> None:
    assert wait_gone([os.getpid()], 0.05) is False
