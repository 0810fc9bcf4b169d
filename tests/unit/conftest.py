"""What several packages' tests share: fixtures, and Hypothesis without its limits of time (200 ms an example)."""

import pytest
from hypothesis import HealthCheck, settings

from tests.world import World

settings.register_profile("no bets on speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no bets on speed")


@pytest.fixture
def world() -> World:
    return World()
