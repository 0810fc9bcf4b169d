"""Workers that pause before each call to a port, so that a test decides which worker goes on, dies or stays frozen."""

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparklet.events import Source, Task
from sparklet.log import Log
from sparklet.model import ExecutionResult, JobOutcome
from sparklet.ports import ObjectInfo
from sparklet.ports.deployment import Deployment
from sparklet.settings import WorkerSettings, worker_settings
from sparklet.spark.runner import Deadline
from sparklet.worker.attempt import Attempt as WorkerAttempt
from sparklet.worker.attempt import make_attempt
from sparklet.worker.executor import Execution, ScriptCache
from sparklet.worker.shards import ShardClaims
from tests.stand_ins.read_queues import Received
from tests.world import BUCKET, KilledError, World, ledger_of, ref_of

Script = Callable[[Execution, Path], ExecutionResult]
TIMEOUT_S = 900.0


class Attempt(threading.Thread):
    """A thread in which a worker does one message; each ``step`` lets it make one call to a port."""

    def __init__(self, body: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._body, self._killed, self.done = body, False, False
        self._go, self._rests = threading.Semaphore(0), threading.Semaphore(0)
        self.problem: BaseException | None = None
        self.start()
        self._rests.acquire()

    def run(self) -> None:
        try:
            self.pause()
            self._body()
        except KilledError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by ``step``, in the test's thread
            self.problem = error
        finally:
            self.done = True
            self._rests.release()

    def pause(self) -> None:
        """Wait for the next ``step``; the attempt itself calls this before each call to a port."""
        self._rests.release()
        self._go.acquire()
        if self._killed:
            raise KilledError

    def step(self, calls: int = 1) -> None:
        """Let the attempt make so many calls; raise its error, if it has one."""
        for _ in range(calls):
            if not self.done:
                self._go.release()
                self._rests.acquire()
        if self.problem:
            raise self.problem

    def kill(self) -> None:
        """Kill the attempt, as by SIGKILL: it makes no further call."""
        self._killed = True
        while not self.done:
            self.step()


@dataclass
class Worker:
    """An environment of the worker function; it keeps its caches between attempts."""

    world: World
    script: Script
    folder: Path
    attempt: Attempt | None = None
    attempts: int = 0
    claims: ShardClaims = field(init=False)
    settings: WorkerSettings = field(default_factory=lambda: worker_settings({}))

    def __post_init__(self) -> None:
        store: Any = _Stepping(self.world.store, self)
        self.scripts = ScriptCache(store, self.folder, (f"s3://{BUCKET}/runs/",))
        ledger = ledger_of(self.world.ledger, lambda port: _Stepping(port, self))
        queue: Any = _Stepping(self.world.queue, self)
        deployment = Deployment(BUCKET, store, ledger, queue, self.world.clock)
        self.claims = ShardClaims(deployment, self)  # type: ignore[arg-type]

    @property
    def busy(self) -> bool:
        return self.attempt is not None and not self.attempt.done

    def take(self, message: Received) -> None:
        """Begin an attempt at a message."""
        self.attempts += 1
        name = f"{id(self):x}-{self.attempts}"
        ref = ref_of(message.body)
        task = Task(Source.SQS, {}, (message.message_id,), message.receipt, message.receive_count, shard=ref)

        def body() -> None:
            with open("/dev/null", "wb") as log:
                deadline = Deadline.within(TIMEOUT_S + 10, 10, self.world.clock.now_s())
                outcome = make_attempt(self.claims, WorkerAttempt(name, task, deadline, Log(log)))
            if outcome.acknowledged:
                self.world.queue.delete(message.receipt)

        self.attempt = Attempt(body)

    def finish(self) -> None:
        """Let the attempt go on to its end."""
        while self.attempt and not self.attempt.done:
            self.attempt.step(50)

    def execute(self, execution: Execution, attempt: WorkerAttempt) -> ExecutionResult:
        """Run the script, in place of the real executor."""
        path = self.scripts.fetch(execution.script).path
        self.pause()
        return self.script(execution, path)

    def pause(self) -> None:
        if self.attempt is threading.current_thread():  # the thread that renews the lease is not paused
            self.attempt.pause()


class _Stepping:
    """A port whose calls pause until the attempt's next step; files are copied one by one."""

    def __init__(self, port: object, worker: Worker) -> None:
        self._port, self._worker = port, worker

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._port, name)

        def call(*args: Any, **keywords: Any) -> Any:
            self._worker.pause()
            return method(*args, **keywords)

        return self._copy_all if name == "copy_all" else call

    def _copy_all(self, pairs: Iterable[tuple[ObjectInfo, str]]) -> None:
        for pair in pairs:
            self._worker.pause()
            self._port.copy_all([pair])  # type: ignore[attr-defined]


def rows_below(world: World, folder: str) -> list[str]:
    """The rows that ``spark.read`` finds below a folder: every line of every file that is not hidden."""
    rows = []
    for info in world.store.list(folder):
        names = info.uri.removeprefix(folder).split("/")
        if not any(name.startswith(("_", ".")) for name in names):
            rows += world.store.get(info.uri).decode().splitlines()
    return rows


def write_rows(world: World, execution: Execution, rows: list[str]) -> ExecutionResult:
    """Write rows into two files with the same names in each attempt, and a hidden file.

    With two files, a kill can leave one of them published without the other.
    """
    output = execution.event["output_path"]
    for number in range(2):
        world.store.put(f"{output}/part-{number}", "\n".join(rows[number::2]).encode())
    world.store.put(f"{output}/_SUCCESS", b"")
    return ExecutionResult(JobOutcome(rows=len(rows), outputs=(output,)))


def event_of(execution: Execution) -> dict[str, Any]:
    """The event as the script gets it, after a pass through JSON."""
    event: dict[str, Any] = json.loads(json.dumps(execution.event))
    return event
