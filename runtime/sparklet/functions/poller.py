"""Waits for records of calls in the ledger: one thread for all, each call asked for less and less often."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sparklet.errors import LedgerError
from sparklet.ledger.rules import LEASE_GRACE_S, LEASE_S
from sparklet.model import ShardState, TaskRecord

MIN_POLL_S, MAX_POLL_S = 0.05, 2.0
POLL_SHARE = 0.2  # of the time that a call has been open for
LOST_S = LEASE_S + LEASE_GRACE_S


@dataclass(slots=True)
class _Watched:
    ended: Callable[[TaskRecord], None]
    began_s: float
    due_s: float
    revision: int = -1
    changed_s: float = 0.0  # when a new revision was seen


class Poller:
    """Calls back with each record once that has ended, or nobody renews it any more: then it is RUNNING still.

    Parameters
    ----------
    read
        Those of many records that are there; raises LedgerError.
    lost_s
        Without a renewal a worker does not live any more.
    """

    def __init__(self, read: Callable[[Sequence[str]], Iterable[TaskRecord]], lost_s: float = LOST_S) -> None:
        self._read, self._lost_s = read, lost_s
        self._open: dict[str, _Watched] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def watch(self, record_id: str, ended: Callable[[TaskRecord], None]) -> None:
        """Call ``ended`` once, in the poller's thread, which must not be held up."""
        now_s = time.monotonic()
        with self._changed:
            self._open[record_id] = _Watched(ended, now_s, now_s + MIN_POLL_S)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sparklet-functions-poller", daemon=True)
                self._thread.start()
            self._changed.notify()

    def forget(self, record_id: str) -> None:
        """Ask for it no more."""
        with self._changed:
            self._open.pop(record_id, None)

    def close(self) -> None:
        """Forget all."""
        with self._changed:
            self._closed = True
            self._open.clear()
            self._changed.notify()

    def _run(self) -> None:
        while due := self._await_due():
            try:
                found = {record.task_id: record for record in self._read(list(due))}
            except LedgerError:  # nothing can be seen now, and renewals fail as well
                found = {}
                with self._changed:
                    for each in self._open.values():
                        each.changed_s = time.monotonic()
            for record_id, watched in due.items():
                self._look(record_id, watched, found.get(record_id))

    def _await_due(self) -> dict[str, _Watched]:
        """Those that are due, at least one; empty once closed."""
        with self._changed:
            while not self._closed:
                now_s = time.monotonic()
                if due := {name: each for name, each in self._open.items() if each.due_s <= now_s + MIN_POLL_S / 2}:
                    return due
                self._changed.wait(min((each.due_s for each in self._open.values()), default=now_s + 60) - now_s)
            return {}

    def _look(self, record_id: str, watched: _Watched, record: TaskRecord | None) -> None:
        now_s = time.monotonic()
        watched.due_s = now_s + min(MAX_POLL_S, max(MIN_POLL_S, POLL_SHARE * (now_s - watched.began_s)))
        if record is None:
            return
        if record.revision != watched.revision:
            watched.revision, watched.changed_s = record.revision, now_s
        lost = record.state is ShardState.RUNNING and now_s - watched.changed_s > self._lost_s
        if record.state.ended or lost:
            with self._changed:
                mine = self._open.pop(record_id, None)
            if mine:
                mine.ended(record)
