"""What a trial's plan does to the requests of its workers."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.chaos.plans import NETWORK, Plan
from benchmarks.chaos.proxy import Fault, Fine, Mishap, Request, Strike
from benchmarks.chaos.steps import label, to_strike
from benchmarks.chaos.workers import Worker

SHARE = 0.06  # of requests that the network's faults meet
MAX_MET = 6  # of them in a trial: a run must end
LAST = "succeed"  # where it strikes if the shard has taken fewer steps than in peace
ROLES = {"kill the committer": "commit", "zombie committer": "commit", "kill the checker": "checker"}
AT_REQUESTS = ("kill at a request",)
MET_S = {"reset": (0.0, 0.0), "drop": (1.0, 4.0), "delay": (0.2, 4.0), "error": (0.0, 0.0)}


@dataclass
class Strikes:
    """Decides on each request of a trial; remembers what it did, and what was asked."""

    plan: Plan
    zombie: Callable[[Worker], None]  # told of a worker that is being stopped
    taken: dict[str, list[str]] = field(default_factory=dict)  # steps by role
    struck: list[str] = field(default_factory=list)  # role, step, and where of it
    _seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._dice, self._left_s = self.plan.dice, self.plan.delay_s
        kind = self.plan.kind
        self._role = ROLES.get(kind, "shard")
        key = f"{self.plan.format}/{self.plan.way}/{self._role}"
        self._step, self._time = self.plan.at or to_strike(key, self.plan.nth, writes=kind not in AT_REQUESTS)
        self.shard = self._dice.randrange(self.plan.shards) if self._role == "shard" else 0

    @property
    def victim(self) -> tuple[str, int]:
        """The run and shard whose worker is struck."""
        return (f"{self.plan.name}-commit-0", 0) if self._role == "commit" else (self.plan.name, self.shard)

    def decide(self, role: str, worker: Worker, request: Request) -> Fault:
        """What happens to a request."""
        step, kind = label(request), self.plan.kind
        who, _, shard = role.partition(" ")
        with self._lock:
            self.taken.setdefault(role, []).append(step)
            self._seen[role, step] += 1
            if kind in NETWORK:
                return self._mishap(role, step)
            mine = who == self._role and int(shard or 0) == self.shard
            due = step == LAST or (step == self._step and self._seen[role, step] == self._time)
            if self.struck or not mine or not due or kind in ("kill at a time", "none", "record") or "twice" in kind:
                return Fine()
            self._note(role, step, self.plan.after_effect)
        if kind.startswith("zombie"):
            self.zombie(worker)
            return Strike(worker.freeze, self.plan.after_effect, kills=False)
        return Strike(worker.kill, self.plan.after_effect, kills=True)

    def _mishap(self, role: str, step: str) -> Fault:
        if len(self.struck) >= MAX_MET or self._dice.random() > SHARE:
            return Fine()
        after = self._dice.random() < 0.5 and self.plan.kind != "error"
        self._note(role, step, after)
        return Mishap(self.plan.kind, after, self._dice.uniform(*MET_S[self.plan.kind]))

    def _note(self, role: str, step: str, after: bool) -> None:
        self.struck.append(f"{role}: {'after' if after else 'before'} {step}")

    def kill_at_a_time(self, role: str, worker: Worker) -> Callable[[], None]:
        """For a plan that kills at a time: have this invocation's worker killed then; call the result at its end.

        The time counts while shards are worked on: what one of them leaves of it is the next one's.
        """
        with self._lock:
            if self.plan.kind != "kill at a time" or self.struck or not role.startswith(self._role):
                return lambda: None
            timer = threading.Timer(self._left_s, self._kill, [role, worker])
        timer.daemon = True
        started_s = time.monotonic()
        timer.start()

        def end() -> None:
            timer.cancel()
            with self._lock:
                self._left_s = max(0.0, self._left_s - (time.monotonic() - started_s))

        return end

    def _kill(self, role: str, worker: Worker) -> None:
        with self._lock:
            if self.struck:
                return
            self.struck.append(f"{role}: after {self.plan.delay_s:.2f} s")
        worker.kill()
