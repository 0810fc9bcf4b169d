"""Parts of the worker shim that need no stand-in; the rest is tested in one (tests/functional/local)."""

import subprocess
import sys
from pathlib import Path

import pytest

from sparklet.local import worker_process
from tests.waiting import deadline_s

ADOPT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from sparklet.local.worker_process import prepare
conversation = sys.stdout  # as the stand-in's worker holds it
handle = prepare("handlers." + sys.argv[2], "worker")
conversation.write("the answer: %s\\n" % handle({}, None))
conversation.flush()
"""
HANDLERS = """
import os, signal, time
def talks(event, context):
    os.system("echo aside; cat")
    return sorted(os.listdir(os.environ["SPARKLET_LOG_DIR"]))
def forks(event, context):
    ready, say = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(say, b"1")
        time.sleep(3600)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    return os.waitpid(child, 0)[1]
"""


def adopt(folder: Path, handler: str) -> "subprocess.CompletedProcess[str]":
    (folder / "handlers.py").write_text(HANDLERS)
    (folder / "log").mkdir()
    command = [sys.executable, "-c", ADOPT, str(folder), handler]
    env = {"SPARKLET_LOG_DIR": str(folder / "log"), "PYTHONPATH": str(Path(worker_process.__file__).parents[2])}
    given = "not for a child\n"
    return subprocess.run(command, env=env, input=given, capture_output=True, text=True, timeout=deadline_s())


def test_stdout_has_only_the_protocol_other_output_is_in_the_log(tmp_path: Path) -> None:
    done = adopt(tmp_path, "talks")

    (log,) = (tmp_path / "log").iterdir()
    assert done.stdout == f"the answer: ['{log.name}']\n"
    assert done.stderr == ""
    assert log.read_text() == "aside\n"  # nothing of the input


def test_a_forked_child_of_a_worker_dies_of_sigterm(tmp_path: Path) -> None:
    assert adopt(tmp_path, "forks").stdout == "the answer: 15\n"


def test_a_handler_that_fails_to_import_logs_its_traceback(tmp_path: Path) -> None:
    done = adopt(tmp_path, "missing")

    (log,) = (tmp_path / "log").iterdir()
    assert done.returncode != 0
    assert "AttributeError" in log.read_text()


def test_a_log_that_is_too_long_is_moved_to_one_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "MAX_LOG_BYTES", 10)
    log = tmp_path / "worker-1.log"
    with log.open("ab") as writer:
        writer.write(b"more than ten bytes\n")
        writer.flush()

        worker_process.limit_log(log)

        writer.write(b"later\n")
    assert log.read_bytes() == b"later\n"
    assert (tmp_path / "worker-1.log.1").read_bytes() == b"more than ten bytes\n"


def test_a_worker_survives_the_deletion_of_its_log(tmp_path: Path) -> None:
    worker_process.limit_log(tmp_path / "gone.log")

    assert not any(tmp_path.iterdir())
