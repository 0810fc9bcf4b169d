"""Dead letters: each ends somewhere known, and none takes a shard away from who has it."""

import json
from dataclasses import replace
from unittest.mock import Mock

import pytest

from sparklet.errors import LedgerError, QueueError
from sparklet.model import Dispatch, RunState, ShardRecord, ShardRef, ShardState
from sparklet.ports import Message
from sparklet.runs.dead_letters import Disposition, consume
from tests.world import BROKEN, BUCKET, LEASE_S, PASSING, World


def letter(ref: ShardRef | str) -> Message:
    return Message("id-1", ref if isinstance(ref, str) else ref.to_body())


def claimed(world: World, **options: int) -> tuple[str, ShardRecord]:
    world.run(1, **options)
    return world.take()


def kept(world: World) -> list[str]:
    return world.keys(f"s3://{BUCKET}/dead-letters/")


def test_dead_letters_of_ended_and_redriven_shards_are_dropped(world: World) -> None:
    owner, record = claimed(world)
    world.ledger.attempts.fail("run-1", 0, owner, BROKEN)
    assert consume(world.at, letter(record.ref)) is Disposition.DROPPED
    assert world.shards()[0].state is ShardState.FAILED

    world.ledger.attempts.redrive("run-1", 0, 1)
    assert consume(world.at, letter(record.ref)) is Disposition.DROPPED
    assert world.shards()[0].state is ShardState.PENDING


def test_an_unclaimed_shard_gets_three_messages_then_fails(world: World) -> None:
    world.run(1)
    ref = world.shards()[0].ref
    world.queue.entries.clear()

    fates = [consume(world.at, letter(ref)) for _ in range(4)]

    assert fates == [Disposition.SENT_AGAIN] * 3 + [Disposition.FAILED]
    assert world.bodies() == [ref] * 3
    (record,) = world.shards()
    assert (record.state, record.error_class) == (ShardState.FAILED, "NeverStarted")
    assert "never started" in record.error_message


def test_a_shard_with_an_attempt_left_gets_it_before_it_fails(world: World) -> None:
    owner, record = claimed(world, max_attempts=2)
    world.ledger.attempts.release("run-1", 0, owner, PASSING)

    fates = [consume(world.at, letter(record.ref)) for _ in range(4)]

    assert fates == [Disposition.SENT_AGAIN] * 3 + [Disposition.FAILED]
    (record,) = world.shards()
    assert (record.state, record.error_class, record.error_message) == (ShardState.FAILED, "OSError", "503 Slow Down")


def test_a_dead_letter_of_an_expired_lease_is_the_checkers(world: World) -> None:
    _, record = claimed(world)
    world.queue.entries.clear()
    world.clock.advance(LEASE_S + 1)

    assert consume(world.at, letter(record.ref)) is Disposition.DROPPED

    assert world.check().expired == 1
    assert world.bodies() == [record.ref]


def test_the_checkers_resends_do_not_use_up_redeliveries(world: World) -> None:
    world.run(1)
    for _ in range(5):
        assert world.ledger.attempts.count_requeue(world.shards()[0])

    assert consume(world.at, letter(world.shards()[0].ref)) is Disposition.SENT_AGAIN
    (record,) = world.shards()
    assert (record.requeues, record.unrun) == (6, 1)


@pytest.mark.parametrize(
    ("sent_before_s", "fate"),
    [(600.0, Disposition.DROPPED), (0.5, Disposition.SENT_AGAIN), (-5.0, Disposition.SENT_AGAIN)],
)
def test_only_the_newest_dead_letter_of_a_shard_counts(world: World, sent_before_s: float, fate: Disposition) -> None:
    """GIVEN a letter that was sent again, THEN the same letter delivered twice uses up nothing."""
    world.run(1)
    ref = world.shards()[0].ref
    world.clock.advance(1000)
    assert consume(world.at, replace(letter(ref), sent_s=world.clock.now_s() - 900)) is Disposition.SENT_AGAIN
    requeued_s = world.clock.now_s()
    world.clock.advance(30)

    assert consume(world.at, replace(letter(ref), sent_s=requeued_s - sent_before_s)) is fate
    assert world.shards()[0].unrun == (1 if fate is Disposition.DROPPED else 2)


def test_an_old_dead_letter_of_an_attempted_shard_is_kept(world: World) -> None:
    """Its message was given back after the attempt, and is all that the shard has."""
    owner, record = claimed(world)
    world.clock.advance(50)
    world.ledger.attempts.release("run-1", 0, owner, PASSING)
    assert world.ledger.attempts.count_requeue(world.shards()[0])

    sent_s = world.clock.now_s() - 40
    assert consume(world.at, replace(letter(record.ref), sent_s=sent_s)) is Disposition.SENT_AGAIN


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["a cancelled run", "a map's run"])
def test_what_nobody_sends_messages_for_is_not_resent(world: World, is_cancelled: bool) -> None:
    run = world.run(1)
    (record,) = world.shards()
    world.queue.entries.clear()
    if is_cancelled:
        world.ledger.runs.cancel("run-1")
    else:
        world.ledger.put(replace(run, dispatch=Dispatch.MAP))

    assert consume(world.at, letter(record.ref)) is Disposition.DROPPED

    assert (world.bodies(), world.shards()[0].state) == ([], ShardState.PENDING)
    assert world.check().run.state is (RunState.CANCELLED if is_cancelled else RunState.RUNNING)


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
def test_an_unknown_dead_letter_is_kept(world: World, body: str) -> None:
    world.run(1)

    assert consume(world.at, letter(body)) is Disposition.KEPT
    assert consume(world.at, letter(body)) is Disposition.KEPT

    (uri,) = kept(world)
    assert uri == f"s3://{BUCKET}/dead-letters/2023-11-14/id-1.json"
    document = json.loads(world.store.get(uri))
    assert (document["message_id"], document["body"]) == ("id-1", body)
    assert document["reason"]


def test_a_message_id_cannot_leave_the_folder(world: World) -> None:
    consume(world.at, replace(letter("x"), message_id="../../runs/run-1/manifest"))
    assert kept(world) == [f"s3://{BUCKET}/dead-letters/2023-11-14/______runs_run-1_manifest.json"]


def test_a_shard_that_moves_on_meanwhile_is_read_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(1)
    (stale,) = world.shards()
    world.work()
    (ended,) = world.shards()
    # count_requeue finds another shard than was read; the second reading is the ledger's
    monkeypatch.setattr(world.ledger.attempts, "count_requeue", lambda record, unrun: None)
    monkeypatch.setattr(world.ledger.shards, "get", Mock(side_effect=[stale, ended]))
    assert consume(world.at, letter(stale.ref)) is Disposition.DROPPED


def test_a_dead_letter_of_an_ever_changing_shard_returns(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(1)
    monkeypatch.setattr(world.ledger.attempts, "count_requeue", lambda record, unrun: None)
    with pytest.raises(LedgerError, match="changed 5 times"):
        consume(world.at, letter(world.shards()[0].ref))


def test_a_dead_letter_returns_while_the_queue_is_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(1)
    monkeypatch.setattr(world.queue, "send", Mock(side_effect=QueueError("the queue is down")))
    with pytest.raises(QueueError):
        consume(world.at, letter(world.shards()[0].ref))
