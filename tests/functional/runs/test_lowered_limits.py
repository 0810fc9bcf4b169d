"""Limits that a large run meets, lowered until a small one meets them: heat of a partition, messages in flight.

docs/scaling.md says where the real ones are.
"""

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale.faults import throttled
from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.errors import QueueError
from sparklet.events import parse_event
from sparklet.job.outcome import EVENT
from sparklet.log import Log
from sparklet.model import Counts, RunOptions, RunState, ShardState, ledger_bucket_count
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.planning.request import RunRequest
from sparklet.ports.deployment import Deployment
from sparklet.runs.checker import check
from sparklet.settings import worker_settings
from sparklet.spark.runner import Output, Runner, ScriptCall, ScriptResult
from sparklet.spark.task_limits import Deadline
from sparklet.worker.executor import Executor, ScriptCache
from sparklet.worker.shards import ShardClaims
from sparklet.worker.worker import Worker
from tests.stand_ins.ledger_table import table_definition
from tests.stand_ins.memory import FakeClock, MemoryLedger, MemoryObjectStore, MemoryTaskQueue
from tests.stand_ins.ministack import ministack
from tests.stand_ins.read_queues import Received, readable

BUCKET, SOURCE, SCRIPT = "sparklet", "s3://data/in/", "s3://data/job.py"
FUNCTION_S, GRACE_S = 110.0, 10.0
WORKERS = 4


class KilledError(BaseException):
    """The worker is gone in the middle of its work."""


class Killing(Runner):
    """A runner whose scripts do nothing; the workers of some shards are killed at their first attempt."""

    def __init__(self, to_kill: frozenset[int] = frozenset()) -> None:
        self.to_kill = set(to_kill)
        self.done: Counter[int] = Counter()

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def run(self, call: ScriptCall, output: Output) -> ScriptResult:
        shard = json.loads(call.env[EVENT])["sparklet"]["shard"]
        if shard in self.to_kill:
            self.to_kill.remove(shard)
            raise KilledError
        self.done[shard] += 1
        return ScriptResult(0)


class Mapping:
    """The queue's mapping and its workers: the real handler's parts over these ports."""

    def __init__(self, at: Deployment, runner: Killing, scratch: Path) -> None:
        scratch.mkdir(exist_ok=True)
        env = {"SPARKLET_BUCKET": BUCKET, "SPARKLET_LEDGER_TABLE": "t", "SPARKLET_SCRATCH": str(scratch)}
        own = worker_settings(env)
        scripts = ScriptCache(at.store, scratch / "scripts", own.script_prefixes)
        self._at = at
        executor = Executor(own, runner, scripts)
        self._worker = Worker(executor, ShardClaims(at, executor), None, Log(io.BytesIO()))

    def work(self) -> None:
        """Do messages until none can be had."""
        while (message := self.receive()) is not None:
            self.deliver(message)

    def receive(self) -> Received | None:
        """A message; None if there is none, or the queue refuses to hand one out."""
        try:
            return next(iter(readable(self._at.queue).receive(1)), None)
        except QueueError:
            return None

    def deliver(self, message: Received) -> None:
        """Invoke with one message; delete it if it is acknowledged."""
        record = {"messageId": message.message_id, "receiptHandle": message.receipt, "body": message.body}
        event = {"Records": [{**record, "eventSource": "aws:sqs", "attributes": {"ApproximateReceiveCount": "1"}}]}
        deadline = Deadline.within(FUNCTION_S, GRACE_S, self._at.clock.now_s())
        try:
            outcomes = [self._worker.run(task, deadline, "request") for task in parse_event(event)]
        except KilledError:
            return
        if all(outcome.acknowledged for outcome in outcomes):
            readable(self._at.queue).delete(message.receipt)


def planned(at: Deployment, shards: int) -> None:
    at.store.put(SCRIPT, b"print('x')\n")
    for number in range(shards):
        at.store.put(f"{SOURCE}{number:05d}.csv", b"x")
    request = RunRequest(SCRIPT, (SOURCE,), "s3://data/out/", run_id="run-1", options=RunOptions(max_objects=1))
    plan(at, new_run(at, request).run_id, part_shards=40)


# --- heat ------------------------------------------------------------------------


class HotPartitions:
    """DynamoDB whose partitions take so many writes a second, by the test's clock, and refuse what is more."""

    def __init__(self, clock: FakeClock, most_per_s: int) -> None:
        self._clock, self._most = clock, most_per_s
        self._second, self._window = 0, Counter[str]()
        self._lock = threading.Lock()
        self.refused = 0
        self.written: Counter[tuple[str, str]] = Counter()  # by partition and sort key

    def __call__(self, request: Any, event_name: str, **_: Any) -> Any:
        keys = list(_keys(event_name.rpartition(".")[2], json.loads(request.body)))
        with self._lock:
            if self._second != int(self._clock.now_s()):
                self._second, self._window = int(self._clock.now_s()), Counter()
            if any(self._window[partition] >= self._most for partition, _ in keys):
                self.refused += 1
                return throttled(request.url)
            self._window.update(partition for partition, _ in keys)
            self.written.update(keys)
        return None

    def refusals(self) -> int:
        """How many writes were refused since this was last asked."""
        refused, self.refused = self.refused, 0
        return refused


def _keys(operation: str, document: Any) -> Iterator[tuple[str, str]]:
    if operation == "TransactWriteItems":
        for write in document["TransactItems"]:
            ((_, each),) = write.items()
            yield _key(each.get("Key") or each["Item"])
    elif operation in ("PutItem", "UpdateItem"):
        yield _key(document.get("Key") or document["Item"])


def _key(item: Any) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"]


@pytest.mark.stack
def test_a_hot_partition_slows_a_run_down_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN partitions that take 12 writes a second instead of 1,000, and 20 shards a bucket instead of 10,000."""
    shards, killed = 160, frozenset(range(0, 160, 2))
    monkeypatch.setattr("sparklet.model.shards.SHARDS_PER_BUCKET", 20)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    clock = FakeClock(time.time())
    with ministack(tmp_path) as endpoint:
        clients = AwsClients(8, endpoint_url=endpoint, region="us-east-1", attempts=1)  # its own tries take real time
        clients.dynamodb.create_table(**table_definition("ledger"))
        hot = HotPartitions(clock, most_per_s=12)
        clients.dynamodb.meta.events.register("before-send.dynamodb", hot)
        ledger, queue = DynamoLedger(clients, "ledger", clock), MemoryTaskQueue(clock, 6 * FUNCTION_S)
        at = Deployment(BUCKET, MemoryObjectStore(clock), ledger, queue, clock)
        runner = Killing(killed)
        mapping = Mapping(at, runner, tmp_path / "scratch")

        # WHEN it is planned, worked on by workers of which some are killed, and checked
        planned(at, shards)
        refused = {"planner": hot.refusals()}
        _work(mapping)
        refused["workers"] = hot.refusals()
        clock.advance(FUNCTION_S + 1)
        report = check(at, "run-1")
        refused["checker"] = hot.refusals()
        _work(mapping)
        report_at_end = check(at, "run-1")

        # THEN each of them was refused, waited, and came through
        assert all(refused.values()), refused
        assert report.expired == len(killed)
        assert report_at_end.run.state is RunState.SUCCEEDED
        assert report_at_end.counts == Counts(succeeded=shards)
        assert runner.done == Counter(range(shards))
        _assert_spread(hot.written, shards)


def _work(mapping: Mapping) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        for each in [pool.submit(mapping.work) for _ in range(WORKERS)]:
            each.result()


def _assert_spread(written: Counter[tuple[str, str]], shards: int) -> None:
    """The writes of the run's second half lie on all partitions alike: they are written at about the same time."""
    heat: Counter[str] = Counter()
    for (partition, sort_key), count in written.items():
        kind, _, number = sort_key.partition("#")
        if kind == "shard" and int(number) >= shards // 2:
            heat[partition] += count
    assert len(heat) == ledger_bucket_count(shards)
    assert max(heat.values()) < 2 * heat.total() / len(heat)


# --- messages in flight ------------------------------------------------------------


class FewInFlight(MemoryTaskQueue):
    """A queue that hands out nothing while ``most`` messages are in flight; SQS's own limit is 120,000."""

    def __init__(self, clock: FakeClock, letters: MemoryTaskQueue, most: int) -> None:
        super().__init__(clock, 6 * FUNCTION_S, letters, max_receive_count=20)
        self._most = most
        self.refused = 0

    def receive(self, most: int = 10, wait_s: int = 0) -> Sequence[Received]:
        room = self._most - self.in_flight()
        if room <= 0:
            self.refused += 1
            raise QueueError("OverLimit: too many messages in flight")
        return super().receive(min(most, room), wait_s)


@settings(max_examples=20, deadline=None)
@given(most=st.integers(1, 6), killed=st.frozensets(st.integers(0, 19), max_size=6))
def test_a_full_in_flight_limit_delays_a_run_and_ends_none(
    tmp_path_factory: pytest.TempPathFactory, most: int, killed: frozenset[int]
) -> None:
    shards, clock = 20, FakeClock(time.time())
    letters = MemoryTaskQueue(clock)
    queue = FewInFlight(clock, letters, most)
    at = Deployment(BUCKET, MemoryObjectStore(clock), MemoryLedger(clock), queue, clock)
    runner = Killing(killed)
    mapping = Mapping(at, runner, tmp_path_factory.mktemp("scratch"))
    planned(at, shards)

    for _ in range(120):
        # WHEN as many workers as can be hold a message at one time, and some of them die with it
        held = []
        while (message := mapping.receive()) is not None:
            held.append(message)
        assert len(held) <= most
        for message in held:
            mapping.deliver(message)
        clock.advance(FUNCTION_S / 2)
        if check(at, "run-1").run.state.ended:
            break

    # THEN the run ends with every shard done once, and no message died of the refusals
    assert queue.refused
    assert at.ledger.runs.get("run-1").state is RunState.SUCCEEDED
    assert {record.state for record in at.ledger.shards.list("run-1")} == {ShardState.SUCCEEDED}
    assert runner.done == Counter(range(shards))
    assert len(letters) == 0
