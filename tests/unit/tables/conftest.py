"""The fixture that tests of tables share with those of commands."""

from tests.unit.cli.conftest import terminal

__all__ = ["terminal"]
