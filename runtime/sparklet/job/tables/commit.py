"""The commit that runs of earlier versions started: their stored script imports it from here."""

from sparklet.tables.commit import main

__all__ = ["main"]
