"""A queue in memory with SQS's rules: visibility, receive counts, a dead-letter queue."""

import threading
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sparklet.clock import SystemClock
from sparklet.errors import QueueError
from sparklet.ports import Clock, Message, QueueDepth

MOST_VISIBILITY_S = 12 * 3600
MOST_BODY_BYTES = 1024 * 1024
POLL_S = 0.02


@dataclass(slots=True)
class _Entry:
    body: str
    visible_s: float
    receive_count: int = 0
    receipt: str = ""


class MemoryTaskQueue:
    """A ``TaskQueue`` in memory; like a standard queue it promises no order.

    Parameters
    ----------
    clock
        Decides what is visible.
    visibility_s
        How long a received message stays invisible.
    dead_letters
        Where a message goes that was received ``max_receive_count`` times, when it would be received again.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        visibility_s: float = 30.0,
        dead_letters: "MemoryTaskQueue | None" = None,
        max_receive_count: int = 20,
    ) -> None:
        self._clock: Clock = clock or SystemClock()
        self._visibility_s = visibility_s
        self._dead_letters = dead_letters
        self._max_receive_count = max_receive_count
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.RLock()

    def send(self, bodies: Iterable[str], delay_s: int = 0) -> int:
        """Send every body; how many were sent."""
        sent = 0
        for body in bodies:
            size_bytes = len(body.encode())
            if not 0 < size_bytes <= MOST_BODY_BYTES:
                raise QueueError(
                    f"a message of {size_bytes} bytes cannot be sent: a queue takes 1 to {MOST_BODY_BYTES}"
                )
            self._enter(str(uuid.uuid4()), _Entry(body, self._clock.now_s() + delay_s))
            sent += 1
        return sent

    def receive(self, most: int = 10, wait_s: int = 0) -> Sequence[Message]:
        """Up to ``most`` messages that are visible; waits up to ``wait_s`` for the first."""
        end_s = self._clock.now_s() + wait_s
        while not (messages := self._take(min(most, 10))) and self._clock.now_s() < end_s:
            self._clock.sleep(POLL_S)
        return messages

    def _take(self, most: int) -> list[Message]:
        now_s = self._clock.now_s()
        messages: list[Message] = []
        with self._lock:
            for message_id, entry in list(self._entries.items()):
                if len(messages) == most:
                    break
                if entry.visible_s > now_s:
                    continue
                if self._dead_letters is not None and entry.receive_count >= self._max_receive_count:
                    del self._entries[message_id]
                    self._dead_letters._enter(message_id, _Entry(entry.body, now_s))
                    continue
                entry.receive_count += 1
                entry.receipt = f"{message_id}/{entry.receive_count}"
                entry.visible_s = now_s + self._visibility_s
                messages.append(Message(message_id, entry.body, entry.receipt, entry.receive_count))
        return messages

    def delete(self, receipt: str) -> None:
        """Acknowledge a message; nothing happens if it was received again since (as in SQS)."""
        with self._lock:
            if self._owned(receipt):
                del self._entries[receipt.partition("/")[0]]

    def set_visibility(self, receipt: str, visibility_s: int) -> None:
        """Make a received message visible again in ``visibility_s`` seconds; nothing happens if it is so already."""
        if not 0 <= visibility_s <= MOST_VISIBILITY_S:
            raise QueueError(f"a visibility of {visibility_s} s cannot be set: 0 to {MOST_VISIBILITY_S} can")
        with self._lock:
            entry = self._owned(receipt)
            now_s = self._clock.now_s()
            if entry and entry.visible_s > now_s:
                entry.visible_s = now_s + visibility_s

    def depth(self) -> QueueDepth:
        """How many messages there are, by state: exact here."""
        now_s = self._clock.now_s()
        with self._lock:
            hidden = [entry for entry in self._entries.values() if entry.visible_s > now_s]
            in_flight = sum(entry.receive_count > 0 for entry in hidden)
            return QueueDepth(len(self._entries) - len(hidden), in_flight, len(hidden) - in_flight)

    def __len__(self) -> int:
        """Messages in the queue, visible or not: for tests; no real queue tells exactly."""
        with self._lock:
            return len(self._entries)

    def _enter(self, message_id: str, entry: _Entry) -> None:
        with self._lock:
            self._entries[message_id] = entry

    def _owned(self, receipt: str) -> _Entry | None:
        """The entry whose last receipt this is."""
        entry = self._entries.get(receipt.partition("/")[0])
        return entry if entry and entry.receipt == receipt else None
