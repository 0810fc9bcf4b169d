"""The checker is killed at every port call while it ends a run with check and next run, then started again."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from sparklet.model import RunState
from sparklet.planning.planner import plan
from sparklet.ports.deployment import Deployment
from sparklet.runs.checker import check
from tests.functional.runs.test_faults import AFTER, kill_everywhere
from tests.stand_ins.memory import MemoryNotifier
from tests.unit.runs.test_phases import WRONG, start
from tests.world import World

FOLLOWING = {"run-1", "run-1-check-0", "run-1-next-0"}


class Followed(World):
    """A world with a notifier, in which a run with check and next script is about to end."""

    def __init__(self) -> None:
        super().__init__()
        self.memory_notifier = MemoryNotifier()
        run = start(self, shards=2)
        self.work()
        for number in range(2):
            self.store.put(f"{run.shard_output(number)}/part-0.parquet", b"rows")

    @property
    def deployment(self) -> Deployment:
        return replace(super().deployment, notifier=self.memory_notifier)


def to_the_end(world: World, deployment: Deployment) -> None:
    """Do what follows the end of the last shard: the check run is entered and done, and the run ends."""
    check(deployment, "run-1")
    world.work()
    check(deployment, "run-1")


def until_ended(world: World) -> RunState:
    """Let scheduled checks and workers go on until the run has ended and is announced; return its state."""
    for _ in range(10):
        report = check(world.deployment, "run-1")
        if report.run.state.ended and not report.unnotified and report.run.notified_s is not None:
            return report.run.state
        world.work()
        world.clock.advance(60)
    raise AssertionError(f"run-1 is still {report.run.state}")


def killed_everywhere(act: Callable[[World, Deployment], object], after_effect: bool) -> Iterator[Followed]:
    """For each port call of ``act``, yield a new world in which ``act`` was killed at that call."""
    worlds: list[Followed] = []

    def fresh() -> Followed:
        worlds.append(Followed())
        return worlds[-1]

    return kill_everywhere(fresh, lambda deployment: act(worlds[-1], deployment), after_effect)


def assert_followed(world: Followed) -> None:
    """Assert that there is one check run and one next run over all outputs, as manifest and notice say."""
    assert {run.run_id for run in world.ledger.runs.list()} == FOLLOWING
    (judged,) = world.shards("run-1-check-0")
    assert judged.attempts == 1
    plan(world.deployment, "run-1-next-0")
    assert sum(record.object_count for record in world.shards("run-1-next-0")) == 2
    ended = world.json("manifest.json")["run"]
    assert (ended["state"], ended["check"]["state"], ended["next_run_id"]) == ("SUCCEEDED", "SUCCEEDED", "run-1-next-0")
    assert {
        (notice.kind, notice.state, notice.document["next_run_id"]) for notice in world.memory_notifier.notices
    } == {("run", "SUCCEEDED", "run-1-next-0")}


@AFTER
def test_the_next_check_completes_the_end_of_a_run(after_effect: bool) -> None:
    killed = 0
    for world in killed_everywhere(to_the_end, after_effect):
        killed += 1
        assert until_ended(world) is RunState.SUCCEEDED
        assert_followed(world)
    assert killed > 50


@AFTER
def test_a_failed_check_fails_the_run_wherever_the_checker_dies(after_effect: bool) -> None:
    def judged(world: World, deployment: Deployment) -> None:
        check(deployment, "run-1")
        world.work(lambda _: WRONG)
        check(deployment, "run-1")

    for world in killed_everywhere(judged, after_effect):
        for _ in range(10):
            if check(world.deployment, "run-1").run.state.ended:
                break
            world.work(lambda _: WRONG)
            world.clock.advance(60)
        assert world.ledger.runs.get("run-1").state is RunState.FAILED
        error = {"class": WRONG.error_class, "message": WRONG.message}
        expected = {"run_id": "run-1-check-0", "state": "FAILED", "error": error}
        assert world.json("manifest.json")["run"]["check"] == expected
        assert {run.run_id for run in world.ledger.runs.list()} == {"run-1", "run-1-check-0"}
        assert {notice.document["check"]["state"] for notice in world.memory_notifier.notices} <= {"FAILED"}
