"""A whole run by the queue, in memory, with every misfortune Hypothesis can think of; in the end all adds up.

To what happens to any run (see ``one_run``) come messages that are doubled and lost, and letters that die in the queue.
After all that, honest workers and a checker must bring every shard to a known end.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from sparklet.model import ClaimStatus, Dispatch, ShardResult
from sparklet.runs.checker import check
from sparklet.runs.dead_letters import consume
from tests.functional.runs.one_run import MAX_ROUNDS, Attempt, OneRun
from tests.world import KilledError


class RunByQueue(OneRun):
    """Its workers, its queue and its dead letters."""

    DISPATCH = Dispatch.QUEUE

    @rule(dies_at=st.none() | st.integers(1, 12))
    def a_letter_is_read(self, dies_at: int | None) -> None:
        for letter in self.world.dead_letters.receive(1):
            try:
                consume(self._at(dies_at), letter)
                self.world.dead_letters.delete(letter.receipt)
            except KilledError:
                self.world.dead_letters.set_visibility(letter.receipt, 0)

    @rule(slots=st.integers(1, 3))
    def workers_take_messages(self, slots: int) -> None:
        for _ in range(slots):
            self._take()

    def _take(self) -> None:
        if message := self.world.receive():
            attempt_id, claim = self.world.claim(message)
            if claim.status is ClaimStatus.GRANTED:
                self.attempts.append(Attempt(attempt_id, claim.record, message))
            elif claim.status is not ClaimStatus.HELD:
                self.world.queue.delete(message.receipt)

    @rule(which=st.integers(0, 50))
    def a_message_is_delivered_twice(self, which: int) -> None:
        bodies = [entry.body for entry in self.world.queue.entries.values()]
        if bodies:
            self.world.queue.send([bodies[which % len(bodies)]])

    @rule(which=st.integers(0, 50))
    def a_message_is_lost(self, which: int) -> None:
        keys = list(self.world.queue.entries)
        if keys:
            del self.world.queue.entries[keys[which % len(keys)]]

    def teardown(self) -> None:
        """Nothing bad happens any more; then the run ends, and all sums are right."""
        if not list(self.world.ledger.runs.list()):
            return
        for _ in range(MAX_ROUNDS):
            check(self.world.at, "run-1")
            if self.world.ledger.runs.get("run-1").state.ended and not self.world.ledger.shards.count("run-1").open:
                break
            self._honest_work()
            self.world.clock.advance(170)
        self._assert_all_adds_up()

    def _honest_work(self) -> None:
        self.world.work(lambda _: ShardResult(rows=1))
        for letter in self.world.dead_letters.receive():
            consume(self.world.at, letter)
            self.world.dead_letters.delete(letter.receipt)


RunByQueue.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestRunByQueue = RunByQueue.TestCase
