"""Fixtures that several packages' tests share."""

import pytest

from tests.world import World


@pytest.fixture
def world() -> World:
    return World()
