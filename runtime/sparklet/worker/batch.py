"""The tasks of one event, one after the other, in an order that keeps what their source promises."""

from collections.abc import Callable, Iterable

from sparklet.events import Outcome, Task
from sparklet.worker.log import Log


def do_batch(tasks: Iterable[Task], run: Callable[[Task], Outcome], log: Log) -> list[Outcome]:
    """Do each task, but none after one of its group that comes back.

    A FIFO queue delivers the messages of a group in order and counts on it that none is done before the one
    ahead of it. So the rest of the group goes back undone, in order; other groups go on.
    """
    outcomes: list[Outcome] = []
    held: dict[str, Outcome] = {}  # by group: what came back
    for task in tasks:
        ahead = held.get(task.group) if task.group else None
        outcome = run(task) if ahead is None else Outcome(task, ahead.error, acknowledged=False)
        if ahead is not None:
            log.warning("not run: a message ahead of it comes back", record=task.record_ids[0], group=task.group)
        elif task.group and not outcome.acknowledged:
            held[task.group] = outcome
        outcomes.append(outcome)
    return outcomes
