"""A shard that waits is claimed or given up with a cause, however it is dispatched and whatever is lost."""

from collections.abc import Iterable, Sequence
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from sparklet.model import ClaimStatus, Dispatch, Failure, ShardRecord, ShardRef, ShardResult, ShardState
from sparklet.ports import Engine, Message
from sparklet.runs.dead_letters import consume
from sparklet.runs.dispatch import CAPPED, MESSAGE, WORKER
from tests.stand_ins.memory import MemoryEngine
from tests.world import LEASE_S, World, ref_of

SHARDS, ENGINE, TIME_LIMIT_S = 3, "fargate", 86_400.0
WAYS = {"messages": MESSAGE, "capped": CAPPED, "map": MESSAGE, "engine": WORKER}
ENDED = Failure("TaskFailedToStart", "no such image")


class DispatchedRun:
    """A run whose shards are dispatched in one way."""

    def __init__(self, how: str) -> None:
        self.how, self.way = how, WAYS[how]
        self.engine = MemoryEngine()
        self.out: list[ShardRef] = []  # dispatched shards that have met no fate yet
        self.last: dict[int, tuple[int, float]] = {}  # by shard: attempts at the last dispatch, and its time
        self.wrong: list[ShardRecord] = []  # shards dispatched too early, or while an attempt holds them
        engines: dict[str, Engine] = {ENGINE: self.engine} if how == "engine" else {}
        self.world = World(Dispatch.MAP if how == "map" else Dispatch.QUEUE, engines=engines)
        self.world.queue.send = self.send  # type: ignore[method-assign]
        self.engine.start = self.start  # type: ignore[method-assign]
        self.world.run(SHARDS, time_limit_s=TIME_LIMIT_S, max_concurrency=2 if how == "capped" else 0)
        if engines:
            for record in self.world.shards():
                attempt_id, _ = self.world.claim_ref(record.ref)
                self.world.ledger.attempts.escalate("run-1", record.number, attempt_id, ENDED, ENGINE)
            self.out.clear()
            self.last.clear()
        if how == "map":
            for ref in self.world.handed_out(self.world.step("map")):
                self.dispatch(ref)

    def send(self, bodies: Iterable[str], delay_s: int = 0) -> int:
        """In place of the queue's ``send``."""
        return sum(self.dispatch(ref_of(body)) for body in bodies)

    def start(self, token: str, command: Sequence[str]) -> str:
        """In place of the engine's ``start``."""
        self.dispatch(self.world.shards()[int(command[4])].ref)
        return token

    def dispatch(self, ref: ShardRef) -> bool:
        """Record that a shard is dispatched, and that this is wrong if the shard is not PENDING or it is too early."""
        record, now_s = self.world.ledger.shards.get("run-1", ref.shard), self.world.clock.now_s()
        attempts, given_s = self.last.get(ref.shard, (-1, 0.0))
        times = min(self.way.times(record) - (self.how != "engine"), self.way.most)  # a worker is counted once started
        early = record.attempts == attempts and now_s - given_s < self.way.again_after_s * 2**times
        if early or record.state is not ShardState.PENDING:
            self.wrong.append(record)
        self.last[ref.shard] = record.attempts, now_s
        self.out.append(ref)
        return True

    def check_run(self) -> list[ShardRef]:
        """Check the run. Return the shards that are dispatched and have met no fate yet."""
        self.world.check()
        out, self.out = self.out, []
        return out

    def meet(self, ref: ShardRef, fate: str) -> None:
        """Let the message, Map child or worker of a shard meet its fate."""
        world = self.world
        if fate in ("done", "killed"):
            world.attempts += 1
            attempt_id, engine = f"attempt-{world.attempts}", ENGINE if self.how == "engine" else ""
            claim = world.ledger.attempts.claim(ref, attempt_id, LEASE_S, 3, engine=engine)
            if claim.status is ClaimStatus.GRANTED and fate == "done":
                world.ledger.attempts.succeed("run-1", ref.shard, attempt_id, ShardResult())
        elif self.how == "engine":
            self.engine.ended[world.ledger.shards.get("run-1", ref.shard).task_id] = ENDED
        elif fate == "came back":
            self.last.pop(ref.shard, None)  # the message is known to be lost, so the next one is sent at once
            consume(world.deployment, Message("m", ref.to_body(), world.clock.now_s()))


@settings(max_examples=150, deadline=None)
@given(how=st.sampled_from(sorted(WAYS)), honest=st.booleans(), data=st.data())
def test_each_waiting_shard_is_claimed_or_given_up_with_a_cause(how: str, honest: bool, data: st.DataObject) -> None:
    run = DispatchedRun(how)
    begun_s = run.world.clock.now_s()
    fates = st.sampled_from(["done", "killed", "lost", "came back"])
    for wait_s in data.draw(st.lists(st.sampled_from([1, 20, 61, 130, 700, 2000]), max_size=12)):
        for ref in run.check_run():
            run.meet(ref, data.draw(fates))
        run.world.clock.advance(wait_s)

    while not run.world.ledger.runs.get("run-1").state.ended:
        assert run.world.clock.now_s() < begun_s + 2 * TIME_LIMIT_S
        run.world.clock.advance(600)
        for ref in run.check_run():
            run.meet(ref, "done" if honest else "lost")

    assert run.wrong == []
    causes = {record.error_class for record in run.world.shards() if record.state is ShardState.FAILED}
    assert "" not in causes
    assert "RunTimeLimit" not in causes or (run.way.most == inf and not honest)
