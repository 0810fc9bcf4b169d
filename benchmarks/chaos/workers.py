"""Worker processes: the real handler, each behind a port of the proxy; killed, stopped, waked and replaced."""

import itertools
import json
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.chaos.proxy import FINE, Fault, Proxy, Request
from benchmarks.chaos.world import TIMEOUT_S, World
from benchmarks.facts import ROOT
from sparklet.spark.processes import descendants, kill_tree, signal_process
from tests.functional.worker.worker_process import PROCESS

ENDED, STOPPED = object(), object()
Decide = Callable[["Worker", Request], Fault]


class Worker:
    """One execution environment of the worker function."""

    def __init__(
        self, world: World, proxy: Proxy, name: str, command: Sequence[str] = (str(PROCESS),), *, answers: bool = True
    ) -> None:
        self.name = name
        self.decide: Decide = _fine
        self.address = proxy.listen(lambda request: self.decide(self, request))
        self._scratch = world.folder / name
        self._scratch.mkdir()
        self.log = world.folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if answers else log,
                stderr=log,
                env=world.environment(self.address, self._scratch, in_lambda=answers),
                start_new_session=True,  # Ctrl-C is for the campaign alone
            )
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._awake = threading.Event()
        self._awake.set()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._process.stdout or ():
            self._answers.put(json.loads(line))
        self._process.wait()
        self._answers.put(ENDED)

    def invoke(self, event: Any) -> Any:
        """The handler's answer; ENDED if its process was killed, STOPPED if it is stopped now."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"event": event, "timeout_s": TIMEOUT_S}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return ENDED
        return self._answers.get()

    def answer(self, within_s: float) -> Any:
        """The answer of a worker that was stopped and is awake again; None if there is none in time."""
        try:
            return self._answers.get(timeout=within_s)
        except queue.Empty:
            return None

    def kill(self) -> None:
        """SIGKILL to the whole process tree."""
        kill_tree(self._process.pid)
        self._awake.set()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP to the whole process tree, and back only when it is awake again: for the proxy's threads."""
        self._awake.clear()
        self._signal_tree(signal.SIGSTOP)
        self._answers.put(STOPPED)
        self._awake.wait()

    def wake(self) -> None:
        """SIGCONT to the whole process tree."""
        self._signal_tree(signal.SIGCONT)
        self._awake.set()

    def _signal_tree(self, number: int) -> None:
        signalled: set[int] = set()
        while fresh := ({self._process.pid} | descendants(self._process.pid)) - signalled:
            for pid in fresh:
                signal_process(pid, number)
            signalled |= fresh

    @property
    def is_awake(self) -> bool:
        """Whether it is not stopped."""
        return self._awake.is_set()

    @property
    def alive(self) -> bool:
        """Whether its process lives."""
        return self._process.poll() is None

    def close(self) -> None:
        """Kill it, and delete what it left."""
        self.kill()
        shutil.rmtree(self._scratch, ignore_errors=True)


@dataclass
class Pool:
    """So many workers that are well; one that was killed or stopped is replaced at once."""

    world: World
    proxy: Proxy
    size: int
    _idle: "queue.Queue[Worker]" = field(default_factory=queue.Queue)
    _all: list[Worker] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        for _ in range(self.size):
            self._add()

    def _add(self) -> None:
        with self._lock:
            worker = Worker(self.world, self.proxy, f"worker-{next(self._numbers):04d}")
            self._all.append(worker)
        self._idle.put(worker)

    def take(self) -> Worker:
        """A worker that is at rest; waits for one."""
        return self._idle.get()

    def give_back(self, worker: Worker, answer: Any) -> None:
        """After an invocation: it rests, or another takes its place."""
        if answer is ENDED:
            self.dispose(worker)
        if answer in (ENDED, STOPPED):
            self._add()
        else:
            worker.decide = _fine
            self._idle.put(worker)

    def dispose(self, worker: Worker) -> None:
        """Kill a worker for good."""
        worker.close()
        with self._lock:
            self._all.remove(worker)

    def checker(self, run_id: str, decide: Decide) -> Worker:
        """A checker of a run, a process like a worker's; whoever asks for it disposes of it."""
        with self._lock:
            name = f"checker-{next(self._numbers):04d}"
            checker = Worker(self.world, self.proxy, name, ("-m", "benchmarks.chaos.checker", run_id))
            self._all.append(checker)
        checker.decide = decide
        return checker

    def engine_worker(self, arguments: Sequence[str], decide: Decide) -> Worker:
        """A worker of an engine with its one shard."""
        with self._lock:
            name, command = f"engine-{next(self._numbers):04d}", ("-P", "-m", "sparklet.engines.one_shard", *arguments)
            worker = Worker(self.world, self.proxy, name, command, answers=False)
            self._all.append(worker)
        worker.decide = decide
        return worker

    def close(self) -> None:
        """Kill all."""
        with self._lock:
            for worker in self._all:
                worker.close()
            self._all.clear()


def _fine(worker: Worker, request: Request) -> Fault:
    return FINE
