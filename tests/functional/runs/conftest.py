"""Fixtures of the fan-out's tests."""

import pytest

from tests.world import World


@pytest.fixture
def world() -> World:
    return World()
