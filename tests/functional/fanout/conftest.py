"""Fixtures of the fan-out's tests."""

import pytest

from tests.unit.fanout.world import World


@pytest.fixture
def world() -> World:
    return World()
