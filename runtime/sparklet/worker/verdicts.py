"""What shards and tasks have in common once an attempt has ended: its cause, the record of it, the message's return."""

import random
from collections.abc import Callable

from sparklet.errors import LedgerError, QueueError, ScriptFailedError, SparkletError
from sparklet.events import Task
from sparklet.ledger_rules import ERROR_MESSAGE_BYTES, cut
from sparklet.model import Failure
from sparklet.ports import Clock, TaskQueue
from sparklet.worker.log import Log

BACK_OFF_S, LONGEST_BACK_OFF_S = 5.0, 300.0
LEDGER_RETRY_S = 1.0
MOST_VISIBILITY_S = 12 * 3600


def persist(write: Callable[[], None], clock: Clock, until_s: float, log: Log) -> None:
    """Write to the ledger; while it is down, again until shortly before ``until_s``."""
    while True:
        try:
            return write()
        except LedgerError as error:
            if not error.retryable or clock.now_s() + 2 * LEDGER_RETRY_S > until_s:
                raise
            log.warning("the ledger did not answer; trying again", error=str(error))
            clock.sleep(LEDGER_RETRY_S)


def come_back(queue: TaskQueue | None, task: Task, delay_s: float, log: Log) -> None:
    """Make the task's message visible again in ``delay_s`` instead of after its visibility timeout."""
    if queue is None or not task.receipt:
        return
    try:
        queue.set_visibility(task.receipt, round(min(delay_s, MOST_VISIBILITY_S)))
    except QueueError as error:
        log.warning("the message comes back after its full visibility timeout", error=str(error))


def failure_of(error: SparkletError) -> Failure:
    """What the ledger keeps of an error: the script's root cause where there is one, and the line it came through."""
    if isinstance(error, ScriptFailedError) and error.cause_class:
        where = f" ({error.place}; exit code {error.exit_code})" if error.place else f" (exit code {error.exit_code})"
        cause = cut(error.cause, ERROR_MESSAGE_BYTES - len(where.encode()))
        return Failure(error.cause_class, f"{cause}{where}", error.retryable)
    return Failure(type(error).__name__, str(error), error.retryable)


def back_off_s(tries: int) -> float:
    """Exponential back-off with full jitter on its upper half."""
    longest_s = min(LONGEST_BACK_OFF_S, BACK_OFF_S * 2 ** min(tries - 1, 10))
    return random.uniform(longest_s / 2, longest_s)
