"""Workers that stop before each call to a port, so that a test decides which of them goes on, dies or stays frozen."""

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
    """One message in one worker; it goes on by one call to a port each time it is told to."""

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
        except BaseException as error:  # noqa: BLE001 - told to whoever steps, in his own thread
            self.problem = error
        finally:
            self.done = True
            self._rests.release()

    def pause(self) -> None:
        """Called by the attempt itself, before each call to a port."""
        self._rests.release()
        self._go.acquire()
        if self._killed:
            raise KilledError

    def step(self, calls: int = 1) -> None:
        """Let it make so many calls."""
        for _ in range(calls):
            if not self.done:
                self._go.release()
                self._rests.acquire()
        if self.problem:
            raise self.problem

    def kill(self) -> None:
        """SIGKILL: nothing of it happens any more."""
        self._killed = True
        while not self.done:
            self.step()


@dataclass
class Worker:
    """An environment of the worker function, which is kept between attempts with all that it remembers."""

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
        """Begin to do what a message asks for."""
        self.attempts += 1
        name = f"{id(self):x}-{self.attempts}"
        ref = ref_of(message.body)
        task = Task(Source.SQS, {}, (message.message_id,), message.receipt, message.receive_count, shard=ref)

        def body() -> None:
            with open("/dev/null", "wb") as nobody:
                deadline = Deadline.within(TIMEOUT_S + 10, 10, self.world.clock.now_s())
                outcome = make_attempt(self.claims, WorkerAttempt(name, task, deadline, Log(nobody)))
            if outcome.acknowledged:
                self.world.queue.delete(message.receipt)

        self.attempt = Attempt(body)

    def finish(self) -> None:
        """Do what is begun to its end."""
        while self.attempt and not self.attempt.done:
            self.attempt.step(50)

    def execute(self, execution: Execution, attempt: WorkerAttempt) -> ExecutionResult:
        """What the claims' executor does."""
        path = self.scripts.fetch(execution.script).path
        self.pause()
        return self.script(execution, path)

    def pause(self) -> None:
        if self.attempt is threading.current_thread():  # the lease's own thread goes on by itself
            self.attempt.pause()


class _Stepping:
    """A port whose calls wait until the attempt may go on; files are copied one by one."""

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
    """What ``spark.read`` finds below a folder: every line of every file, but for hidden ones."""
    rows = []
    for info in world.store.list(folder):
        names = info.uri.removeprefix(folder).split("/")
        if not any(name.startswith(("_", ".")) for name in names):
            rows += world.store.get(info.uri).decode().splitlines()
    return rows


def write_rows(world: World, execution: Execution, rows: list[str]) -> ExecutionResult:
    """Two files of the same names for each attempt, so that one may be published without the other; and a hidden."""
    output = execution.event["output_path"]
    for number in range(2):
        world.store.put(f"{output}/part-{number}", "\n".join(rows[number::2]).encode())
    world.store.put(f"{output}/_SUCCESS", b"")
    return ExecutionResult(JobOutcome(rows=len(rows), outputs=(output,)))


def event_of(execution: Execution) -> dict[str, Any]:
    """The event as the script has it, through JSON."""
    event: dict[str, Any] = json.loads(json.dumps(execution.event))
    return event
