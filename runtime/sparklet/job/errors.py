"""What a script can raise or catch, and the base of every Sparklet error.

This module ships with ``sparklet.job`` to clusters where nothing else of Sparklet
is installed, so it imports nothing. The whole tree is drawn in ``sparklet.errors``.
"""

from __future__ import annotations


class SparkletError(Exception):
    """Base of all errors that Sparklet raises on purpose.

    ``retryable`` says whether the same task may succeed when it is tried again;
    the ledger releases the shard then instead of failing it.
    """

    retryable = False

    def __init_subclass__(cls, *, retryable: bool | None = None) -> None:
        if retryable is not None:
            cls.retryable = retryable

    def __str__(self) -> str:
        return super().__str__().encode(errors="backslashreplace").decode()  # no log or answer takes a lone surrogate


class EventError(SparkletError):
    """An event, a message or a ``--event`` argument has not the shape it must have."""


class ExpectationError(SparkletError):
    """What a check script expects of a run is not so."""
