"""The limit of writes to a DynamoDB partition, which only a large run reaches, lowered so that a small run reaches it.

docs/scaling.md has the real limit.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale.faults import throttled
from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.model import ClaimStatus, Counts, RunState, ShardResult, ledger_bucket_count
from tests.stand_ins.ledger_table import create_table
from tests.stand_ins.memory import FakeClock
from tests.stand_ins.ministack import ministack
from tests.world import LEASE_S, World

SHARDS = 160


class HotPartitions:
    """Makes DynamoDB refuse more than so many writes per second to a partition, by the test's clock."""

    def __init__(self, clock: FakeClock, most_per_s: int) -> None:
        self._clock, self._most = clock, most_per_s
        self._second, self._window = 0, Counter[str]()
        self.refused = 0
        self.written: Counter[tuple[str, str]] = Counter()  # by partition and sort key

    def __call__(self, request: Any, event_name: str, **_: Any) -> Any:
        keys = list(_keys(event_name.rpartition(".")[2], json.loads(request.body)))
        if self._second != int(self._clock.now_s()):
            self._second, self._window = int(self._clock.now_s()), Counter()
        if any(self._window[partition] >= self._most for partition, _ in keys):
            self.refused += 1
            return throttled(request.url)
        self._window.update(partition for partition, _ in keys)
        self.written.update(keys)
        return None

    def refusals(self) -> int:
        """How many writes were refused since the last call of this method."""
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
def test_a_hot_partition_slows_a_run_down_and_loses_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN partitions that accept 12 writes per second instead of 1,000, and 20 shards a bucket instead of 10,000."""
    monkeypatch.setattr("sparklet.model.shards.SHARDS_PER_BUCKET", 20)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    world, done = World(clock=FakeClock(time.time())), Counter[int]()

    def result_of(number: int) -> ShardResult:
        done[number] += 1
        return ShardResult(rows=1)

    with ministack(tmp_path) as endpoint:
        # Botocore's own retries would take real time.
        clients = AwsClients(8, endpoint_url=endpoint, region="us-east-1", attempts=1)
        create_table(clients.dynamodb, "ledger")
        hot = HotPartitions(world.clock, most_per_s=12)
        clients.dynamodb.meta.events.register("before-send.dynamodb", hot)
        world.ledger = DynamoLedger(clients, "ledger", world.clock)  # type: ignore[assignment]

        # WHEN the run is planned, done by workers of which every second one is killed, and checked
        world.run(SHARDS)
        refused = {"planner": hot.refusals()}
        while message := world.receive():
            attempt_id, claim = world.claim(message)
            assert claim.status is ClaimStatus.GRANTED
            if (number := claim.record.number) % 2:
                world.ledger.attempts.succeed("run-1", number, attempt_id, result_of(number))
                world.queue.delete(message.receipt)
        refused["workers"] = hot.refusals()
        world.clock.advance(LEASE_S + 1)
        report = world.check()
        refused["checker"] = hot.refusals()
        world.work(result_of)
        report_at_end = world.check()

    # THEN planner, workers and checker were each refused, waited, and succeeded
    assert all(refused.values()), refused
    assert report.expired == SHARDS // 2
    assert report_at_end.run.state is RunState.SUCCEEDED
    assert report_at_end.counts == Counts(succeeded=SHARDS)
    assert done == Counter(range(SHARDS))
    _assert_spread(hot.written, SHARDS)


def _assert_spread(written: Counter[tuple[str, str]], shards: int) -> None:
    """Assert that the writes of the run's second half, which come at the same time, are on all partitions alike."""
    heat: Counter[str] = Counter()
    for (partition, sort_key), count in written.items():
        type_, _, number = sort_key.partition("#")
        if type_ == "shard" and int(number) >= shards // 2:
            heat[partition] += count
    assert len(heat) == ledger_bucket_count(shards)
    assert max(heat.values()) < 2 * heat.total() / len(heat)
