"""The simulation of a run by the queue, where a check judges it and another one follows; in the end all fits."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from sparklet.model import ClaimStatus, RunState, ShardResult
from sparklet.planning.request import RunRequest
from sparklet.runs.follow_ups import check_run, next_run
from tests.functional.runs import test_simulation
from tests.functional.runs.one_run import Attempt
from tests.stand_ins.memory import MemoryTaskQueue
from tests.unit.runs.test_follow_ups import CHECK, FOLLOWED, NEXT, WRONG
from tests.world import World

ENDED_WELL = (RunState.SUCCEEDED, RunState.SUCCEEDED_WITH_FAILURES)


class FollowedWorld(World):
    """A world whose runs all have a check and a next script."""

    def request(self, **changes: Any) -> RunRequest:
        for uri in (CHECK, NEXT):
            self.store.put(uri, b"print()\n")
        return super().request(**{**FOLLOWED, **changes})


class FollowedRun(test_simulation.RunByQueue):
    """Workers do a check at once, well or not as fate has it; everything else may happen as to any run."""

    def __init__(self) -> None:
        super().__init__()
        self.world = FollowedWorld(dispatch=self.DISPATCH)
        self.world.queue = MemoryTaskQueue(
            self.world.clock, visibility_s=600.0, dead_letters=self.world.dead_letters, max_receive_count=3
        )
        self.content = True

    @rule(content=st.booleans())
    def the_check_changes_its_mind(self, content: bool) -> None:
        self.content = content

    def _take(self) -> None:
        message = self.world.receive()
        if message is None:
            return
        attempt_id, claim = self.world.claim(message)
        run_id = claim.record.run_id
        if claim.status is ClaimStatus.GRANTED and run_id == "run-1":
            self.attempts.append(Attempt(attempt_id, claim.record, message))
            return
        if claim.status is ClaimStatus.GRANTED and self.content:
            self.world.ledger.attempts.succeed(run_id, claim.record.number, attempt_id, ShardResult())
        elif claim.status is ClaimStatus.GRANTED:
            self.world.ledger.attempts.fail(run_id, claim.record.number, attempt_id, WRONG)
        if claim.status is not ClaimStatus.HELD:
            self.world.queue.delete(message.receipt)

    def _assert_all_adds_up(self) -> None:
        super()._assert_all_adds_up()
        at = self.world.at
        run = at.ledger.runs.get("run-1")
        judge, follower = check_run(at, run), next_run(at, run)
        if run.state in ENDED_WELL:
            assert judge and judge.state is RunState.SUCCEEDED
            assert follower and follower.cancelled_s is None
            assert self.world.json("manifest.json")["Check"]["Status"] == "SUCCEEDED"
        if run.state is RunState.FAILED:
            assert follower is None
            assert judge is None or judge.state in (RunState.FAILED, RunState.CANCELLED)
        if run.state is RunState.CANCELLED:
            assert all(each is None or each.state.ended or each.cancelled_s is not None for each in (judge, follower))
        for earlier in at.ledger.runs.list():
            if "-next-" in earlier.run_id and (follower is None or earlier.run_id != follower.run_id):
                assert follower is None or earlier.state.ended or earlier.cancelled_s is not None


FollowedRun.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestFollowedRun = FollowedRun.TestCase
