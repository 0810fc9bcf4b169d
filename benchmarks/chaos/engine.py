"""An engine whose workers are struck: each runs the command ``shard`` as a process of its own, behind the proxy."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.chaos.strikes import Strikes
from benchmarks.chaos.workers import Pool, Worker
from sparklet.errors import RemoteTaskError
from sparklet.model import Failure
from sparklet.ports import Engine

NAME = "process"  # the local stack's own, for which no settings are needed
MOST = 2  # workers at once: each is a JVM


@dataclass
class StruckEngine(Engine):
    """Starts workers for the shards of trials; ``strikes`` has those of a run."""

    pool: Pool
    strikes: Callable[[str], Strikes]
    _workers: dict[str, Worker] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, token: str, command: Sequence[str]) -> str:
        """Start a worker; a token again starts none."""
        with self._lock:
            if token in self._workers:
                return token
            if sum(worker.alive and worker.is_awake for worker in self._workers.values()) >= MOST:
                raise RemoteTaskError("enough workers for two cores", "throttled")
            _, _, run_id, _, number, *_ = command
            strikes, role = self.strikes(run_id), f"shard {number}"
            worker = self.pool.engine_worker(command[1:], strikes.of(role))
            strikes.kill_at_a_time(role, worker)
            self._workers[token] = worker
        return token

    def stopped(self, task_ids: Sequence[str]) -> Mapping[str, Failure]:
        """Those whose process has ended."""
        ended = [each for each in task_ids if each not in self._workers or not self._workers[each].alive]
        return {each: Failure("Stopped", "its process has ended") for each in ended}

    def stop(self, task_id: str) -> None:
        """Kill it: a harder end than any platform's."""
        self._workers[task_id].kill()
