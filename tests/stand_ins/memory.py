"""Ports in memory: a clock, a queue, a ledger, a notifier, functions and state machines.

They keep the promises of ``sparklet.ports`` as the adapters in ``sparklet.aws`` do: one contract suite runs over both.
Time comes from a ``Clock``, so a test decides when leases and visibility end.
"""

import json
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparklet.errors import (
    ExecutionExistsError,
    NoticeError,
    OrchestrationError,
    QueueError,
    RemoteFailureError,
    RemoteTaskError,
)
from sparklet.ledger import Ledger, items
from sparklet.ledger.clock import SystemClock
from sparklet.ledger.store import Delete, MemoryStore, New, Update
from sparklet.model import ExecutionState, ExecutionStatus, Failure, Notice, Run, ShardRecord
from sparklet.ports import Clock
from tests.stand_ins.memory_store import MemoryObjectStore
from tests.stand_ins.read_queues import Received

__all__ = [
    "FakeClock",
    "MemoryCompute",
    "MemoryEngine",
    "MemoryLedger",
    "MemoryNotifier",
    "MemoryObjectStore",
    "MemoryOrchestrator",
    "MemoryTaskQueue",
    "SystemClock",
]

MAX_VISIBILITY_S = 12 * 3600
MAX_BODY_BYTES = 1024 * 1024
POLL_S = 0.02
Machine = Callable[[Any], Any]


class FakeClock:
    """A ``Clock`` for tests: ``sleep`` returns at once and advances the clock.

    Parameters
    ----------
    start_s
        Seconds since the epoch at the beginning.
    """

    def __init__(self, start_s: float = 1_700_000_000.0) -> None:
        self._now_s = start_s
        self._lock = threading.Lock()

    def now_s(self) -> float:
        """Seconds since the epoch."""
        with self._lock:
            return self._now_s

    def sleep(self, duration_s: float) -> None:
        """Advance the clock; never backwards."""
        self.advance(max(0.0, duration_s))

    def advance(self, duration_s: float) -> None:
        """Advance the clock; backwards if ``duration_s`` is negative."""
        with self._lock:
            self._now_s += duration_s


@dataclass(slots=True)
class _Entry:
    body: str
    visible_s: float
    receive_count: int = 0
    receipt: str = ""


class MemoryTaskQueue:
    """A ``TaskQueue`` in memory with SQS's rules: visibility, receive counts, a dead-letter queue; no order.

    Parameters
    ----------
    clock
        Decides what is visible.
    visibility_s
        How long a received message stays invisible.
    dead_letters
        The queue that gets a message instead of its reader, once it was received ``max_receive_count`` times.
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
        self.entries: dict[str, _Entry] = {}
        self._lock = threading.RLock()

    def send(self, bodies: Iterable[str], delay_s: int = 0) -> int:
        """Send every body; return how many were sent."""
        sent = 0
        for body in bodies:
            size_bytes = len(body.encode())
            if not 0 < size_bytes <= MAX_BODY_BYTES:
                raise QueueError(f"a message of {size_bytes} bytes cannot be sent: a queue takes 1 to {MAX_BODY_BYTES}")
            self._enter(str(uuid.uuid4()), _Entry(body, self._clock.now_s() + delay_s))
            sent += 1
        return sent

    def receive(self, most: int = 10, wait_s: int = 0) -> Sequence[Received]:
        """Up to ``most`` messages that are visible; waits up to ``wait_s`` for the first."""
        end_s = self._clock.now_s() + wait_s
        while not (messages := self._take(min(most, 10))) and self._clock.now_s() < end_s:
            self._clock.sleep(POLL_S)
        return messages

    def _take(self, most: int) -> list[Received]:
        now_s = self._clock.now_s()
        messages: list[Received] = []
        with self._lock:
            for message_id, entry in list(self.entries.items()):
                if len(messages) == most:
                    break
                if entry.visible_s > now_s:
                    continue
                if self._dead_letters is not None and entry.receive_count >= self._max_receive_count:
                    del self.entries[message_id]
                    self._dead_letters._enter(message_id, _Entry(entry.body, now_s))
                    continue
                entry.receive_count += 1
                entry.receipt = f"{message_id}/{entry.receive_count}"
                entry.visible_s = now_s + self._visibility_s
                messages.append(
                    Received(message_id, entry.body, receipt=entry.receipt, receive_count=entry.receive_count)
                )
        return messages

    def delete(self, receipt: str) -> None:
        """Acknowledge a message; nothing happens if it was received again since (as in SQS)."""
        with self._lock:
            if self._owned(receipt):
                del self.entries[receipt.partition("/")[0]]

    def set_visibility(self, receipt: str, visibility_s: int) -> None:
        """Make a received message visible again in ``visibility_s`` seconds, unless it is visible already."""
        if not 0 <= visibility_s <= MAX_VISIBILITY_S:
            raise QueueError(f"a visibility of {visibility_s} s cannot be set: 0 to {MAX_VISIBILITY_S} can")
        with self._lock:
            entry = self._owned(receipt)
            now_s = self._clock.now_s()
            if entry and entry.visible_s > now_s:
                entry.visible_s = now_s + visibility_s

    def in_flight(self) -> int:
        """The number of messages that were received, and are neither deleted nor visible again."""
        now_s = self._clock.now_s()
        with self._lock:
            return sum(entry.receive_count > 0 and entry.visible_s > now_s for entry in self.entries.values())

    def __len__(self) -> int:
        """The number of messages in the queue, visible or not. For tests: no real queue knows it exactly."""
        with self._lock:
            return len(self.entries)

    def _enter(self, message_id: str, entry: _Entry) -> None:
        with self._lock:
            self.entries[message_id] = entry

    def _owned(self, receipt: str) -> _Entry | None:
        """The entry whose latest receipt this is; None if there is none."""
        entry = self.entries.get(receipt.partition("/")[0])
        return entry if entry and entry.receipt == receipt else None


class MemoryLedger(Ledger):
    """The product's ``Ledger`` in memory; ``put`` and ``forget`` bring about states that the product does not reach."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.store = MemoryStore()
        super().__init__(self.store, clock or SystemClock())

    def put(self, value: Run | ShardRecord) -> None:
        """Replace a run or a shard, whatever state it was in."""
        if isinstance(value, Run):
            self.store.write(Delete(items.pointer_key(self.runs.get(value.run_id))), New(items.pointer_item(value)))
        new = items.run_item(value) if isinstance(value, Run) else items.shard_item(value)
        key = new["pk"], new["sk"]
        self.store.write(Update(key, {}, {**dict.fromkeys(self.store.get(key) or {}), **new}))

    def forget(self, run_id: str, number: int) -> None:
        """Delete a shard."""
        self.store.write(Delete(items.shard_key(run_id, number)))


class MemoryNotifier:
    """A ``Notifier`` that keeps the notices; with ``down`` set, ``notify`` fails as if it could not be reached."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.down = False

    def notify(self, notice: Notice) -> None:
        """Keep a notice."""
        if self.down:
            raise NoticeError("the notifier is down")
        self.notices.append(notice)


class MemoryCompute:
    """A ``Compute`` over Python callables; event and answer pass through JSON, as they do in Lambda.

    Parameters
    ----------
    functions
        The handlers, by function name; each takes the event.
    """

    def __init__(self, functions: Mapping[str, Callable[[Any], Any]]) -> None:
        self._functions = functions

    def invoke(self, function: str, event: Mapping[str, Any]) -> Any:
        """Call a handler and return its answer; its exception becomes a RemoteFailureError, as behind Lambda."""
        if function not in self._functions:
            raise RemoteTaskError(f"there is no function {function}; deployed: {', '.join(self._functions) or 'none'}")
        received = json.loads(json.dumps(event))
        try:
            answer = self._functions[function](received)
        except Exception as error:  # the boundary between caller and function: Lambda answers with any error there is
            raise RemoteFailureError(f"{function} failed: {type(error).__name__}: {error}") from error
        return json.loads(json.dumps(answer))


class MemoryEngine:
    """An ``Engine`` that starts nothing: tests do its workers' part. If ``trouble`` is set, each start raises it."""

    def __init__(self, at_once: int = 0, *, traces_inputs: bool = False) -> None:
        self.at_once, self.traces_inputs = at_once, traces_inputs
        self.commands: dict[str, Sequence[str]] = {}
        self.ended: dict[str, Failure] = {}
        self.waits_until_s: dict[str, float] = {}
        self.lacks = ""  # a table format that workers do not have
        self.line = ""  # the workers' line of Spark
        self.trouble: Exception | None = None

    def start(self, token: str, command: Sequence[str]) -> str:
        """Note a worker's command; return its id."""
        if self.trouble:
            raise self.trouble
        self.commands.setdefault(token, command)
        return token

    def stopped(self, task_ids: Sequence[str]) -> Mapping[str, Failure]:
        """The causes of those tasks that have ended."""
        return {task_id: self.ended[task_id] for task_id in task_ids if task_id in self.ended}

    def stop(self, task_id: str) -> None:
        """End a worker."""
        self.ended.setdefault(task_id, Failure("Stopped", "somebody asked for it"))

    def begun_s(self, task_id: str) -> float:
        """When the worker began; 0 unless a test has set it in ``waits_until_s``."""
        return self.waits_until_s.get(task_id, 0.0)

    def unfit(self, table_format: str) -> str:
        """The reason why workers cannot write a table format; "" unless a test has set it as ``lacks``."""
        return f"it has no {self.lacks}" if self.lacks and table_format == self.lacks else ""

    def spark(self) -> str:
        """The line of Spark that a test has set; "" otherwise."""
        return self.line


class MemoryOrchestrator:
    """An ``Orchestrator`` over Python callables; input and output pass through JSON, as they do in Step Functions.

    Parameters
    ----------
    machines
        For each machine's name the function that ``start`` calls with the input. With None, an execution runs until
        it is stopped.
    """

    def __init__(self, machines: Mapping[str, Machine | None], clock: Clock | None = None) -> None:
        self._machines = machines
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self.executions: dict[str, ExecutionStatus] = {}

    def start(self, machine: str, name: str, input: Mapping[str, Any]) -> str:  # noqa: A002 - Step Functions' word
        """Start an execution and return its id; if one of that name and input is running, return that one's."""
        if machine not in self._machines:
            raise OrchestrationError(f"there is no state machine {machine}; there are {', '.join(self._machines)}")
        execution, received = f"{machine}:{name}", json.loads(json.dumps(input))
        with self._lock:
            if earlier := self.executions.get(execution):
                if earlier.state.ended:
                    raise ExecutionExistsError(
                        f"{name} has {earlier.state} already: choose another name to start it again"
                    )
                if earlier.input != received:
                    raise ExecutionExistsError(f"{name} runs with another input: choose another name")
                return execution
            self.executions[execution] = ExecutionStatus(
                execution, ExecutionState.RUNNING, self._clock.now_s(), input=received
            )
        if act := self._machines[machine]:
            self._perform(execution, act)
        return execution

    def status(self, execution: str) -> ExecutionStatus:
        """The status of an execution."""
        try:
            return self.executions[execution]
        except KeyError:
            raise OrchestrationError(f"there is no execution {execution}") from None

    def find(self, machine: str, name: str) -> ExecutionStatus | None:
        """The execution of this name, if there is one."""
        return self.executions.get(f"{machine}:{name}")

    def stop(self, execution: str, cause: str = "") -> None:
        """End an execution, unless it has ended."""
        if not self.status(execution).state.ended:
            self._end(execution, state=ExecutionState.ABORTED, cause=cause)

    def _perform(self, execution: str, act: Machine) -> None:
        try:
            output = act(self.executions[execution].input)
        except Exception as error:  # noqa: BLE001 - the machine's boundary: any error ends its execution, not the caller
            self._end(execution, state=ExecutionState.FAILED, error=type(error).__name__, cause=str(error))
        else:
            self._end(execution, state=ExecutionState.SUCCEEDED, output=json.loads(json.dumps(output)))

    def _end(self, execution: str, **changes: Any) -> None:
        with self._lock:
            self.executions[execution] = replace(self.executions[execution], ended_s=self._clock.now_s(), **changes)
