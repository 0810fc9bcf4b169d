"""Batches against single invocations: the plan is one that workers read, and a shard not done at once is no result."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import batches
from benchmarks.batches import Shards, invoke
from benchmarks.function import Environment
from sparklet.local.memory import FakeClock, MemoryLedger, MemoryObjectStore
from sparklet.model import Failure, Shard, ShardRecord, ShardResult, ShardState

INPUTS = [f"s3://batches/in/{number}.csv" for number in range(3)]
SCRIPT = b"# sparklet: batch=together\n"


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> MemoryLedger:
    ledger = MemoryLedger(FakeClock())
    monkeypatch.setattr(batches, "DynamoLedger", lambda clients, table: ledger)
    return ledger


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryObjectStore:
    store = MemoryObjectStore()
    monkeypatch.setattr(batches, "S3Store", lambda clients: store)
    return store


@pytest.fixture
def shards(ledger: MemoryLedger, store: MemoryObjectStore) -> Shards:
    clients: Any = None
    return Shards(clients, INPUTS)


def attempt(ledger: MemoryLedger, record: ShardRecord, number: int) -> str:
    name = f"attempt-{number}"
    ledger.claim(record.ref, name, lease_s=60, max_attempts=9)
    return name


def finish(ledger: MemoryLedger, record: ShardRecord, number: int = 0) -> None:
    ledger.succeed(record.run_id, record.number, attempt(ledger, record, number), ShardResult())


def test_the_plan_leads_each_record_to_its_input(shards: Shards, store: MemoryObjectStore) -> None:
    records = shards.plan(SCRIPT)

    for record, uri in zip(records, INPUTS, strict=True):
        part = f"s3://{batches.BUCKET}/runs/{record.run_id}/plan/{record.part}"
        line = store.get(part, record.offset, record.length)
        assert [each.uri for each in Shard.from_line(line).objects] == [uri]


def test_a_script_is_pinned_by_its_digest(shards: Shards, ledger: MemoryLedger, store: MemoryObjectStore) -> None:
    [first, *_] = shards.plan(SCRIPT)
    [script] = ledger.get_run(first.run_id).scripts

    assert store.get(script.uri) == SCRIPT
    assert script.sha256 in script.uri


def test_shards_done_at_once_pass(shards: Shards, ledger: MemoryLedger) -> None:
    records = shards.plan(SCRIPT)
    for record in records:
        finish(ledger, record)

    shards.verify(records)


def test_a_shard_that_is_not_done_is_refused(shards: Shards, ledger: MemoryLedger) -> None:
    records = shards.plan(SCRIPT)
    for record in records[1:]:
        finish(ledger, record)

    with pytest.raises(SystemExit, match=f"shard 0 is {ShardState.PENDING}"):
        shards.verify(records)


def test_a_shard_that_needed_a_second_attempt_is_refused(shards: Shards, ledger: MemoryLedger) -> None:
    records = shards.plan(SCRIPT)
    first, *others = records
    failure = Failure("ValueError", "too much")
    ledger.release(first.run_id, first.number, attempt(ledger, first, 0), failure)
    finish(ledger, first, number=1)
    for record in others:
        finish(ledger, record)

    with pytest.raises(SystemExit, match="after 2 attempts"):
        shards.verify(records)


# --- an invocation ---


class Worker(http.server.BaseHTTPRequestHandler):
    answer = b""
    asked: list[bytes]

    def do_POST(self) -> None:
        self.asked.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[Environment]:
    Worker.asked = []
    (tmp_path / "log").write_text("the worker's last words")
    with http.server.HTTPServer(("127.0.0.1", 0), Worker) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        function: Any = None
        yield Environment(function, 0, f"http://127.0.0.1:{server.server_port}", tmp_path / "log")
        server.shutdown()


def test_an_invocation_has_a_message_for_each_shard(shards: Shards, environment: Environment) -> None:
    records = shards.plan(SCRIPT)
    Worker.answer = b'{"batchItemFailures": []}'
    invoke(environment, records)

    [asked] = Worker.asked
    assert [asked.count(f'"messageId": "{record.number}"'.encode()) for record in records] == [1, 1, 1]


def test_a_record_given_back_is_no_result(shards: Shards, environment: Environment) -> None:
    Worker.answer = b'{"batchItemFailures": [{"itemIdentifier": "0"}]}'

    with pytest.raises(SystemExit, match="the worker's last words"):
        invoke(environment, shards.plan(SCRIPT))
