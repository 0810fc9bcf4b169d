"""Local stacks for single tests, with probes in place of Sparklet's handlers."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from sparklet.local.lock import is_locked
from sparklet.local.stack import LocalStack, StackInfo, StackOptions, running, stop
from sparklet.local.state import StateDir
from tests.waiting import deadline_s, eventually, has_ended

ROOT = Path(__file__).parents[3]
PROBES = Path(__file__).with_name("probes")
HANDLERS = {
    "WorkerFunction": "stack_probes.worker",
    "DlqConsumerFunction": "stack_probes.dlq",
    "CheckerFunction": "stack_probes.checker",
}
CLIENT = Path(__file__).with_name("client_process.py")


@dataclass
class Client:
    """A client in a process of its own, attached until it is killed or a test calls ``leave``."""

    process: subprocess.Popen[str]
    info: dict[str, Any]
    progress: list[str]

    def leave(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(deadline_s()) == 0


@dataclass
class Lab:
    """A state folder, and a folder into which the probes write what they did."""

    root: Path
    shown: Path
    clients: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def state(self) -> StateDir:
        return StateDir(self.root)

    def options(self, **changes: Any) -> StackOptions:
        options: dict[str, Any] = {
            "workers": 2,
            "timeout_s": 20,
            "max_receive_count": 5,
            "handlers": HANDLERS,
            **changes,
        }
        worker_env = {"PROBE_DIR": str(self.shown), **options.pop("worker_env", {})}
        return StackOptions(state_dir=self.root, worker_env=worker_env, **options)

    def attach(self, progress: list[str] | None = None, **changes: Any) -> LocalStack:
        """Attach this process to the stack; lines of progress are appended to ``progress``."""
        return LocalStack.attach(self.options(**changes), (progress if progress is not None else []).append)

    def spawn(self, **changes: Any) -> subprocess.Popen[str]:
        """Start a client process that attaches; ``await_client`` waits for it."""
        document = dataclasses.asdict(self.options(**changes))
        process = subprocess.Popen(
            [sys.executable, str(CLIENT), json.dumps(document, default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.clients.append(process)
        return process

    def await_client(self, process: subprocess.Popen[str]) -> Client:
        assert process.stdout is not None
        answer = json.loads(process.stdout.readline() or '{"error": "it ended"}')
        assert "error" not in answer, answer
        return Client(process, answer["info"], answer["progress"])

    def client(self, **changes: Any) -> Client:
        return self.await_client(self.spawn(**changes))

    def show(self, kind: str, name: str) -> str:
        """Wait for a file of a probe; return its text."""
        path = self.shown / kind / name
        eventually(path.exists, f"a probe shows {kind}: {name}")
        return path.read_text()

    def saved(self, service: str, text: str) -> None:
        """Wait until the stand-in, which saves every few seconds, has saved this text."""
        eventually(lambda: text in (self.state.services / f"{service}.json").read_text(), f"{text} is saved")

    def processes(self) -> list[int]:
        """The living processes of this lab: their arguments or their environment contain its folder."""
        return [pid for pid in pids() if pid != os.getpid() and names(pid, str(self.root))]

    def gone(self, port: int) -> None:
        """Wait until the stack has ended: no process, no listening port, no host."""
        clients = {client.pid for client in self.clients}
        eventually(lambda: not set(self.processes()) - clients, "no process is left")
        eventually(lambda: not listens(port), "nobody listens")  # a process's threads can end a moment after it
        eventually(lambda: not is_locked(self.state.host_lock), "there is no host")
        assert running(self.root) is None


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab for this test alone."""
    with make_lab(tmp_path) as lab:
        yield lab


@contextmanager
def make_lab(folder: Path) -> Iterator[Lab]:
    """Make a lab with an empty state folder, whose path has a space; end all of its processes after the block."""
    shown = folder / "shown"
    shown.mkdir()
    lab = Lab(folder / "state folder", shown)
    with pytest.MonkeyPatch.context() as patch:
        path = [str(PROBES), str(ROOT), os.environ.get("PYTHONPATH")]  # probes import ``tests.waiting``
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        try:
            yield lab
        finally:
            clear(lab)


def clear(lab: Lab) -> None:
    for client in lab.clients:
        client.kill()
        client.wait()
        for pipe in (client.stdin, client.stdout):
            assert pipe is not None
            pipe.close()
    stop(lab.root)
    for pid in lab.processes():
        os.kill(pid, signal.SIGKILL)


def pids() -> list[int]:
    """The ids of all living processes."""
    return [pid for pid in psutil.pids() if not has_ended(pid)]


def names(pid: int, text: str) -> bool:
    """Whether the arguments or the environment of a process contain a text."""
    try:
        return any(text.encode() in Path(f"/proc/{pid}/{file}").read_bytes() for file in ("cmdline", "environ"))
    except OSError:
        return False


def listens(port: int) -> bool:
    """Whether any address of this machine has a listener on the port."""
    connections = psutil.net_connections("tcp")
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections)


def port_of(info: StackInfo | dict[str, Any]) -> int:
    url = info["endpoint_url"] if isinstance(info, dict) else info.endpoint_url
    return int(url.rpartition(":")[2])


def server_of(host: int) -> int:
    """The id of the stand-in's process, a child of the host's."""
    below = (each.pid for each in psutil.Process(host).children())
    return next(pid for pid in below if names(pid, "sparklet.local.emulator"))
