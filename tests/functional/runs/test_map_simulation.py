"""A whole run by batches, in memory, with every misfortune Hypothesis can think of; in the end all adds up.

To what happens to any run (see ``one_run``) come state machines that ask for batches and die in the middle of a step,
two of them at a time, children that are aborted, started twice or long after their batch, and workers that are killed
without an answer. There is no queue: a single message in it is a failure.
"""

from contextlib import suppress
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from sparklet.model import ClaimStatus, Dispatch, ShardRef
from sparklet.runs.dead_letters import Disposition, consume
from tests.functional.runs.one_run import MAX_ROUNDS, Attempt, OneRun
from tests.world import KilledError


class RunByMap(OneRun):
    """Its machines and their children."""

    DISPATCH = Dispatch.MAP

    def __init__(self) -> None:
        super().__init__()
        self.children: list[ShardRef] = []  # handed out, whether or not anybody still wants them
        self.batches = [0, 0]  # of two executions

    # --- state machines ---

    @rule(machine=st.integers(0, 1), dies_at=st.none() | st.integers(1, 30))
    def a_machine_asks_for_a_batch(self, machine: int, dies_at: int | None) -> None:
        with suppress(KilledError):
            answer = self.world.step("batch", self._at(dies_at), batch=self.batches[machine])
            self.batches[machine] = answer["batch"]
            self._add_up(answer)
            self.children += self.world.handed_out(answer)

    @rule(dies_at=st.none() | st.integers(1, 25))
    def a_machine_checks(self, dies_at: int | None) -> None:
        with suppress(KilledError):
            self._add_up(self.world.step("check", self._at(dies_at)))

    @rule(dies_at=st.none() | st.integers(1, 25))
    def a_machine_gives_up(self, dies_at: int | None) -> None:
        with suppress(KilledError):
            self._add_up(self.world.step("give_up", self._at(dies_at), reason="too many have failed"))

    def _add_up(self, answer: Any) -> None:
        run = self.world.ledger.runs.get("run-1")
        if run.sealed:
            assert sum(answer["counts"].values()) == run.shard_count
        assert answer["ended"] is run.state.ended

    # --- children ---

    @precondition(lambda self: self.children)
    @rule(which=st.integers(0, 50), again=st.booleans())
    def a_child_asks_for_its_shard(self, which: int, again: bool) -> None:
        """Perhaps twice at once, perhaps long after its batch."""
        ref = self.children[which % len(self.children)]
        if not again:
            self.children.remove(ref)
        attempt_id, claim = self.world.claim_ref(ref)
        if claim.status is ClaimStatus.GRANTED:
            self.attempts.append(Attempt(attempt_id, claim.record))

    @precondition(lambda self: self.children)
    @rule(most=st.integers(1, 9))
    def children_are_aborted(self, most: int) -> None:
        del self.children[:most]

    @precondition(lambda self: self.children)
    @rule(which=st.integers(0, 50))
    def somebody_sends_a_message_that_dies(self, which: int) -> None:
        (letter,) = self._dead(self.children[which % len(self.children)].to_body())
        assert consume(self.world.at, letter) is Disposition.DROPPED
        self.world.dead_letters.delete(letter.receipt)

    def _dead(self, body: str) -> Any:
        self.world.dead_letters.send([body])
        return self.world.dead_letters.receive(1)

    # --- what always holds ---

    @invariant()
    def nobody_sends_a_message(self) -> None:
        assert len(self.world.queue) == 0

    def teardown(self) -> None:
        """Nothing bad happens any more: one machine drives the run to its end, and all sums are right."""
        if not list(self.world.ledger.runs.list()):
            return
        for batch in range(MAX_ROUNDS):
            answer = self.world.step("batch", batch=batch)
            if answer["ended"]:
                break
            self.world.children(self.world.handed_out(answer))
            self.world.clock.advance(170)
        self._assert_all_adds_up()
        assert len(self.world.queue) == 0


RunByMap.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestRunByMap = RunByMap.TestCase
