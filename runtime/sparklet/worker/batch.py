"""The tasks of one event, one after the other, in an order that keeps what their source promises.

No task can use up the time of those behind it. Each has an equal share of what is left of the invocation, so that what
one leaves is there for all behind it, and at least ``LEAST_SHARE_S``. For a message that comes again the least is four
times as much each time, up to half of the invocation, since its share may have been too short for it. Where less than
its least is left a task is not begun: it goes back untouched. The first one is begun in any case.
"""

import time
from collections.abc import Callable, Sequence

from sparklet.events import Outcome, Task
from sparklet.worker.guards import Deadline
from sparklet.worker.log import Log

LEAST_SHARE_S = 60.0  # enough for a cold JVM and a small record
GROWTH = 4.0  # of the least share, each time that a message comes back
MOST_GROWTHS = 10

Run = Callable[[Task, Deadline], Outcome]
"""Does a task by its deadline. One whose deadline is over goes back untouched."""


def do_batch(
    tasks: Sequence[Task], run: Run, deadline: Deadline, log: Log, now_s: Callable[[], float] = time.time
) -> list[Outcome]:
    """Do each task, but none after one of its group that comes back.

    A FIFO queue delivers the messages of a group in order and counts on it that none is done before the one
    ahead of it. So the rest of the group goes back undone, in order; other groups go on.
    """
    outcomes: list[Outcome] = []
    held: dict[str, Outcome] = {}  # by group: what came back
    whole_s = deadline.remaining_s(now_s())
    for place, task in enumerate(tasks):
        ahead = held.get(task.group) if task.group else None
        if ahead is None:
            share = deadline.share(share_s(task, place, len(tasks), deadline.remaining_s(now_s()), whole_s), now_s())
            outcome = run(task, share)
        else:
            outcome = Outcome(task, ahead.error, acknowledged=False)
            log.warning("not run: a message ahead of it comes back", record=task.record_ids[0], group=task.group)
        if ahead is None and task.group and not outcome.acknowledged:
            held[task.group] = outcome
        outcomes.append(outcome)
    return outcomes


def share_s(task: Task, place: int, count: int, left_s: float, whole_s: float) -> float:
    """Seconds that a task of a batch has; 0: it is not begun.

    Parameters
    ----------
    place, count
        Of the task in the batch, from 0, and of how many.
    left_s, whole_s
        Seconds of the invocation now, and before its first task.
    """
    least_s = min(LEAST_SHARE_S * GROWTH ** min(task.receive_count - 1, MOST_GROWTHS), whole_s / 2)
    if place > 0 and left_s < least_s:
        return 0.0
    return max(left_s / (count - place), least_s)
