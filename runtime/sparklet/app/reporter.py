"""Where an action reports what it does: the command line's screen, or the lines of a Python program."""

from typing import Protocol


class Reporter(Protocol):
    """Gets lines of progress, and warnings."""

    def say(self, text: str) -> None:
        """A line of progress."""

    def warn(self, text: str) -> None:
        """A warning; the action continues."""
