"""The terminal fixture of the command line's tests."""

from tests.unit.cli.conftest import terminal

__all__ = ["terminal"]
