"""One run of up to nine shards over the ports in memory, and everything that may happen to it whoever hands it out.

Planner, checker, redrive and cancel are killed between any two port calls; attempts die, come late, wake as zombies.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sparklet.errors import CheckpointConflictError, LeaseLostError, PlanError
from sparklet.model import Dispatch, Failure, RunOptions, RunState, ShardRecord, ShardResult, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from sparklet.ports.deployment import Deployment
from sparklet.runs.cancel import NOT_PLANNED, cancel
from sparklet.runs.checker import check
from sparklet.runs.redrive import redrive
from tests.stand_ins.memory import MemoryTaskQueue
from tests.stand_ins.read_queues import Received
from tests.world import Fault, KilledError, World

OBJECTS = 9
MAX_ROUNDS = 60
TIME_LIMITS_S = (3 * 86_400.0, 3 * 86_400.0, 5_000.0)


@dataclass(frozen=True)
class Attempt:
    attempt_id: str
    record: ShardRecord
    message: Received | None = None  # that it came by; None: a Map's child asked for it


class OneRun(RuleBasedStateMachine):
    """What happens to a run whoever dispatches its shards; a subclass adds who does, and the end of it all."""

    DISPATCH: ClassVar[Dispatch]

    def __init__(self) -> None:
        super().__init__()
        self.world = World(dispatch=self.DISPATCH)
        self.world.queue = MemoryTaskQueue(
            self.world.clock, visibility_s=600.0, dead_letters=self.world.dead_letters, max_receive_count=3
        )
        self.attempts: list[Attempt] = []
        self.winners: dict[int, str] = {}
        self.cancellable = False

    @initialize(
        per_shard=st.integers(1, 4),
        max_attempts=st.integers(1, 3),
        tolerated=st.integers(0, 3),
        planned=st.booleans(),
        cancellable=st.booleans(),
        time_limit_s=st.sampled_from(TIME_LIMITS_S),
    )
    def ask_for_a_run(
        self, per_shard: int, max_attempts: int, tolerated: int, planned: bool, cancellable: bool, time_limit_s: float
    ) -> None:
        self.cancellable = cancellable
        self.world.put(OBJECTS)
        options = RunOptions(
            max_objects=per_shard,
            max_attempts=max_attempts,
            tolerated_failure_count=tolerated,
            time_limit_s=time_limit_s,
        )
        new_run(self.world.at, self.world.request(options=options))
        if planned:
            plan(self.world.at, "run-1")

    # --- who plans and watches ---

    def _at(self, dies_at: int | None) -> Deployment:
        at = self.world.at
        return Fault(dies_at, after_effect=dies_at % 2 == 0).deployment(at) if dies_at else at

    @rule(dies_at=st.none() | st.integers(1, 40), part_shards=st.integers(1, 4))
    def somebody_plans(self, dies_at: int | None, part_shards: int) -> None:
        with suppress(KilledError, CheckpointConflictError):
            plan(self._at(dies_at), "run-1", part_shards=part_shards)

    @rule(dies_at=st.none() | st.integers(1, 25))
    def somebody_checks(self, dies_at: int | None) -> None:
        with suppress(KilledError):
            check(self._at(dies_at), "run-1")

    @rule(dies_at=st.none() | st.integers(1, 20), chosen=st.none() | st.integers(0, OBJECTS))
    def somebody_redrives(self, dies_at: int | None, chosen: int | None) -> None:
        with suppress(KilledError, PlanError):
            redrive(self._at(dies_at), "run-1", None if chosen is None else [chosen])

    @precondition(lambda self: self.cancellable)
    @rule(dies_at=st.none() | st.integers(1, 25))
    def somebody_cancels(self, dies_at: int | None) -> None:
        with suppress(KilledError, PlanError):
            cancel(self._at(dies_at), "run-1")

    # --- attempts ---

    @precondition(lambda self: self.attempts)
    @rule(which=st.integers(0, 50), how=st.sampled_from(["succeed", "succeed", "fail", "release", "die"]))
    def an_attempt_ends(self, which: int, how: str) -> None:
        """Also long after its lease: then it is a zombie, and the ledger refuses it."""
        attempt = self.attempts.pop(which % len(self.attempts))
        run_id, number = attempt.record.run_id, attempt.record.number
        try:
            if how == "succeed":
                self.world.ledger.attempts.succeed(run_id, number, attempt.attempt_id, ShardResult(rows=1))
                assert self.winners.setdefault(number, attempt.attempt_id) == attempt.attempt_id
            elif how == "fail":
                self.world.ledger.attempts.fail(run_id, number, attempt.attempt_id, Failure("ValueError", "bad", False))
            elif how == "release":
                self.world.ledger.attempts.release(run_id, number, attempt.attempt_id, Failure("OSError", "503"))
                if attempt.message:
                    self.world.queue.set_visibility(attempt.message.receipt, 5)
                return
            else:
                return  # killed: its lease runs out, and its message, by themselves
        except LeaseLostError:
            return
        if attempt.message:
            self.world.queue.delete(attempt.message.receipt)

    # --- the clock ---

    @rule(duration_s=st.sampled_from([1, 6, 61, 101, 170, 700, 4000]))
    def time_passes(self, duration_s: int) -> None:
        self.world.clock.advance(duration_s)

    # --- what always holds ---

    @invariant()
    def states_add_up(self) -> None:
        if not list(self.world.ledger.runs.list()):
            return
        run = self.world.ledger.runs.get("run-1")
        counts = self.world.ledger.shards.count("run-1")
        assert counts.total == len(self.world.shards())
        assert run.shard_count in (None, counts.total)
        for record in self.world.shards():
            if record.number in self.winners:
                assert (record.state, record.attempt_id) == (ShardState.SUCCEEDED, self.winners[record.number])

    # --- the end ---

    def _assert_all_adds_up(self) -> None:
        run, counts = self.world.ledger.runs.get("run-1"), self.world.ledger.shards.count("run-1")
        assert run.state.ended
        assert (run.cancelled_s is not None) is (run.state is RunState.CANCELLED)
        assert counts.open == 0
        assert counts.total == run.shard_count
        planned = [item.uri for shard in self.world.planned() for item in shard.objects]
        assert len(planned) == len(set(planned)) == run.object_count
        assert run.object_count == OBJECTS or NOT_PLANNED in run.skipped
        assert all(r.error_class for r in self.world.shards() if r.state is ShardState.FAILED)
        check(self.world.at, "run-1")
        listed = {name: len(self._entries(name)) for name in ("SUCCEEDED", "FAILED", "PENDING")}
        assert listed == {"SUCCEEDED": counts.succeeded, "FAILED": counts.failed, "PENDING": 0}

    def _entries(self, name: str) -> list[object]:
        files = self.world.json("manifest.json")["ResultFiles"][name]
        return [entry for file in files for entry in self.world.json(file["Key"].rpartition("/")[2])]
