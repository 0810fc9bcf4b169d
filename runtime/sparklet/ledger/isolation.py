"""Which objects make a shard fail? Those that its failure names; else trials show it (docs/decisions/0055).

A trial is an attempt with some of the objects, which leaves nothing behind. Objects that fail together are halved until
one fails alone. That one is bad, and the next attempt does all that are not. Only when such an attempt has succeeded is
the shard split (``runs.isolation``); until then it is one shard, and if this ends without success it is FAILED as one.
"""

from collections.abc import Sequence

from sparklet.ledger.rules import bounded_failure, cut, outgrown
from sparklet.model import Failure, Isolation, ShardRecord

MAX_BAD = 90  # a transaction of DynamoDB has up to 100 writes
BAD_MESSAGE_BYTES = 160
NEVER_BY_INPUT = frozenset(
    {
        *("ImportError", "IndentationError", "ModuleNotFoundError", "NameError", "SyntaxError", "TabError"),
        *("AccessDeniedException", "UnknownStoreException"),
        *("CommitConflictError", "CommitStateUnknownError", "DatabaseError", "EventError", "TableError"),
    }
)
"""Root causes for which no input is to blame, unless the cause names one."""


def isolates(record: ShardRecord, failure: Failure) -> bool:
    """Whether bad objects of a shard are looked for after a failure, instead of it being FAILED."""
    by_input = failure.by_input and (failure.files or failure.error_class not in NEVER_BY_INPUT)
    wanted = record.isolate > 1 if outgrown(failure) else record.isolate > 0 and by_input
    return bool(wanted) and record.object_count > 1 and not record.winner


def is_conclusive(record: ShardRecord, failure: Failure) -> bool:
    """Whether a failure needs no repetition: while bad objects are looked for, one of the class before it."""
    again = bool(record.bad or record.trial) and bounded_failure(failure).error_class == record.error_class
    return isolates(record, failure) and (again or outgrown(failure))


def handled(record: ShardRecord) -> list[int]:
    """The places of the objects that the next attempt does: a trial's, or all that are not bad."""
    good = _good(record)
    return good[slice(*record.trial)] if record.trial else good


def after_failure(
    record: ShardRecord, failure: Failure, named: Sequence[int] = (), *, has_schema: bool = True
) -> Isolation | Failure:
    """What follows an attempt that has failed, perhaps because of ``named`` places; a Failure: the shard's end.

    Without a schema Spark takes one from some file and names another that does not fit, so a named one is bad only if
    it fails alone, too.
    """
    good = _good(record)
    if named and (has_schema or (record.trial and good[slice(*record.trial)] == list(named))):
        return _with_bad(record, named, failure)
    if named:
        alone = good.index(named[0]), good.index(named[0]) + 1
        return Isolation(record.bad, alone, alone)
    if record.trial and not record.suspects:
        return _end(f"its first input fails alone, and so does another; {_cause(failure)}")
    first, end = record.trial or (0, len(good))
    if end - first > 1:
        return _halved(record.bad, first, end)
    found = _with_bad(record, good[first:end], failure)
    if first > 0 or isinstance(found, Failure):
        return found
    return Isolation(found.bad, (), (len(good) - 2, len(good) - 1))  # nothing has succeeded: is it the script?


def after_success(record: ShardRecord) -> Isolation | Failure:
    """What follows a trial that has succeeded; a Failure: the shard's end."""
    if not record.suspects:
        return Isolation(record.bad)
    if record.trial == record.suspects:
        cause = _cause(Failure(record.error_class, record.error_message))
        return _end(f"inputs that fail together succeed apart; {cause}")
    return _halved(record.bad, record.trial[1], record.suspects[1])


def _good(record: ShardRecord) -> list[int]:
    bad = {place for place, *_ in record.bad}
    return [place for place in range(record.object_count) if place not in bad]


def _halved(bad: tuple[tuple[int, str, str], ...], first: int, end: int) -> Isolation:
    return Isolation(bad, (first, end), (first, first + max(1, (end - first) // 2)))


def _with_bad(record: ShardRecord, places: Sequence[int], failure: Failure) -> Isolation | Failure:
    error_class, message = bounded_failure(failure).error_class, cut(failure.message, BAD_MESSAGE_BYTES)
    bad = (*record.bad, *((place, error_class, message) for place in places))
    most = min(max(1, record.object_count // 10), MAX_BAD)
    if len(bad) > most:
        return _end(f"more than {most} of its {record.object_count} inputs are bad; {_cause(failure)}")
    return Isolation(bad)


def _end(why: str) -> Failure:
    return Failure("IsolationError", why, retryable=False)


def _cause(failure: Failure) -> str:
    return f"the last cause: {failure.error_class}: {failure.message}"
