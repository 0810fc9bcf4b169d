"""A whole deployment in memory for tests of the fan-out; a test does by hand what workers and the checker do."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from threading import Lock
from types import SimpleNamespace
from typing import Any

from sparklet.model import (
    Claim,
    ClaimStatus,
    Dispatch,
    Failure,
    Run,
    RunOptions,
    Shard,
    ShardRecord,
    ShardRef,
    ShardResult,
)
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import PART_SHARDS, plan
from sparklet.planning.request import RunRequest
from sparklet.ports import Engine, Ledger
from sparklet.ports.deployment import Catalog, Deployment
from sparklet.runs.checker import CheckReport, check
from sparklet.runs.state_machine_steps import take_step
from tests.stand_ins.memory import FakeClock, MemoryLedger, MemoryObjectStore, MemoryTaskQueue
from tests.stand_ins.read_queues import Received

BUCKET = "sparklet"
SOURCE = "s3://data/in/"
SCRIPT = "s3://data/jobs/daily.py"
LEASE_S = 100.0
BROKEN = Failure("ValueError", "bad", retryable=False)
PASSING = Failure("OSError", "503 Slow Down")
Outcome = ShardResult | Failure
Do = Callable[[int], Outcome]  # returns how an attempt at a shard ends, by the shard's number


def all_but(*failing: int) -> Do:
    """Workers that do every shard well but these, which fail for good."""
    return lambda number: BROKEN if number in failing else ShardResult(rows=1)


WELL = all_but()


@dataclass
class World:
    """Store, ledger, queue and clock, and what a user and workers do with them."""

    dispatch: Dispatch = Dispatch.QUEUE  # of the runs that ``request`` makes
    clock: FakeClock = field(default_factory=FakeClock)
    store: MemoryObjectStore = field(init=False)
    ledger: MemoryLedger = field(init=False)
    dead_letters: MemoryTaskQueue = field(init=False)
    queue: MemoryTaskQueue = field(init=False)
    attempts: int = 0
    engines: dict[str, Engine] = field(default_factory=dict)
    catalog: Catalog | None = None

    def __post_init__(self) -> None:
        self.store = MemoryObjectStore(self.clock)
        self.ledger = MemoryLedger(self.clock)
        self.dead_letters = MemoryTaskQueue(self.clock)
        self.queue = MemoryTaskQueue(
            self.clock, visibility_s=600.0, dead_letters=self.dead_letters, max_receive_count=20
        )
        self.store.put(SCRIPT, b"print('daily')\n")

    @property
    def deployment(self) -> Deployment:
        ports = self.store, self.ledger, self.queue, self.clock
        return Deployment(BUCKET, *ports, engines=self.engines, catalog=self.catalog)

    def put(self, count: int, size_bytes: int = 10, folder: str = SOURCE) -> list[str]:
        """Put ``count`` objects into a folder; return their addresses in order."""
        uris = [f"{folder}{n:05d}.csv" for n in range(count)]
        for uri in uris:
            self.store.put(uri, b"x" * size_bytes)
        return uris

    def request(self, **changes: Any) -> RunRequest:
        """A request for a run; a run with another id than run-1 has an output folder of its own."""
        run_id = changes.get("run_id", "run-1")
        request = RunRequest(
            script=SCRIPT,
            inputs=(SOURCE,),
            output_uri="s3://data/out/" if run_id == "run-1" else f"s3://data/out-{run_id or '{run_id}'}/",
            run_id=run_id,
            options=RunOptions(max_objects=2),
            dispatch=self.dispatch,
        )
        return replace(request, **changes)

    def run(self, shards: int, **options: Any) -> Run:
        """Plan a run with one object per shard: its plan is sealed, and the messages are sent."""
        self.put(shards)
        return self.plan(options=RunOptions(max_objects=1, **options))

    def plan(self, *, part_shards: int = PART_SHARDS, **changes: Any) -> Run:
        """Enter a run into the ledger and plan it."""
        run = new_run(self.deployment, self.request(**changes))
        return plan(self.deployment, run.run_id, part_shards=part_shards)

    def check(self) -> CheckReport:
        return check(self.deployment, "run-1")

    def work_and_check(self, do: Do = WELL) -> CheckReport:
        self.work(do)
        return self.check()

    def ran(self, shards: int, do: Do = WELL, **options: Any) -> CheckReport:
        """Plan a run, let workers do its messages, and return the checker's report."""
        self.run(shards, **options)
        return self.work_and_check(do)

    # --- a state machine ---

    def step(self, step: str, deployment: Deployment | None = None, /, **event: Any) -> Any:
        """Take a step of the state machine; return the answer after a pass through JSON, as Step Functions gets it."""
        event = {"run_id": "run-1", **event, "step": step}
        return json.loads(json.dumps(take_step(deployment or self.deployment, 7, event)))

    def handed_out(self, answer: Any) -> list[ShardRef]:
        """The references in the answer of the Map's step, as a Distributed Map reads them."""
        if answer["how"] == "none":
            return []
        lines = self.store.get(f"s3://{answer['bucket']}/{answer['key']}").decode().splitlines()
        refs = [ref_of(line) for line in lines]
        assert answer["how"] == "distributed" or answer["items"] == [json.loads(line) for line in lines]
        return refs

    def children(self, refs: list[ShardRef], do: Do = WELL) -> int:
        """Let a child of a Map do each reference once; return how many shards ended."""
        ended = 0
        for ref in refs:
            attempt_id, claim = self.claim_ref(ref)
            if claim.status is ClaimStatus.GRANTED:
                ended += self._finish(claim.record, attempt_id, do(ref.shard))
        return ended

    # --- a worker ---

    def receive(self) -> Received | None:
        return next(iter(self.queue.receive(1)), None)

    def claim(self, message: Received) -> tuple[str, Claim]:
        return self.claim_ref(ref_of(message.body))

    def take(self) -> tuple[str, ShardRecord]:
        """Begin an attempt at the next message's shard and do not end it; the message stays invisible."""
        message = self.receive()
        assert message is not None
        attempt_id, claim = self.claim(message)
        return attempt_id, claim.record

    def claim_ref(self, ref: ShardRef, engine: str = "") -> tuple[str, Claim]:
        self.attempts += 1
        attempt_id = f"attempt-{self.attempts}"
        max_attempts = self.ledger.runs.get(ref.run_id).options.max_attempts
        return attempt_id, self.ledger.attempts.claim(ref, attempt_id, LEASE_S, max_attempts, engine=engine)

    def work(self, do: Do = WELL) -> int:
        """Do every message that is visible now, as a worker would; return how many shards ended."""
        ended = 0
        while message := self.receive():
            attempt_id, claim = self.claim(message)
            if claim.status is ClaimStatus.HELD:
                continue
            if claim.status is ClaimStatus.GRANTED:
                ended += self._finish(claim.record, attempt_id, do(claim.record.number))
            self.queue.delete(message.receipt)
        return ended

    def _finish(self, record: ShardRecord, attempt_id: str, outcome: Outcome) -> int:
        if isinstance(outcome, ShardResult):
            self.ledger.attempts.succeed(record.run_id, record.number, attempt_id, outcome)
        elif outcome.retryable:
            self.ledger.attempts.release(record.run_id, record.number, attempt_id, outcome)
            if self.dispatch is Dispatch.QUEUE:
                self.queue.send([record.ref.to_body()])
            return 0
        else:
            self.ledger.attempts.fail(record.run_id, record.number, attempt_id, outcome)
        return 1

    # --- what is in the queue, the ledger and the store ---

    def bodies(self) -> list[ShardRef]:
        """The messages in the queue, visible or not."""
        return [ref_of(entry.body) for entry in self.queue.entries.values()]

    def shards(self, run_id: str = "run-1") -> list[ShardRecord]:
        return list(self.ledger.shards.list(run_id))

    def planned(self, run_id: str = "run-1") -> Iterator[Shard]:
        """The shards of all sealed parts, read from the parts' files as a worker reads them."""
        for record in self.shards(run_id):
            line = self.store.get(self.deployment.part_uri(run_id, record.part), record.offset, record.length)
            yield Shard.from_line(line)

    def taken(self, run_id: str = "run-1") -> list[str]:
        """The addresses of all objects in the planned shards, in order."""
        return [item.uri for shard in self.planned(run_id) for item in shard.objects]

    def only_part(self, run_id: str = "run-1") -> str:
        """The address of a plan's only part."""
        (part,) = self.ledger.runs.parts(run_id)
        return self.deployment.part_uri(run_id, part.part)

    def json(self, name: str, run_id: str = "run-1") -> Any:
        return json.loads(self.store.get(self.deployment.run_uri(run_id, name)))

    def keys(self, prefix: str) -> list[str]:
        return [info.uri for info in self.store.list(prefix)]


def ref_of(body: str) -> ShardRef:
    ref = ShardRef.from_document(json.loads(body))
    assert ref is not None
    return ref


# --- faults ---


class KilledError(BaseException):
    """Stands for the death of the process, so nothing is allowed to catch it."""


@dataclass
class Fault:
    """Raises KilledError at the ``at_call``-th call through the ports of its deployment; items of a stream count, too.

    The call has no effect, unless ``after_effect`` is set.
    """

    at_call: int
    after_effect: bool = False
    calls: int = 0
    _counting: Any = field(default_factory=Lock, repr=False)  # the checker lists objects in threads

    def deployment(self, deployment: Deployment) -> Deployment:
        names = ("store", "queue", *(["notifier"] if deployment.notifier else []))
        ports: dict[str, Any] = {name: _Faulty(getattr(deployment, name), self) for name in names}
        ports["ledger"] = ledger_of(deployment.ledger, lambda port: _Faulty(port, self))
        return replace(deployment, **ports)

    def step(self) -> bool:
        with self._counting:
            self.calls += 1
            return self.calls == self.at_call


def ledger_of(ledger: Ledger, wrapped: Callable[[object], object]) -> Any:
    """A ledger whose three ports are replaced by what ``wrapped`` returns for them."""
    return SimpleNamespace(**{name: wrapped(getattr(ledger, name)) for name in ("runs", "attempts", "shards")})


class _Faulty:
    def __init__(self, port: object, fault: Fault) -> None:
        self._port, self._fault = port, fault

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._port, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            hit = self._fault.step()
            if hit and not self._fault.after_effect:
                raise KilledError(name)
            if name in ("send", "add"):
                args = (self._each(args[0], self._fault.after_effect), *args[1:])
            try:
                answer = method(*args, **kwargs)
            finally:
                if hit:
                    raise KilledError(name)
            return self._each(answer, False) if isinstance(answer, Iterator) else answer

        return call

    def _each(self, items: Any, after: bool) -> Iterator[Any]:
        """Pass on the items that a port receives or returns; a fault strikes before an item or ``after`` it.

        It strikes only before an item that a port returns: its reader might read no further item.
        """
        for item in items:
            hit = self._fault.step()
            if hit and not after:
                raise KilledError("before an item")
            yield item
            if hit:
                raise KilledError("after an item")
