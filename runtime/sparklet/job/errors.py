"""The errors that a script can raise or catch, and the base of every Sparklet error; ``sparklet.errors`` has the tree.

This module ships with ``sparklet.job`` to clusters where nothing else of Sparklet is installed.
"""

from __future__ import annotations


class SparkletError(Exception):
    """Base of all errors that Sparklet raises on purpose.

    ``retryable``: another attempt may succeed, so the ledger releases the shard instead of failing it. ``files``: the
    addresses of the inputs at fault, as far as they are known. ``direct``: the script might already have committed rows
    to a table itself, before the end of its shard.
    """

    retryable = False
    files: tuple[str, ...] = ()
    direct = False

    def __init_subclass__(cls, *, retryable: bool | None = None) -> None:
        if retryable is not None:
            cls.retryable = retryable

    def __str__(self) -> str:
        # Logs and answers are UTF-8, in which a lone surrogate is an error.
        return super().__str__().encode(errors="backslashreplace").decode()


class EventError(SparkletError):
    """An event, a message or a ``--event`` argument is malformed."""


class DriftError(SparkletError):
    """A file of the input does not have the columns of the schema."""


class ExpectationError(SparkletError):
    """A run does not meet an expectation of its check script."""


def expect(condition: bool, what: str) -> None:
    """Fail the script, and with it the run that it checks, unless ``condition`` holds.

    Parameters
    ----------
    what
        The expected and the actual result, for the run's manifest and notice.

    Raises
    ------
    ExpectationError
        If ``condition`` does not hold; the check is not tried again.
    """
    if not condition:
        raise ExpectationError(what)


class TableError(SparkletError):
    """A table cannot take the rows of a write; the message says why."""


class DatabaseError(SparkletError, retryable=True):
    """A database could not be reached, or was busy, for too long; nothing was written."""

    unreachable = False  # whether no call from here can reach it, as without a route, a region or credentials


class CommitConflictError(SparkletError, retryable=True):
    """At each try another writer changed the table first; nothing was committed."""


class CommitStateUnknownError(SparkletError):
    """It is unknown whether a commit was made: the table no longer keeps ids of that time."""
