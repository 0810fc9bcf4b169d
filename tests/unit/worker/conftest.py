"""A worker over in-memory ports, whose runner calls Python functions instead of starting Spark."""

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparklet.errors import DeadlineExceededError, LedgerError
from sparklet.events import Outcome, Task, answer, parse_event
from sparklet.job.outcome import EVENT, OUTCOME_FILE
from sparklet.log import Log
from sparklet.model import InputObject, PartRecord, Position, Run, RunOptions, ScriptRef, Shard, ShardRecord, ShardRef
from sparklet.ports.deployment import Deployment
from sparklet.settings import WorkerSettings, worker_settings
from sparklet.spark.runner import Output, Runner, ScriptCall, ScriptResult
from sparklet.spark.task_limits import Deadline
from sparklet.worker.executor import Executor, ScriptCache
from sparklet.worker.shards import ShardClaims
from sparklet.worker.worker import Worker
from tests.stand_ins.memory import FakeClock, MemoryLedger, MemoryObjectStore, MemoryTaskQueue
from tests.stand_ins.read_queues import Received
from tests.unit.worker.script_events import check_event

BUCKET = "bucket"
GRACE_S = 10
SCRIPT = b"print('hello')\n"
Behaviour = Callable[[ScriptCall, Output], ScriptResult]


def succeed(call: ScriptCall, output: Output) -> ScriptResult:
    return ScriptResult(0)


def exits(code: int, cause_class: str = "", cause: str = "", tail: str = "") -> Behaviour:
    """A script that ends so."""
    return lambda call, output: ScriptResult(code, tail, cause_class, cause)


def raises(error: BaseException) -> Behaviour:
    """A runner that meets this error."""

    def behave(call: ScriptCall, output: Output) -> ScriptResult:
        raise error

    return behave


def reports(outcome: Any, code: int = 0) -> Behaviour:
    """A script that leaves this outcome: text as it is, anything else as JSON."""

    def behave(call: ScriptCall, output: Output) -> ScriptResult:
        Path(call.env[OUTCOME_FILE]).write_text(outcome if isinstance(outcome, str) else json.dumps(outcome))
        return ScriptResult(code)

    return behave


@dataclass
class CallableRunner(Runner):
    """A Runner whose scripts are Python functions; remembers its calls."""

    behaviour: Behaviour = succeed
    calls: list[ScriptCall] = field(default_factory=list)

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
        """The event of the last call, as the script would read it."""
        text = self.calls[-1].env[EVENT]
        return json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)


@dataclass
class Bench:
    """One worker and everything around it."""

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

    def plan(
        self, run_id: str = "run-1", shards: int = 1, objects: int = 1, name: str = "", **changed: Any
    ) -> list[ShardRef]:
        """Enter a sealed run and send its messages; more objects of a shard are named ``0-1.csv`` and so on."""
        import hashlib

        digest = hashlib.sha256(SCRIPT).hexdigest()
        uri = f"s3://{BUCKET}/runs/{run_id}/script/{digest}/job.py"
        self.store.put(uri, SCRIPT)
        options = RunOptions(**{"max_attempts": 3, **changed})
        run = Run(
            run_id,
            ("s3://in/",),
            "s3://out/x",
            (ScriptRef(uri, digest, "s3://mine/job.py"),),
            self.args,
            self.params,
            options,
            name,
            env=self.env,
            created_s=self.clock.now_s() if name else 0.0,
        )
        self.ledger.runs.create(run)
        names = [[f"{n}-{place}" if place else f"{n}" for place in range(objects)] for n in range(shards)]
        inputs = [tuple(InputObject(f"s3://in/{name}.csv", 10, "e") for name in each) for each in names]
        lines = [Shard(n, each).to_line() for n, each in enumerate(inputs)]
        part = "part-00000-test.jsonl"
        self.store.put(f"s3://{BUCKET}/runs/{run_id}/plan/{part}", b"".join(lines))
        counts = shards * objects, 10 * shards * objects
        self.ledger.runs.add_part(run_id, PartRecord(0, part, 0, shards, *counts, Position()))
        offsets = [sum(map(len, lines[:n])) for n in range(shards)]
        sizes, level = (objects, 10 * objects), int(options.isolate)
        records = [
            ShardRecord(run_id, n, part, offsets[n], len(lines[n]), *sizes, isolate=level) for n in range(shards)
        ]
        self.ledger.shards.add(records)
        self.ledger.runs.seal_plan(run_id, shards, *counts)
        self.queue.send(r.ref.to_body() for r in records)
        return [r.ref for r in records]

    def deliver(self, message: Received | None = None, remaining_s: float = 600) -> Outcome:
        """Do what Lambda's mapping does with one message: invoke, and delete what is not reported."""
        if message is None:
            (message,) = self.queue.receive(1)
        (outcome,) = self.deliver_together([message], remaining_s)
        return outcome

    def deliver_together(self, messages: Sequence[Received], remaining_s: float = 600) -> list[Outcome]:
        """The same with several messages in one invocation."""
        records = [
            {
                "messageId": message.message_id,
                "receiptHandle": message.receipt,
                "body": message.body,
                "eventSource": "aws:sqs",
                "attributes": {"ApproximateReceiveCount": str(message.receive_count)},
            }
            for message in messages
        ]
        event = {"Records": records}
        outcomes = self.invoke(event, remaining_s)
        failed = {failure["itemIdentifier"] for failure in answer(event, outcomes)["batchItemFailures"]}
        for message in messages:
            if message.message_id not in failed:
                self.queue.delete(message.receipt)
        return outcomes

    def invoke(self, event: Any, remaining_s: float = 600) -> list[Outcome]:
        deadline = Deadline.within(remaining_s, GRACE_S, self.clock.now_s())
        return self.worker.do(parse_event(event), deadline, "request-1")

    def log_lines(self) -> list[dict[str, Any]]:
        """The JSON lines written so far."""
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
    deadline: Deadline,
    log: Log,
    now_s: Callable[[], float] = time.time,
) -> list[Outcome]:
    """What a worker does with the tasks of one event, where ``run`` does each."""
    as_they_are = SimpleNamespace(settings=SimpleNamespace(batch_handling="message"))
    worker = Worker(as_they_are, None, None, log)  # type: ignore[arg-type]
    worker.run = lambda task, share, request_id: run(task, share)  # type: ignore[assignment,method-assign]
    return worker.do(tasks, deadline, "request-1", now_s)


def refusal(message: str) -> LedgerError:
    """What DynamoDB refuses and would refuse again."""
    error = LedgerError(message)
    error.retryable = False
    return error


def make_bench(settings: WorkerSettings) -> Bench:
    settings.scratch.mkdir()
    clock = FakeClock(time.time())
    store, ledger, queue = (
        MemoryObjectStore(clock),
        MemoryLedger(clock),
        MemoryTaskQueue(clock=clock, visibility_s=3600),
    )
    store.put(f"s3://{BUCKET}/scripts/default.py", SCRIPT)
    runner, lines = CallableRunner(), io.BytesIO()
    scripts = ScriptCache(store, settings.scratch / "scripts", settings.script_prefixes)
    executor = Executor(settings, runner, scripts)
    at = Deployment(BUCKET, store, ledger, queue, clock)
    worker = Worker(executor, ShardClaims(at, executor), None, Log(lines))
    return Bench(worker, runner, store, ledger, queue, clock, lines)
