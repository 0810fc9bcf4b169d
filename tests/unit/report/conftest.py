"""A terminal over the ports in memory, as the tests of commands have it."""

from tests.unit.cli.conftest import terminal

__all__ = ["terminal"]
