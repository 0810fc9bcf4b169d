"""Calls that the ledger records are performed once and answered once, whatever fails in between."""

import json
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparklet.errors import LeaseLostError, LedgerError, PayloadError, SettingsError
from sparklet.events import Outcome, Source, Task, TaskRequest
from sparklet.functions.backend import FolderContents
from sparklet.functions.calls import Answer, Call, Content, encode
from sparklet.functions.handler import CallClaims, FunctionWorker
from sparklet.functions.recorded_calls import Poller, claimed_id, fail
from sparklet.ledger.store import Change, Written
from sparklet.log import Log
from sparklet.model import ShardState, TaskRecord
from sparklet.spark.runner import Deadline
from sparklet.worker.attempt import Attempt, make_attempt
from tests.stand_ins.memory import FakeClock, MemoryLedger
from tests.waiting import deadline_s, eventually

KEY = b"k" * 32
NOW_S = 1_700_000_000.0
TIMED_OUT = {"errorType": "Sandbox.Timedout", "errorMessage": "Task timed out after 3.00 seconds"}
DENIED = LedgerError("denied")
DENIED.retryable = False
performed: list[Any] = []


def perform(value: Any) -> Any:
    performed.append(value)
    return value


class Ledger(MemoryLedger):
    """A ledger that fails until a given time, and then loses some responses to writes."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.down_until_s, self.lose = 0.0, 0
        self._write = self.store.write
        self.store.write = self._written  # type: ignore[method-assign]

    def _written(self, *changes: Change) -> Written:
        if self.clock.now_s() < self.down_until_s:
            raise LedgerError("nobody is there")
        written = self._write(*changes)
        if self.lose:
            self.lose -= 1
            raise LedgerError("the answer was lost")
        return written


class World:
    """A worker's claims over a ledger in memory."""

    def __init__(self, folder: Path) -> None:
        performed.clear()
        self.clock = FakeClock(NOW_S)
        self.ledger = Ledger(self.clock)
        self.contents = FolderContents(folder)
        worker = FunctionWorker(KEY, "pickle", self.contents)
        queues: dict[str, Any] = {}
        self.claims = CallClaims(self.ledger, None, queues.__getitem__, worker, max_attempts=1)

    def deliver(self, envelope: Any) -> Outcome:
        task = Task(Source.DIRECT, envelope, request=TaskRequest(claimed_id(envelope), ""))
        attempt_id = f"request.{time.monotonic_ns()}"
        return make_attempt(
            self.claims, Attempt(attempt_id, task, Deadline.within(60, now_s=self.clock.now_s()), Log())
        )

    def record(self) -> TaskRecord:
        (found,) = self.ledger.tasks.get_many(["task.1"])
        return found

    def value(self) -> Any:
        (envelope,) = self.record().answer
        envelope = json.loads(self.contents.get(envelope["stored"])) if "stored" in envelope else envelope
        content = Answer.opened(envelope, KEY).content
        assert content is not None
        return json.loads(content.read(self.contents))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def call(*args: Any, key: bytes = KEY) -> dict[str, str]:
    content = Content.of("json", encode("json", [list(args), {}]), 10**6, FolderContents(Path()))
    return Call("task", f"{__name__}:perform", content, 600.0, time.time() + 600, 10**6).sealed(key)


def test_a_call_delivered_twice_is_performed_once(world: World) -> None:
    first, again = world.deliver(call(1)), world.deliver(call(1))

    assert (first.acknowledged, again.acknowledged) == (True, True)
    assert performed == [1]
    assert world.value() == 1


def test_a_call_whose_worker_was_killed_is_not_performed_again(world: World) -> None:
    """The call may have had effects, so its caller decides whether to repeat it."""
    world.ledger.tasks.claim(TaskRecord("task.1"), "lost", NOW_S + 60, 1)
    held = world.deliver(call(1))
    world.clock.advance(3600)

    ended = world.deliver(call(1))

    assert (held.acknowledged, ended.acknowledged) == (False, True)
    assert world.record().state is ShardState.FAILED
    assert performed == []


def test_a_ledger_that_is_down_for_ten_seconds_delays_a_call(world: World) -> None:
    world.ledger.down_until_s = NOW_S + 10

    assert world.deliver(call(2)).acknowledged
    assert world.value() == 2
    assert performed == [2]


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_lost_answers_of_the_ledger_do_not_repeat_a_call(world: World, lost: int) -> None:
    world.ledger.lose = lost

    assert world.deliver(call(3)).acknowledged
    assert world.value() == 3
    assert performed == [3]


def test_an_answer_too_large_for_a_record_is_stored(world: World) -> None:
    world.deliver(call("x" * 100_000))

    assert world.value() == "x" * 100_000


def test_a_call_with_another_key_fails_and_is_not_performed(world: World) -> None:
    assert world.deliver(call(5, key=b"another")).acknowledged

    assert world.record().error_class == PayloadError.__name__
    assert performed == []


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"task_id": "a/b", "attempt": 1}', '{"task_id": "a"}'])
def test_an_envelope_without_an_id_is_refused(text: str) -> None:
    with pytest.raises(PayloadError):
        claimed_id({"sparklet_call": text})


# --- calls that Lambda gave up ---


def test_lambdas_report_ends_a_call_that_its_worker_held(world: World) -> None:
    world.ledger.tasks.claim(TaskRecord("task.1"), "request.x", NOW_S + 900, 1)
    context = {"requestId": "request", "condition": "RetriesExhausted"}
    report = {"requestContext": context, "requestPayload": call(1), "responsePayload": TIMED_OUT}

    fail(world.ledger, report)

    record = world.record()
    assert [record.error_class, record.error_message] == list(TIMED_OUT.values())


def test_a_report_about_another_delivery_must_come_back(world: World) -> None:
    world.ledger.tasks.claim(TaskRecord("task.1"), "request.x", NOW_S + 900, 1)
    report = {"requestContext": {"requestId": "other"}, "requestPayload": call(1), "responsePayload": TIMED_OUT}

    with pytest.raises(LeaseLostError):
        fail(world.ledger, report)


def test_a_call_that_lambda_never_began_fails(world: World) -> None:
    context = {"requestId": "request", "condition": "EventAgeExceeded"}

    fail(world.ledger, {"requestContext": context, "requestPayload": call(1)})

    assert world.record().error_class == "EventAgeExceeded"


def test_a_report_ends_its_call_once(world: World) -> None:
    report = {"requestContext": {"requestId": "request"}, "requestPayload": call(1)}
    fail(world.ledger, report)
    ended = world.record()
    fail(world.ledger, report)

    assert ended.state is ShardState.FAILED
    assert world.record() == ended


# --- waiting for records ---


class Table:
    """The records that a poller reads; the table may be down at first."""

    def __init__(self, down: bool = False) -> None:
        self.records: dict[str, TaskRecord] = {}
        self.down, self.read = down, threading.Event()

    def __call__(self, names: Sequence[str]) -> Iterable[TaskRecord]:
        self.read.set()
        if self.down:
            raise LedgerError("nobody is there")
        return [self.records[name] for name in names if name in self.records]


RUNNING = TaskRecord("a", state=ShardState.RUNNING, attempts=1)
DONE = replace(RUNNING, state=ShardState.SUCCEEDED, answer=(1,))


def test_a_record_that_has_ended_is_handed_over_once() -> None:
    table, ended = Table(), list[Any]()
    waiting = Poller(table)
    waiting.watch("a", ended.append)
    assert table.read.wait(deadline_s())
    assert ended == []

    table.records["a"] = DONE

    eventually(lambda: ended)
    eventually(lambda: not waiting.watched)
    assert ended == [table.records["a"]]


def test_one_thread_polls_until_the_poller_is_closed() -> None:
    table, threads = Table(), list[threading.Thread]()
    waiting = Poller(table)
    for name in ("a", "b"):
        table.records[name] = replace(DONE, task_id=name)
        waiting.watch(name, lambda _: threads.append(threading.current_thread()))
        eventually(lambda: not waiting.watched)
    eventually(lambda: len(threads) == 2)

    assert threads[0] is threads[1]

    waiting.close()
    threads[0].join(deadline_s())
    assert not threads[0].is_alive()


@pytest.mark.parametrize("refusal", [DENIED, SettingsError("no credentials"), RuntimeError("?")])
def test_waiting_ends_if_the_ledger_cannot_be_read(refusal: Exception) -> None:
    ended = list[Any]()

    def refused(names: Sequence[str]) -> Iterable[TaskRecord]:
        raise refusal

    Poller(refused).watch("a", ended.append)

    assert eventually(lambda: ended) == [refusal]


def test_waiting_goes_on_while_the_ledger_is_down() -> None:
    table, ended = Table(down=True), list[Any]()
    Poller(table).watch("a", ended.append)
    assert table.read.wait(deadline_s())
    table.down = False
    table.records["a"] = done = replace(RUNNING, state=ShardState.FAILED)

    assert eventually(lambda: ended) == [done]
