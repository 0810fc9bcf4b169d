"""Fixtures that tests of several packages share, and Hypothesis without its time limit of 200 ms an example."""

import pytest
from hypothesis import HealthCheck, settings

from tests.world import World

settings.register_profile("no bets on speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no bets on speed")


@pytest.fixture
def world() -> World:
    return World()
