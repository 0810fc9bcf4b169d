"""Fixtures for the tests of runs."""

import pytest

from tests.world import World


@pytest.fixture
def world() -> World:
    return World()
