"""A run with ``--max-concurrency`` never has more shards RUNNING at once, whatever happens to it."""

import random
from collections.abc import Callable
from contextlib import suppress

import pytest

from sparklet.model import ClaimStatus, RunState, ShardResult, ShardState
from sparklet.runs.checker import check
from sparklet.runs.redrive import redrive
from tests.world import BROKEN, LEASE_S, PASSING, Fault, KilledError, World, all_but


def running(world: World) -> int:
    return sum(record.state is ShardState.RUNNING for record in world.shards())


def claim_all(world: World) -> dict[int, str]:
    """Claim every visible message, as unlimited workers would. Return the attempt ids by shard."""
    claimed = {}
    while message := world.receive():
        attempt_id, claim = world.claim(message)
        if claim.status is ClaimStatus.GRANTED:
            claimed[claim.record.number] = attempt_id
        world.queue.delete(message.receipt)
    return claimed


def succeed(world: World, claimed: dict[int, str], *numbers: int) -> None:
    for number in numbers:
        world.ledger.attempts.succeed("run-1", number, claimed[number], ShardResult(rows=1))


def test_checks_send_messages_up_to_the_cap(world: World) -> None:
    world.run(7, max_concurrency=3)
    assert len(world.queue) == 0

    world.check()
    claimed = claim_all(world)
    world.check()
    assert (sorted(claimed), len(world.queue)) == ([0, 1, 2], 0)

    succeed(world, claimed, 1, 2)
    assert world.check().requeued == 0
    claimed |= claim_all(world)
    assert sorted(claimed) == [0, 1, 2, 3, 4] and running(world) == 3
    succeed(world, claimed, 0, 3, 4)
    world.check()
    assert world.work_and_check().run.state is RunState.SUCCEEDED


def test_redriven_shards_follow_the_cap(world: World) -> None:
    world.run(5, max_concurrency=2)
    for _ in range(5):
        world.check()
        world.work(all_but(0, 1, 3, 4))
    assert world.check().run.state is RunState.FAILED

    assert redrive(world.deployment, "run-1").shards == 4
    assert len(world.queue) == 0
    world.check()
    claimed = claim_all(world)
    assert sorted(claimed) == [0, 1]

    # WHEN it is redriven again while it is open
    world.ledger.attempts.fail("run-1", 0, claimed[0], BROKEN)
    redrive(world.deployment, "run-1")
    world.check()

    # THEN running shards still count
    assert sorted(claim_all(world)) == [0] and running(world) == 2


def _act(world: World, rng: random.Random, held: list[tuple[int, str]], checks: Callable[[], None]) -> None:
    """Let one random thing happen to a run: a check, claims, the end of an attempt, or a passage of time."""
    what = rng.random()
    if what < 0.3:
        checks()
    elif what < 0.6:
        held += [(number, attempt) for number, attempt in claim_all(world).items()]
    elif what < 0.9 and held:
        number, attempt = held.pop(rng.randrange(len(held)))
        end = rng.random()
        attempts = world.ledger.attempts
        if end < 0.6:
            attempts.succeed("run-1", number, attempt, ShardResult())
        elif end < 0.75:
            attempts.fail("run-1", number, attempt, BROKEN)
        elif end < 0.9:  # its message comes back
            attempts.release("run-1", number, attempt, PASSING)
            world.queue.send([world.ledger.shards.get("run-1", number).ref.to_body()])
        else:  # its worker is lost
            held.clear()
            world.clock.advance(LEASE_S + 6)
    else:
        world.clock.advance(rng.choice((1, 30, 700)) if not held else 1)


@pytest.mark.parametrize("seed", range(40))
def test_the_cap_holds_under_crashes_and_two_checks_at_once(world: World, seed: int) -> None:
    rng, cap = random.Random(seed), 3
    run = world.run(25, max_concurrency=cap, max_attempts=50)
    held: list[tuple[int, str]] = []
    old = ""

    def checks() -> None:
        nonlocal old
        uri = world.deployment.run_uri("run-1", f"capped/{run.identity}/sent-000000.json")
        there = {info.uri for info in world.store.list(uri)}
        if old and rng.random() < 0.3:  # another check that began earlier writes later
            world.store.put(uri, old.encode())
        elif there and rng.random() < 0.3:
            old = world.store.get(uri).decode()
        with suppress(KilledError):
            check(Fault(rng.randrange(1, 60)).deployment(world.deployment), "run-1")

    for _ in range(3000):
        _act(world, rng, held, checks)
        assert running(world) <= cap
        if check_ended(world):
            break
    assert check_ended(world)


def check_ended(world: World) -> bool:
    return not world.ledger.shards.count("run-1").open
