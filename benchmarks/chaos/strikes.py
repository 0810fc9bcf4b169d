"""What a trial's plan does to the requests of its workers."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.chaos.plans import ISOLATED, NETWORK, OF_FILES, PER_INPUT, REPLACED, STOPPED, STRUCK, Plan
from benchmarks.chaos.proxy import FINE, Fault, Mishap, Request, Strike
from benchmarks.chaos.steps import WRITES, label, to_strike, to_strike_files
from benchmarks.chaos.workers import Worker

SHARE = 0.12  # of requests that the network's faults meet
MAX_MET = 12  # of a shard's, and of the commit run's: a run must end
LAST = "succeed"  # where it strikes if the worker has taken fewer steps than in peace
WAKES = ("claimed", "succeeded", "ended")  # when a zombie does
MAX_TIME_S = 3.0  # until a kill at a time
MET_S = {"reset": (0.0, 0.0), "drop": (1.0, 4.0), "delay": (0.2, 4.0), "error": (0.0, 0.0)}


@dataclass(frozen=True)
class _Aim:
    """Where one worker is struck."""

    number: int  # of the strikes at this victim
    step: str
    time: int  # at which of the step's occurrences
    after_effect: bool
    wake: str  # when it wakes, if it is stopped


@dataclass
class _Invocation:
    """A worker with its message, or a checker; it is struck once at most."""

    role: str
    aim: _Aim | None
    seen: Counter[str] = field(default_factory=Counter)  # its steps

    def meets(self, step: str) -> bool:
        """Whether it has come to where it is struck."""
        self.seen[step] += 1
        return self.aim is not None and (step == LAST or (step, self.seen[step]) == (self.aim.step, self.aim.time))


@dataclass
class Strikes:
    """Decides on each request of a trial; remembers what it did, and what was asked."""

    plan: Plan
    stopped: Callable[[Worker, str, str], None]  # told of a worker that is being stopped, its role, when it shall wake
    taken: dict[str, list[str]] = field(default_factory=dict)  # steps by role
    struck: list[str] = field(default_factory=list)  # role, step, and where of it
    written_s: float = 0.0  # when a worker last wrote to S3
    _met: Counter[str] = field(default_factory=Counter)  # faults by victim
    _begun: bool = False
    _dice: dict[str, random.Random] = field(default_factory=dict)  # the network's, by victim
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def anew(self) -> None:
        """As many strikes again; where outputs are replaced the first ones."""
        with self._lock:
            self._met.clear()
            self._begun = True

    def of(self, role: str) -> Callable[[Worker, Request], Fault]:
        """Decides for a worker that begins with a message, or a checker."""
        with self._lock:
            invocation = _Invocation(role, self._aim(role))
        return lambda worker, request: self._decide(invocation, worker, request)

    def _decide(self, invocation: _Invocation, worker: Worker, request: Request) -> Fault:
        step, role = label(request), invocation.role
        with self._lock:
            self.taken.setdefault(role, []).append(step)
            if step.startswith(WRITES):
                self.written_s = time.monotonic()
            if self.plan.kind in NETWORK:
                return self._mishap(role, step)
            aim = invocation.aim if invocation.meets(step) else None
            if aim is None or aim.number < self._met[self._victim(role)]:
                return FINE
            invocation.aim = None
            self._note(role, step, aim.after_effect)
        if self.plan.kind in STOPPED:
            self.stopped(worker, role, aim.wake)
            return Strike(aim.after_effect, worker.freeze, kills=False)
        return Strike(aim.after_effect, worker.kill, kills=True)

    def _left(self, role: str) -> bool:
        """Whether this role's worker is to be struck still."""
        struck = role.partition(" ")[0] in STRUCK.get(self.plan.kind, ())
        return (
            struck and (self._begun or self.plan.kind != REPLACED) and self._met[self._victim(role)] < self.plan.strikes
        )

    def _aim(self, role: str) -> _Aim | None:
        """Where the role's next victim is struck."""
        kind, victim, number = self.plan.kind, self._victim(role), self._met[self._victim(role)]
        if kind == "kill at a time" or not self._left(role):
            return None
        dice = self.plan.dice(f"{victim}/{number}")
        key = f"{self.plan.format}/{self.plan.way}/{role.partition(' ')[0]}"
        drawn = to_strike(key, dice.random(), writes=kind != "kill at a request")
        if kind in OF_FILES:
            drawn = to_strike_files(kind, role.partition(" ")[0], dice)
        after_effect, wake = dice.random() < 0.5, dice.choice(WAKES)
        wake = {"late committer": "ended", "two committers": "claimed"}.get(kind, wake)
        step, occurrence = self.plan.at or drawn
        # One that is stopped before its claim is waited for 900 s, since an engine may be fetching its image.
        after_effect |= kind == "recovered committer" or (kind == "zombie in an engine" and step == "claim")
        return _Aim(number, step, occurrence, after_effect, wake)

    def _mishap(self, role: str, step: str) -> Fault:
        victim, kind = self._victim(role), self.plan.kind
        dice = self._dice.setdefault(victim, self.plan.dice(victim))
        if self._met[victim] >= MAX_MET or dice.random() > SHARE:
            return FINE
        after = dice.random() < 0.5 and kind != "error"
        self._note(role, step, after)
        return Mishap(after, kind, dice.uniform(*MET_S[kind]))

    def _note(self, role: str, step: str, after: bool) -> None:
        self._met[self._victim(role)] += 1
        self.struck.append(f"{role}: {'after' if after else 'before'} {step}")

    def kill_at_a_time(self, role: str, worker: Worker) -> Callable[[], None]:
        """For a plan that kills at a time: have this invocation's worker killed then; call the result at its end."""
        with self._lock:
            if self.plan.kind != "kill at a time" or not self._left(role):
                return lambda: None
            number = self._met[self._victim(role)]
        time_s = self.plan.dice(f"{self._victim(role)}/{number}" if number else self._victim(role)).uniform(
            0, MAX_TIME_S
        )
        timer = threading.Timer(time_s, self._kill, [role, worker, time_s])
        timer.daemon = True
        timer.start()
        return timer.cancel

    def _kill(self, role: str, worker: Worker, time_s: float) -> None:
        with self._lock:
            if not self._left(role):
                return
            self._met[self._victim(role)] += 1
            self.struck.append(f"{role}: after {time_s:.2f} s")
        worker.kill()

    def _victim(self, role: str) -> str:
        """Who counts as one: a shard; all shards that are split; all shards of commit runs; the checker."""
        is_one = role.startswith("shard") and self.plan.kind not in (ISOLATED, PER_INPUT)
        return role if is_one else role.partition(" ")[0]
