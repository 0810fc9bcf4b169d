"""Tasks of the asynchronous API in a dictionary, and notices in a list."""

import json
import threading

from sparklet.errors import NoticeError
from sparklet.model import Notice, TaskRecord


class MemoryTaskStore:
    """A ``TaskStore`` in memory; records pass through JSON, as they do in a table."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[str, str] = {}

    def get_task(self, task_id: str) -> TaskRecord | None:
        """A task; None if there is none of that id."""
        with self._lock:
            return self._record(task_id)

    def replace_task(self, record: TaskRecord, was: TaskRecord | None) -> bool:
        """Put ``record`` where ``was`` stands; False if that has moved on."""
        with self._lock:
            stands = self._record(record.task_id)
            if (stands and stands.revision) != (was and was.revision):
                return False
            self._tasks[record.task_id] = json.dumps(record.to_document())
            return True

    def _record(self, task_id: str) -> TaskRecord | None:
        document = self._tasks.get(task_id)
        return TaskRecord.from_document(json.loads(document)) if document else None


class MemoryNotifier:
    """A ``Notifier`` that keeps what it is told; with ``down`` set it cannot be reached."""

    def __init__(self) -> None:
        self.told: list[Notice] = []
        self.down = False

    def notify(self, notice: Notice) -> None:
        """Keep a notice."""
        if self.down:
            raise NoticeError("nobody can be told: the notifier is down")
        self.told.append(notice)
