"""A worker over in-memory ports, whose runner calls Python functions instead of starting Spark."""

import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparklet.errors import DeadlineExceededError
from sparklet.events import Outcome, Task, answer, parse_event
from sparklet.job.outcome import EVENT, OUTCOME_FILE
from sparklet.ledger.rules import LEASE_GRACE_S, LEASE_S
from sparklet.log import Log
from sparklet.model import (
    Access,
    InputObject,
    PartRecord,
    Position,
    Run,
    RunKind,
    RunOptions,
    ScriptRef,
    Shard,
    ShardRecord,
    ShardRef,
    ShardState,
)
from sparklet.ports.deployment import Deployment
from sparklet.settings import WorkerSettings, worker_settings
from sparklet.spark.runner import Deadline, Output, Runner, ScriptCall, ScriptResult
from sparklet.spark.script_acts import SEEN
from sparklet.worker.executor import Executor, ScriptCache
from sparklet.worker.shards import ShardClaims
from sparklet.worker.worker import Worker
from tests.stand_ins.memory import FakeClock, MemoryLedger, MemoryObjectStore, MemoryTaskQueue
from tests.stand_ins.read_queues import Received
from tests.unit.events.samples import sqs
from tests.unit.worker.script_events import check_event

BUCKET = "bucket"
GRACE_S = 10
OWN = {"SPARKLET_EVENT", "SPARKLET_EVENT_FILE", "SPARKLET_OUTCOME_FILE"}  # variables that every task has
SCRIPT = b"print('hello')\n"
NO_ACCESS = Access()
LONG, SILENT = Deadline.within(3600), Log(io.BytesIO())
Behaviour = Callable[[ScriptCall, Output], ScriptResult]


def succeed(call: ScriptCall, output: Output) -> ScriptResult:
    return ScriptResult(0)


def exits(code: int, cause_class: str = "", cause: str = "", tail: str = "", **more: Any) -> Behaviour:
    """A script that ends with this exit code, cause and stderr tail."""
    return lambda call, output: ScriptResult(code, tail, cause_class, cause, **more)


def raises(error: BaseException) -> Callable[..., Any]:
    """A runner, or a method of a port, that raises this error."""

    def behave(*_: object, **__: object) -> Any:
        raise error

    return behave


def saw(call: ScriptCall, act: str, place: str = "") -> None:
    """Record an act of Spark in the task's folder, as Sparklet's Java code does."""
    with (call.work_dir.parent / SEEN).open("a") as seen:
        seen.write(json.dumps({"seen": act, **({"place": place} if place else {})}) + "\n")


def meanwhile(act: Callable[[], object], then: Behaviour = succeed) -> Behaviour:
    """A script that does ``act`` first, as something that happens while it runs."""

    def behave(call: ScriptCall, output: Output) -> ScriptResult:
        act()
        return then(call, output)

    return behave


def reports(outcome: Any, then: Behaviour = succeed) -> Behaviour:
    """A script that writes this outcome file (a text unchanged, anything else as JSON), then behaves as ``then``."""

    def behave(call: ScriptCall, output: Output) -> ScriptResult:
        Path(call.env[OUTCOME_FILE]).write_text(outcome if isinstance(outcome, str) else json.dumps(outcome))
        return then(call, output)

    return behave


@dataclass
class CallableRunner(Runner):
    """A Runner whose scripts are Python functions; remembers its calls."""

    behaviour: Behaviour = succeed
    calls: list[ScriptCall] = field(default_factory=list)
    has_view: bool = False

    def start(self) -> None:
        pass

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        if not call.deadline.remaining_s():
            raise DeadlineExceededError(f"{call.script.name} was not started: {call.deadline.reason}")
        self.calls.append(call)
        check_event(self.event())
        return self.behaviour(call, output)

    def close(self) -> None:
        pass

    def event(self) -> Any:
        """The event of the last call, read as the script would read it."""
        text = self.calls[-1].env[EVENT]
        return json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)


def delivered(message: Received) -> dict[str, Any]:
    """A received message as the record of Lambda's SQS event."""
    record = sqs(message.message_id, message.body)
    record["attributes"]["ApproximateReceiveCount"] = str(message.receive_count)
    return {**record, "receiptHandle": message.receipt}


@dataclass
class Bench:
    """One worker with its ports in memory, and helpers to plan runs and to deliver messages."""

    worker: Worker
    runner: CallableRunner
    store: MemoryObjectStore
    ledger: MemoryLedger
    queue: MemoryTaskQueue
    clock: FakeClock
    lines: io.BytesIO

    args: tuple[str, ...] = ("--level", "3")  # of the next run
    params: Mapping[str, Any] = field(default_factory=lambda: {"k": 1})
    env: Mapping[str, str] = field(default_factory=dict)
    when_entered: Callable[[Run], object] = lambda run: None

    @property
    def claims(self) -> ShardClaims:
        """The part of the worker that claims shards."""
        assert isinstance(self.worker.shards, ShardClaims)
        return self.worker.shards

    @property
    def record(self) -> ShardRecord:
        """The first shard's record in the ledger."""
        return self.ledger.shards.get("run-1", 0)

    @property
    def failure(self) -> tuple[str, str]:
        """The error class and message with which the first shard has FAILED."""
        record = self.record
        assert record.state is ShardState.FAILED
        return record.error_class, record.error_message

    def put(self, uri: str, body: bytes) -> InputObject:
        """Store an object that a shard reads."""
        return InputObject(uri, len(body), self.store.put(uri, body))

    def configure(self, **changed: Any) -> None:
        """Change the worker's settings."""
        self.worker.executor.settings = replace(self.worker.executor.settings, **changed)

    def writes(self, *names: str, body: bytes = b"rows", then: Behaviour = succeed) -> Behaviour:
        """A script that writes these files below its output, then behaves as ``then``."""

        def behave(call: ScriptCall, output: Output) -> ScriptResult:
            for name in names:
                self.store.put(f"{self.runner.event()['output_path']}/{name}", body)
            return then(call, output)

        return behave

    def plan(
        self,
        run_id: str = "run-1",
        shards: int = 1,
        objects: int = 1,
        name: str = "",
        inputs: Sequence[Sequence[InputObject]] = (),
        access: Access = NO_ACCESS,
        source: bytes = SCRIPT,
        kind: RunKind = RunKind.SHARDS,
        **changed: Any,
    ) -> list[ShardRef]:
        """Create a sealed run and send its messages. The inputs are ``0.csv``, ``0-1.csv`` … by default."""
        digest = hashlib.sha256(source).hexdigest()
        uri = f"s3://{BUCKET}/runs/{run_id}/script/{digest}/job.py"
        self.store.put(uri, source)
        script, options = ScriptRef(uri, digest, "s3://mine/job.py"), RunOptions(**{"max_attempts": 3, **changed})
        given = self.args, self.params, options, name
        run = Run(run_id, ("s3://in/",), "s3://out/x", (script,), *given, access=access, kind=kind, env=self.env)
        self.ledger.runs.create(run := replace(run, created_s=self.clock.now_s()))
        self.when_entered(run)
        if not inputs:
            names = [[f"{n}-{place}" if place else f"{n}" for place in range(objects)] for n in range(shards)]
            inputs = [[InputObject(f"s3://in/{name}.csv", 10, "e") for name in each] for each in names]
        planned = [Shard(n, tuple(each)) for n, each in enumerate(inputs)]
        lines, part = [shard.to_line() for shard in planned], "part-00000-test.jsonl"
        self.store.put(f"s3://{BUCKET}/runs/{run_id}/plan/{part}", b"".join(lines))
        records, offset = list[ShardRecord](), 0
        for shard, line in zip(planned, lines, strict=True):
            size, level = (len(shard.objects), shard.size_bytes), int(options.isolate)
            records.append(ShardRecord(run_id, shard.number, part, offset, len(line), *size, isolate=level))
            offset += len(line)
        counts = len(records), sum(r.object_count for r in records), sum(r.size_bytes for r in records)
        self.ledger.runs.add_part(run_id, PartRecord(0, part, 0, *counts, Position()))
        self.ledger.shards.add(records)
        self.ledger.runs.seal_plan(run_id, *counts)
        self.queue.send(r.ref.to_body() for r in records)
        return [r.ref for r in records]

    def redrive(self, run_id: str = "run-1") -> ShardRef:
        """Redrive the first shard, which has ended, and send its message."""
        run = self.ledger.runs.get(run_id)
        self.ledger.runs.start_generation(run_id, run.generation + 1, run.scripts[0])
        again = self.ledger.attempts.redrive(run_id, 0, run.generation + 1, isolate=int(run.options.isolate))
        assert again
        self.queue.send([again.ref.to_body()])
        return again.ref

    def let_the_lease_end(self) -> None:
        """Advance the clock until the lease of the first shard's attempt has expired."""
        self.clock.advance(LEASE_S + LEASE_GRACE_S + 1)

    def attempt(self, script: Behaviour | None = None, **planned: Any) -> Outcome:
        """Plan a run, and deliver its first message. Without ``script`` the runner keeps its behaviour."""
        self.plan(**planned)
        self.runner.behaviour = script or self.runner.behaviour
        return self.deliver()

    def deliver(self, message: Received | None = None, remaining_s: float = 600) -> Outcome:
        """Invoke the worker with one message, as Lambda does; delete the message unless it is reported as failed."""
        if message is None:
            (message,) = self.queue.receive(1)
        (outcome,) = self.deliver_together([message], remaining_s)
        return outcome

    def deliver_together(self, messages: Sequence[Received], remaining_s: float = 600) -> list[Outcome]:
        """Do the same as ``deliver`` with several messages in one invocation."""
        event = {"Records": list(map(delivered, messages))}
        outcomes = self.invoke(event, remaining_s)
        failed = {failure["itemIdentifier"] for failure in answer(event, outcomes)["batchItemFailures"]}
        for message in messages:
            if message.message_id not in failed:
                self.queue.delete(message.receipt)
        return outcomes

    def ask(self, ref: ShardRef, remaining_s: float = 600) -> Any:
        """Invoke the worker with a shard's reference, as a Map's child does. Return Lambda's response."""
        event = json.loads(ref.to_body())
        return answer(event, self.invoke(event, remaining_s))

    def invoke(self, event: Any, remaining_s: float = 600) -> list[Outcome]:
        deadline = Deadline.within(remaining_s, GRACE_S, self.clock.now_s())
        return self.worker.do(parse_event(event), deadline, "request-1")

    def log_lines(self) -> list[dict[str, Any]]:
        """The JSON lines that the worker has logged so far."""
        lines = self.lines.getvalue().splitlines()
        return [json.loads(line) for line in lines if line.startswith(b"{")]


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    env = {"SPARKLET_BUCKET": BUCKET, "SPARKLET_LEDGER_TABLE": "t", "SPARKLET_SCRATCH": str(tmp_path / "scratch")}
    return worker_settings({**env, "SCRIPT_LOCATION": f"s3://{BUCKET}/scripts/default.py"})


@pytest.fixture
def bench(settings: WorkerSettings) -> Bench:
    return make_bench(settings)


def do_batch(
    tasks: Sequence[Task],
    run: Callable[[Task, Deadline], Outcome],
    deadline: Deadline = LONG,
    log: Log = SILENT,
    now_s: Callable[[], float] = time.time,
) -> list[Outcome]:
    """Let a worker do the tasks of one event, with ``run`` in place of its own way to run a task."""
    executor = SimpleNamespace(settings=SimpleNamespace(batch_handling="message"))
    worker = Worker(executor, None, None, log)  # type: ignore[arg-type]
    worker.run = lambda task, share, request_id: run(task, share)  # type: ignore[assignment,method-assign]
    return worker.do(tasks, deadline, "request-1", now_s)


def make_bench(settings: WorkerSettings) -> Bench:
    settings.scratch.mkdir()
    clock = FakeClock(time.time())
    store, ledger = MemoryObjectStore(clock), MemoryLedger(clock)
    queue = MemoryTaskQueue(clock=clock, visibility_s=3600)
    store.put(f"s3://{BUCKET}/scripts/default.py", SCRIPT)
    runner, lines = CallableRunner(), io.BytesIO()
    scripts = ScriptCache(store, settings.scratch / "scripts", settings.script_prefixes)
    executor = Executor(settings, runner, scripts)
    deployment = Deployment(BUCKET, store, ledger, queue, clock)
    worker = Worker(executor, ShardClaims(deployment, executor), None, Log(lines))
    return Bench(worker, runner, store, ledger, queue, clock, lines)
