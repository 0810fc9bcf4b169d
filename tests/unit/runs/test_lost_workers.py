"""A killed worker is noticed by the next check after its lease, whatever the queue's visibility timeout is."""

import pytest

from sparklet.ledger.rules import LEASE_S
from sparklet.model import ClaimStatus
from tests.world import World

CHECKED_EVERY_S = 60  # on AWS: the template's schedule
TARGET_S = 90
START_S = 10  # of the next invocation, cold


@pytest.mark.parametrize("killed_after_s", [0.0, 1.5, 7.9, 8.1, 100.0])
@pytest.mark.parametrize("phase_s", [0, 1, 15, 17, 30, 59])
def test_the_next_attempt_begins_within_90_s(killed_after_s: float, phase_s: int) -> None:
    world = World()
    world.run(1)
    message = world.receive()
    assert message is not None  # and stays invisible for long: nobody is there to give it back
    attempt, claim = "killed", world.ledger.attempts.claim(world.shards()[0].ref, "killed", LEASE_S, 3)
    for _ in range(int(killed_after_s // (LEASE_S / 2))):
        world.clock.advance(LEASE_S / 2)
        world.ledger.attempts.renew("run-1", 0, attempt, LEASE_S)
    world.clock.advance(killed_after_s % (LEASE_S / 2))
    killed_s = world.clock.now_s()

    world.clock.advance(phase_s)
    while (again := world.receive()) is None:
        world.check()
        if not len(world.bodies()) > 1:
            world.clock.advance(CHECKED_EVERY_S)

    assert world.clock.now_s() - killed_s + START_S <= TARGET_S
    assert world.claim(again)[1].status is ClaimStatus.GRANTED
    assert claim.record.attempts + 1 == world.shards()[0].attempts
