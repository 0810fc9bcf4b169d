"""The command line: ``sparklet --help``."""

from sparklet.cli.app import main

__all__ = ["main"]
