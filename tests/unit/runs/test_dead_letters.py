"""Each dead letter is sent again, dropped or stored; none takes a shard or task from the attempt that holds it."""

import json
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from sparklet.errors import LeaseLostError, LedgerError, QueueError
from sparklet.events import TaskRequest
from sparklet.events.sqs import OWN_ID
from sparklet.ledger import transitions
from sparklet.model import Failure, RunState, ShardRecord, ShardRef, ShardResult, ShardState, TaskRecord
from sparklet.ports import Message
from sparklet.ports.deployment import Deployment
from sparklet.runs import handlers
from sparklet.runs.dead_letters import Disposition, consume, consume_task
from tests.stand_ins.memory import MemoryNotifier
from tests.world import BROKEN, BUCKET, LEASE_S, PASSING, World


def letter(ref: ShardRef | str) -> Message:
    return Message("id-1", ref if isinstance(ref, str) else ref.to_body())


def run_with_a_claimed_shard(world: World) -> tuple[str, ShardRecord]:
    world.run(1)
    return world.take()


def stored_letters(world: World) -> list[str]:
    return world.keys(f"s3://{BUCKET}/dead-letters/")


def test_dead_letters_of_ended_and_redriven_shards_are_dropped(world: World) -> None:
    owner, record = run_with_a_claimed_shard(world)
    world.ledger.attempts.fail("run-1", 0, owner, BROKEN)
    assert consume(world.deployment, letter(record.ref)) is Disposition.DROPPED
    assert world.shards()[0].state is ShardState.FAILED

    world.ledger.attempts.redrive("run-1", 0, 1)
    assert consume(world.deployment, letter(record.ref)) is Disposition.DROPPED
    assert world.shards()[0].state is ShardState.PENDING


@pytest.mark.parametrize(
    ("attempted", "error_class", "cause"),
    [
        (False, "NeverStarted", "never started: 3 messages sent again all came back as dead-letter messages"),
        (True, "OSError", "503 Slow Down"),
    ],
)
def test_a_shard_with_an_attempt_left_gets_three_messages(
    world: World, attempted: bool, error_class: str, cause: str
) -> None:
    """After three messages the shard fails, with the cause of its last attempt if there was one."""
    world.run(1, max_attempts=2)
    if attempted:
        world.ledger.attempts.release("run-1", 0, world.take()[0], PASSING)
    ref = world.shards()[0].ref
    world.queue.entries.clear()

    fates = [consume(world.deployment, letter(ref)) for _ in range(4)]

    assert fates == [Disposition.SENT_AGAIN] * 3 + [Disposition.FAILED]
    assert world.bodies() == [ref] * 3
    (record,) = world.shards()
    assert (record.state, record.error_class, record.error_message) == (ShardState.FAILED, error_class, cause)


def test_the_checker_resends_a_shard_with_an_expired_lease(world: World) -> None:
    _, record = run_with_a_claimed_shard(world)
    world.queue.entries.clear()
    world.clock.advance(LEASE_S + 1)

    assert consume(world.deployment, letter(record.ref)) is Disposition.DROPPED

    assert world.check().expired == 1
    assert world.bodies() == [record.ref]


def test_the_checkers_resends_do_not_use_up_redeliveries(world: World) -> None:
    world.run(1)
    for _ in range(5):
        assert world.ledger.attempts.count_requeue(world.shards()[0])

    assert consume(world.deployment, letter(world.shards()[0].ref)) is Disposition.SENT_AGAIN
    (record,) = world.shards()
    assert (record.requeues, record.unrun) == (6, 1)


@pytest.mark.parametrize(
    ("sent_before_s", "fate"),
    [(600.0, Disposition.DROPPED), (0.5, Disposition.SENT_AGAIN), (-5.0, Disposition.SENT_AGAIN)],
)
def test_only_the_newest_dead_letter_of_a_shard_counts(world: World, sent_before_s: float, fate: Disposition) -> None:
    """GIVEN a letter that was sent again, THEN a second delivery of the same letter is dropped and not counted."""
    world.run(1)
    ref = world.shards()[0].ref
    world.clock.advance(1000)
    assert consume(world.deployment, replace(letter(ref), sent_s=world.clock.now_s() - 900)) is Disposition.SENT_AGAIN
    requeued_s = world.clock.now_s()
    world.clock.advance(30)

    assert consume(world.deployment, replace(letter(ref), sent_s=requeued_s - sent_before_s)) is fate
    assert world.shards()[0].unrun == (1 if fate is Disposition.DROPPED else 2)


def test_the_message_that_an_attempt_gave_back_is_sent_again(world: World) -> None:
    """The attempt gave the message back, so it is the shard's only message, although it was sent long ago."""
    owner, record = run_with_a_claimed_shard(world)
    world.clock.advance(50)
    world.ledger.attempts.release("run-1", 0, owner, PASSING)
    assert world.ledger.attempts.count_requeue(world.shards()[0])

    sent_s = world.clock.now_s() - 40
    assert consume(world.deployment, replace(letter(record.ref), sent_s=sent_s)) is Disposition.SENT_AGAIN


def test_a_cancelled_runs_shard_is_not_sent_again(world: World) -> None:
    world.run(1)
    (record,) = world.shards()
    world.queue.entries.clear()
    world.ledger.runs.cancel("run-1")

    assert consume(world.deployment, letter(record.ref)) is Disposition.DROPPED

    assert (world.bodies(), world.shards()[0].state) == ([], ShardState.PENDING)
    assert world.check().run.state is RunState.CANCELLED


@pytest.mark.parametrize(
    "body",
    [
        "not json",
        "[]",
        "{}",
        '{"run_id": "run-1", "shard": 0}',
        '{"Records": []}',
        "[" * 100_000,
        ShardRef("run-9", 0, 0, "part", 0, 1).to_body(),
        ShardRef("run-1", 77, 0, "part", 0, 1).to_body(),
    ],
)
def test_a_dead_letter_of_no_known_shard_is_stored_once(world: World, body: str) -> None:
    world.run(1)

    assert consume(world.deployment, letter(body)) is Disposition.KEPT
    assert consume(world.deployment, letter(body)) is Disposition.KEPT

    (uri,) = stored_letters(world)
    assert uri == f"s3://{BUCKET}/dead-letters/2023-11-14/id-1.json"
    document = json.loads(world.store.get(uri))
    assert (document["message_id"], document["body"]) == ("id-1", body)
    assert document["reason"]


def test_a_message_id_cannot_leave_the_folder(world: World) -> None:
    consume(world.deployment, replace(letter("x"), message_id="../../runs/run-1/manifest"))
    assert stored_letters(world) == [f"s3://{BUCKET}/dead-letters/2023-11-14/______runs_run-1_manifest.json"]


def test_a_shard_that_changes_meanwhile_is_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(1)
    (stale,) = world.shards()
    world.work()
    (ended,) = world.shards()
    # count_requeue returns None since the shard has changed; the second read gives the state in the ledger.
    monkeypatch.setattr(world.ledger.attempts, "count_requeue", lambda record, unrun: None)
    monkeypatch.setattr(world.ledger.shards, "get", Mock(side_effect=[stale, ended]))
    assert consume(world.deployment, letter(stale.ref)) is Disposition.DROPPED


def test_a_letter_of_a_shard_that_keeps_changing_is_not_consumed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(1)
    monkeypatch.setattr(world.ledger.attempts, "count_requeue", lambda record, unrun: None)
    with pytest.raises(LedgerError, match="changed 5 times"):
        consume(world.deployment, letter(world.shards()[0].ref))


def test_a_letter_is_not_consumed_while_the_queue_is_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(1)
    monkeypatch.setattr(world.queue, "send", Mock(side_effect=QueueError("the queue is down")))
    with pytest.raises(QueueError):
        consume(world.deployment, letter(world.shards()[0].ref))


# --- tasks of the asynchronous API ---

REQUEST = TaskRequest("t", "arn:aws:sqs:eu-west-1:123456789012:dead", accepted_s=5.0)


def running(deployment: Deployment) -> TaskRecord:
    return deployment.ledger.tasks.claim(TaskRecord("t"), "a1", deployment.clock.now_s() + 60.0, 3).record


def ended(deployment: Deployment) -> dict[str, Any]:
    (record,) = deployment.ledger.tasks.get_many(["t"])
    assert record.state is ShardState.FAILED
    return record.to_document()


def test_a_task_that_no_worker_began_ends_as_never_started(deployment: Deployment, notifier: MemoryNotifier) -> None:
    assert consume_task(deployment, REQUEST) is Disposition.FAILED

    document = ended(deployment)
    assert (document["error"]["class"], document["attempts"], document["accepted_s"]) == ("NeverStarted", 0, 5.0)
    assert [notice.document for notice in notifier.notices] == [document]


def test_a_released_task_ends_with_the_cause_of_its_last_attempt(deployment: Deployment) -> None:
    deployment.ledger.tasks.apply(running(deployment), transitions.release, Failure("ValueError", "bad value"))

    assert consume_task(deployment, REQUEST) is Disposition.FAILED
    assert ended(deployment)["error"] == {"class": "ValueError", "message": "bad value"}


def test_a_letter_of_a_held_task_is_consumed_after_the_lease(deployment: Deployment) -> None:
    running(deployment)

    with pytest.raises(LeaseLostError):
        consume_task(deployment, REQUEST)

    deployment.clock.sleep(121)
    assert consume_task(deployment, REQUEST) is Disposition.FAILED
    assert ended(deployment)["error"]["class"] == "LeaseExpired"


def test_a_letter_of_an_ended_task_is_dropped_without_a_notice(
    deployment: Deployment, notifier: MemoryNotifier
) -> None:
    deployment.ledger.tasks.apply(running(deployment), transitions.succeed, ShardResult())

    assert consume_task(deployment, REQUEST) is Disposition.DROPPED
    assert consume_task(deployment, REQUEST) is Disposition.DROPPED
    assert notifier.notices == []


def task_letter(task_id: Any, message_id: str = "m-1") -> dict[str, Any]:
    attributes = {"sparklet-task": {"stringValue": task_id, "dataType": "String"}}
    return {"messageId": message_id, "body": "{}", "receiptHandle": "r", "messageAttributes": attributes}


def test_dead_tasks_end_and_letters_without_an_id_are_stored(deployment: Deployment) -> None:
    # OWN_ID: the id of the task is the message's own.
    event = {"Records": [task_letter("t"), task_letter(OWN_ID, "m-2"), task_letter("no id at all", "m-3")]}

    assert handlers.handle_dead_letters(deployment, event) == {"batchItemFailures": []}

    assert ended(deployment)["error"]["class"] == "NeverStarted"
    assert list(deployment.ledger.tasks.get_many(["m-2"]))
    (stored,) = deployment.store.list(f"s3://{BUCKET}/dead-letters/")
    assert stored.uri.endswith("/m-3.json")


def test_a_letter_of_a_held_task_is_reported_as_failed(deployment: Deployment) -> None:
    running(deployment)

    answer = handlers.handle_dead_letters(deployment, {"Records": [task_letter("t"), task_letter("u", "m-2")]})

    assert answer == {"batchItemFailures": [{"itemIdentifier": "m-1"}]}


def test_a_letter_is_consumed_although_its_notice_was_not_sent(
    deployment: Deployment, notifier: MemoryNotifier, capsys: pytest.CaptureFixture[str]
) -> None:
    notifier.down = True

    assert handlers.handle_dead_letters(deployment, {"Records": [task_letter("t")]}) == {"batchItemFailures": []}

    ended(deployment)
    assert "a notice was not sent" in capsys.readouterr().out
