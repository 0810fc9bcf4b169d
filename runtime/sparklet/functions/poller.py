"""Waits for calls' records in the ledger: one thread for all, each asked for less and less often."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from sparklet.errors import LedgerError
from sparklet.ledger.rules import LEASE_GRACE_S, LEASE_S
from sparklet.model import ShardState, TaskRecord

MIN_POLL_S, MAX_POLL_S = 0.05, 2.0
POLL_SHARE = 0.2  # of the time for which a call has been open
LOST_S = LEASE_S + LEASE_GRACE_S  # a worker that lives renews its lease earlier


@dataclass(slots=True)
class _Watched:
    ended: "Callable[[TaskRecord | LedgerError], None]"
    began_s: float = field(default_factory=time.monotonic)
    due_s: float = 0.0
    revision: int = -1
    changed_s: float = 0.0  # when that revision was first seen


@dataclass
class Poller:
    """Hands over each record that has ended; or is RUNNING, but nobody renews it any more."""

    read: Callable[[Sequence[str]], Iterable[TaskRecord]]  # those of many that are there; may raise LedgerError
    lost_s: float = LOST_S  # a RUNNING record that was not renewed for so long counts as lost
    open: dict[str, _Watched] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: bool = False

    def watch(self, record_id: str, ended: "Callable[[TaskRecord | LedgerError], None]") -> None:
        """Call ``ended`` once, in the poller's thread, which must not be held up; with an error that does not pass."""
        with self._lock:
            self.open[record_id] = _Watched(ended)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="sparklet-functions-poller", daemon=True).start()

    def forget(self, record_id: str) -> bool:
        """Ask for it no more; whether it was waited for."""
        return self.open.pop(record_id, None) is not None

    def _run(self) -> None:
        while True:
            time.sleep(MIN_POLL_S)
            with self._lock:
                self._running = bool(self.open)
                now_s, watched = time.monotonic(), list(self.open.items())  # at once: others take out of it
            due = {name: each for name, each in watched if each.due_s <= now_s}
            if not self._running:
                return
            try:
                found = {record.task_id: record for record in self.read(list(due))}
            except LedgerError as error:  # renewals fail, too: nobody is lost therefore
                found = {}
                for name, each in watched:
                    each.changed_s = time.monotonic()
                    if not error.retryable and self.forget(name):
                        each.ended(error)
            for name, each in due.items():
                self._look(each, name, found.get(name))

    def _look(self, watched: _Watched, name: str, record: TaskRecord | None) -> None:
        now_s = time.monotonic()
        watched.due_s = now_s + min(MAX_POLL_S, POLL_SHARE * (now_s - watched.began_s))
        if record is None:
            return
        if record.revision != watched.revision:
            watched.revision, watched.changed_s = record.revision, now_s
        lost = record.state is ShardState.RUNNING and now_s - watched.changed_s > self.lost_s
        if (record.state.ended or lost) and self.forget(name):
            watched.ended(record)
