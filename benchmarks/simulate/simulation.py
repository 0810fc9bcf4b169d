"""The discrete events: a heap of (time, kind, message, detail), and messages as bytes of arrays, not as objects.

A *slot* is what AWS calls a concurrent batch of the mapping (of one message here), or a child of a Map. It receives a
message, invokes the function until that is not throttled, waits for its end, and receives again::

    POLL ──message──▶ TRY ──room──▶ END ──▶ POLL          TRY ──throttled──▶ TRY, later
      └─ none: idle, until one is sent or visible again    the message visible again: dropped ──▶ POLL

SCALE adds a slot while messages are available. A message that is received and not deleted is VISIBLE again after the
visibility timeout, also while it is throttled or in work, and a receive beyond those allowed makes it a dead letter.
With a ledger a shard in work is done once, a dead letter is sent again, and a check replaces the message of a worker
that was lost.
"""

import math
import random
from array import array
from collections import deque
from heapq import heappop, heappush

from benchmarks.simulate.constants import fact
from benchmarks.simulate.result import Result, Sample
from benchmarks.simulate.setup import NEVER, Ledger, Setup
from sparklet.ledger.rules import RENEWALS_PER_S
from sparklet.model.shards import MAX_BUCKETS, ledger_bucket, ledger_bucket_count
from sparklet.worker.attempt import BACK_OFF_S, MAX_BACK_OFF_S

POLL, TRY, END, VISIBLE, SCALE, WAKE = range(6)
QUEUED, IN_FLIGHT, DELETED, DEAD = range(4)  # a message
PENDING, RUNNING, SUCCEEDED, FAILED, LOST = range(5)  # a shard
WARM, COLD = 1, 2  # an environment
OK, SCRIPT_FAILED, WORKER_LOST, NOTHING_TO_DO = range(4)  # how an invocation ends
MAX_SAMPLES = 300
MINUTE_HOUR_DAY = (60, 3_600, 86_400)
MAX_TRIES = 255  # counted in a byte; no wait is longer by then
ACKNOWLEDGED_S = 0.05  # an invocation whose claim is refused
RESENT_AFTER_S = 5.0  # by the consumer of dead letters
PARTITION_UNITS = fact("dynamodb.partition_writes")
PARTITION_WRITES = fact("sparklet.partition_writes")
CHECK_S = fact("sparklet.check_every_s")


class Simulation:
    """One run of a setup; the same for the same seed."""

    def __init__(self, setup: Setup, seed: int = 0) -> None:
        self.setup = setup
        self.result = Result(setup.shards)
        self._rng = random.Random(seed)
        self._random = self._rng.random
        self._heap: list[tuple[float, int, int, int]] = []
        count = setup.shards
        self._message, self._shard = bytearray(count), bytearray(count)
        self._receives, self._attempts, self._unrun = bytearray(count), bytearray(count), bytearray(count)
        self._received_s = array("d", bytes(8 * count))
        self._returned: deque[int] = deque()
        self._fresh = 0  # the next message that was never received
        self._again = self._gone = 0  # messages that are visible again, and that are deleted or dead letters
        self._open = count
        self._idle = self._slots = setup.scaling.first
        self._target = float(setup.scaling.first)
        self._running = self._environments = 0
        self._tokens, self._tokens_s = setup.burst, 0.0
        self._scales = self._wakes = False
        self._changed_s = self._sample_s = 0.0
        self._sample_every_s = 1.0
        self._milestones = [*MINUTE_HOUR_DAY]
        self._capacity, self._visibility_s = setup.capacity, setup.visibility_s
        self._waits_s = [min(setup.retry_most_s, setup.retry_first_s * 2.0**n) for n in range(MAX_TRIES + 1)]
        self._free_s = [0.0] * MAX_BUCKETS  # when a partition of the ledger has room

    def run(self) -> Result:
        """Simulate to the end of the last shard, or to the run's time limit."""
        heap, limit_s = self._heap, self.setup.limit_s
        handlers = (self._poll, self._try, self._end, self._visible, self._scale, self._wake)
        self._wait_for_messages(0.0)
        self._keep_scaling(self.setup.starts_s)
        now = 0.0
        while heap and self._open and heap[0][0] < limit_s:
            now, kind, message, detail = heappop(heap)
            if now >= self._sample_s:
                self._sample(now)
            handlers[kind](now, message, detail)
        self._count_running(now, 0)
        self._sample(now)
        self._finish()
        return self.result

    # --- queue

    def _sent(self, now: float) -> int:
        """How many messages the queue has been sent by now."""
        setup = self.setup
        if now < setup.starts_s:
            return 0
        if setup.sent_a_s == NEVER:
            return setup.shards
        return min(setup.shards, int((now - setup.starts_s) * setup.sent_a_s + 1e-6) + 1)

    def _receive(self, now: float) -> int:
        """A message, in flight from now on; -1 if none is visible. One received too often becomes a dead letter."""
        while True:
            if self._returned:
                message = self._returned.popleft()
                self._again -= self._message[message] == QUEUED
            elif self._fresh < self._sent(now):
                message = self._fresh
                self._fresh += 1
            else:
                return -1
            if self._message[message] != QUEUED:
                continue  # deleted while it was visible again
            self.result.receives += 1
            if self._receives[message] >= self.setup.max_receives:
                self._dead_letter(now, message)
                continue
            self._receives[message] = min(255, self._receives[message] + 1)
            self._message[message] = IN_FLIGHT
            self._received_s[message] = now
            return message

    def _dead_letter(self, now: float, message: int) -> None:
        self._remove(message, DEAD)
        self.result.dead += 1
        ledger = self.setup.ledger
        if ledger is None:
            self.result.dead_though_done += self._shard[message] == SUCCEEDED
            self._settle(now, message, LOST)
        elif self._shard[message] == PENDING:
            self._unrun[message] += 1
            if self._unrun[message] > ledger.dead_letters:
                self._settle(now, message, FAILED)
            else:
                self._send_again(now + RESENT_AFTER_S, message)

    def _send_again(self, at_s: float, message: int) -> None:
        """A new message for the shard; the old one, should it come back, finds nothing to do, so it is left out."""
        self._gone -= self._message[message] in (DELETED, DEAD)
        self._again -= self._message[message] == QUEUED
        self._receives[message], self._message[message] = 0, IN_FLIGHT
        heappush(self._heap, (at_s, VISIBLE, message, 0))

    def _visible(self, now: float, message: int, receives: int) -> None:
        if self._message[message] != IN_FLIGHT or self._receives[message] != receives:
            return  # deleted, or received again since
        self._message[message] = QUEUED
        self._returned.append(message)
        self._again += 1
        self._rouse(now)

    def _remove(self, message: int, state: int) -> None:
        self._again -= self._message[message] == QUEUED and message < self._fresh and state == DELETED
        self._gone += self._message[message] in (QUEUED, IN_FLIGHT)
        self._message[message] = state

    def _wait_for_messages(self, now: float) -> None:
        """Idle slots begin with the next message that is sent."""
        if not self._wakes and self._fresh < self.setup.shards:
            self._wakes = True
            setup = self.setup
            next_s = setup.starts_s + (0.0 if setup.sent_a_s == NEVER else (self._fresh + 1e-7) / setup.sent_a_s)
            heappush(self._heap, (max(now, next_s), WAKE, 0, 0))

    def _wake(self, now: float, _message: int, _detail: int) -> None:
        self._wakes = False
        self._rouse(now)
        if self._idle:
            self._wait_for_messages(now)

    def _rouse(self, now: float) -> None:
        while self._idle and (self._returned or self._fresh < self._sent(now)):
            self._idle -= 1
            self._poll(now, 0, 0)

    # --- mapping

    def _poll(self, now: float, _message: int, _detail: int) -> None:
        if self._slots > self._target:
            self._slots -= 1
            return
        message = self._receive(now)
        if message >= 0:
            self._try(now, message, self._receives[message] << 8)
        else:
            self._idle += 1
            self._wait_for_messages(now)

    def _keep_scaling(self, now: float) -> None:
        scaling = self.setup.scaling
        is_moving = self._heap and self._heap[0][0] < NEVER  # else what is left never comes back
        if not self._scales and self._target < scaling.most and scaling.a_minute and is_moving:
            self._scales = True
            heappush(self._heap, (now + 60 / scaling.a_minute, SCALE, 0, 0))

    def _scale(self, now: float, _message: int, _detail: int) -> None:
        self._scales = False
        if not self._idle and (self._returned or self._fresh < self._sent(now)):
            self._target += 1
            if self._slots < self._target:
                self._slots += 1
                self._poll(now, 0, 0)
        self._keep_scaling(now)

    def _slow_down(self, now: float, slots: float) -> None:
        self._target = max(self.setup.scaling.first, self._target - slots)
        while self._idle and self._slots > self._target:
            self._idle, self._slots = self._idle - 1, self._slots - 1
        self._keep_scaling(now)

    def _try(self, now: float, message: int, detail: int) -> None:
        """Invoke; ``detail``: the message's receives, and how often this one was throttled."""
        dropped_s = self._received_s[message] + self._visibility_s
        if now >= dropped_s or self._receives[message] != detail >> 8:
            self._poll(now, 0, 0)
        elif self._running < self._capacity and (environment := self._environment(now)):
            self._start(now, message, environment == COLD)
        else:
            self.result.throttles += 1
            tries = detail & 255
            if not tries and self._visibility_s < NEVER:
                heappush(self._heap, (dropped_s, VISIBLE, message, detail >> 8))
            if self.setup.slots_a_throttle:
                self._slow_down(now, self.setup.slots_a_throttle)
            again_s = now + self._random() * self._waits_s[tries]
            heappush(self._heap, (min(again_s, dropped_s), TRY, message, detail + (tries < MAX_TRIES)))

    # --- functions

    def _environment(self, now: float) -> int:
        """Whether an environment is WARM, or a COLD one may be made; else 0."""
        if self._running < self._environments:
            return WARM
        self._tokens = min(self.setup.burst, self._tokens + (now - self._tokens_s) * self.setup.burst_a_s)
        self._tokens_s = now
        if self._tokens < 1:
            return 0
        self._tokens -= 1
        self._environments += 1
        self.result.cold_starts += 1
        return COLD

    def _start(self, now: float, message: int, is_cold: bool) -> None:
        setup, result = self.setup, self.result
        self._count_running(now, 1)
        if setup.ledger and self._shard[message] != PENDING:
            outcome, took_s = NOTHING_TO_DO, ACKNOWLEDGED_S
        else:
            seconds = setup.seconds
            took_s = seconds[int(self._random() * len(seconds))] + (setup.cold_start_s if is_cold else 0.0)
            outcome = self._outcome(now)
            if setup.ledger:
                took_s += self._ledger_wait(now, message, setup.ledger)
                self._shard[message] = RUNNING
            result.attempts += 1
            result.retries += self._attempts[message] > 0
        result.billed_s += took_s
        visible_s = self._received_s[message] + self._visibility_s
        if now + took_s > visible_s:
            heappush(self._heap, (visible_s, VISIBLE, message, self._receives[message]))
        heappush(self._heap, (now + took_s, END, message, outcome))

    def _outcome(self, now: float) -> int:
        setup = self.setup
        if (setup.failed or setup.errors) and now >= setup.errors_from_s:
            drawn = self._random()
            return WORKER_LOST if drawn < setup.errors else SCRIPT_FAILED if drawn < setup.errors + setup.failed else OK
        return OK

    def _ledger_wait(self, now: float, message: int, ledger: Ledger) -> float:
        """How long a shard's writes wait for their partition, beside the renewals of the leases."""
        renewals = min(RENEWALS_PER_S, self._running / ledger.lease_s * 2) / ledger_bucket_count(message + 1)
        bucket = ledger_bucket(message)
        free_s = max(now, self._free_s[bucket])
        self._free_s[bucket] = free_s + PARTITION_WRITES / (PARTITION_UNITS - renewals)
        self.result.ledger_wait_s += free_s - now
        return free_s - now

    def _end(self, now: float, message: int, outcome: int) -> None:
        setup = self.setup
        self._count_running(now, -1)
        heappush(self._heap, (now + setup.turnaround_s, POLL, 0, 0))
        if outcome == OK:
            if self._message[message] != DEAD:
                self._remove(message, DELETED)
            self.result.doubled += self._shard[message] == SUCCEEDED
            self.result.dead_though_done += self._shard[message] == LOST
            self.result.last_success_s = now
            self._settle(now, message, SUCCEEDED)
        elif outcome == NOTHING_TO_DO:
            self._remove(message, DELETED)
        else:
            self._failed(now, message, outcome)

    def _failed(self, now: float, message: int, outcome: int) -> None:
        setup, ledger = self.setup, self.setup.ledger
        if outcome == WORKER_LOST:
            self._slow_down(now, setup.slots_an_error)
        self._attempts[message] += 1
        if ledger is None:
            visible_s = self._received_s[message] + setup.visibility_s
            heappush(self._heap, (max(now, visible_s), VISIBLE, message, self._receives[message]))
        elif self._attempts[message] >= ledger.max_attempts:
            self._remove(message, DELETED)
            self._settle(now, message, FAILED)
        elif outcome == SCRIPT_FAILED and self._message[message] in (IN_FLIGHT, QUEUED):
            self._shard[message] = PENDING
            most_s = min(MAX_BACK_OFF_S, BACK_OFF_S * 2.0 ** (self._attempts[message] - 1))
            again_s = now + self._rng.uniform(most_s / 2, most_s)
            heappush(self._heap, (again_s, VISIBLE, message, self._receives[message]))
        else:  # its lease ends, or its message is gone: the next check sends another
            self._shard[message] = PENDING
            lease_end_s = now + ledger.lease_s * self._rng.uniform(0.5, 1)
            self._send_again(math.ceil(lease_end_s / CHECK_S) * CHECK_S, message)

    # --- counting

    def _settle(self, now: float, message: int, state: int) -> None:
        """A shard ends; the first end counts, but a success after a dead letter is noted by the caller."""
        if self._shard[message] in (SUCCEEDED, FAILED, LOST):
            return
        self._shard[message] = state
        self._open -= 1
        self.result.end_s = now
        setup = self.setup
        sent_s = setup.starts_s if setup.sent_a_s == NEVER else setup.starts_s + message / setup.sent_a_s
        self.result.in_system_s += now - sent_s

    def _count_running(self, now: float, change: int) -> None:
        self.result.running_s += self._running * (now - self._changed_s)
        self._changed_s = now
        self._running += change
        if self._running > self.result.peak:
            self.result.peak, self.result.peak_s = self._running, now

    def _sample(self, now: float) -> None:
        result = self.result
        if len(result.samples) >= MAX_SAMPLES:
            del result.samples[1::2]
            self._sample_every_s *= 2
        sent = self._sent(now)
        waiting = self._again + sent - self._fresh
        ended = self.setup.shards - self._open
        in_flight = sent - waiting - self._gone
        result.samples.append(
            Sample(
                *(round(now, 3), sent, ended, waiting, in_flight, self._running, self._slots),
                *(result.throttles, result.retries, result.dead),
            )
        )
        result.open_check_s += (sent - ended) * self._sample_every_s / CHECK_S
        while self._milestones and now >= self._milestones[0]:
            result.ended_within[self._milestones.pop(0)] = ended
        self._sample_s = min(now + self._sample_every_s, *self._milestones, NEVER)

    def _finish(self) -> None:
        names = ("open", "open", "succeeded", "failed", "lost")
        for state, name in enumerate(names):
            self.result.states[name] = self.result.states.get(name, 0) + self._shard.count(state)


def simulate(setup: Setup, seed: int = 0) -> Result:
    """Simulate a setup once."""
    return Simulation(setup, seed).run()
