"""The command line ``sparklet``."""

from sparklet.cli.app import main

__all__ = ["main"]
