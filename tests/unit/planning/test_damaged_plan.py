"""A plan part that differs from what was sealed is refused with its address."""

from collections.abc import Callable

import pytest

from sparklet.app.documents import object_status
from sparklet.errors import CheckpointConflictError, ObjectNotFoundError, PlanError
from sparklet.model import RunOptions
from sparklet.planning.new_run import new_run
from sparklet.planning.planner import plan
from tests.world import SOURCE, World

DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off within a line": (lambda body: body[:-20], "no shard"),
    "cut off between lines": (lambda body: body[: body.index(b"\n") + 1], "it holds 1 shards, 2 shards from 0 on"),
    "empty": (lambda body: b"", "it holds 0 shards"),
    "other bytes": (lambda body: b"\xff\xfe" * 40, "no shard"),
    "another number": (lambda body: body.replace(b'"shard":1', b'"shard":7'), "it holds 2 shards, 2 shards from 0 on"),
    "nested without end": (lambda body: b"[" * 100_000, "no shard"),
}


@pytest.fixture
def half_planned(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A run whose planner died after it had sealed its first part, before the shards were in the ledger."""
    world.put(4)
    new_run(world.deployment, world.request(options=RunOptions(max_objects=1)))

    def die(shards: object) -> int:
        raise CheckpointConflictError("died")

    with monkeypatch.context() as patch:
        patch.setattr(world.ledger.shards, "add", die)
        with pytest.raises(CheckpointConflictError, match="died"):
            plan(world.deployment, "run-1", part_shards=2)
    return world


@pytest.mark.parametrize("how", DAMAGES)
def test_a_resuming_planner_refuses_an_altered_part(half_planned: World, how: str) -> None:
    damage, told = DAMAGES[how]
    uri = half_planned.only_part()
    half_planned.store.put(uri, damage(half_planned.store.get(uri)))

    with pytest.raises(PlanError, match=rf"{uri} is damaged: .*{told}.*start the run again under another id"):
        plan(half_planned.deployment, "run-1")

    assert not half_planned.ledger.runs.get("run-1").sealed
    assert half_planned.ledger.shards.count("run-1").total == 0


def test_a_resuming_planner_names_a_missing_part(half_planned: World) -> None:
    uri = half_planned.only_part()
    half_planned.store.delete(uri)

    with pytest.raises(ObjectNotFoundError, match=f"{uri} is not there"):
        plan(half_planned.deployment, "run-1")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda body: body[: body.index(b"\n") + 1], "it holds 1 lines, 2 were sealed"),
        (lambda body: body.replace(b'"shard":1', b'"shard":"one"'), "a line that is no shard"),
    ],
    ids=["cut off", "other bytes"],
)
def test_an_objects_status_names_the_damaged_plan(world: World, damage: Callable[[bytes], bytes], told: str) -> None:
    world.run(2)
    uri = world.only_part()
    world.store.put(uri, damage(world.store.get(uri)))

    with pytest.raises(PlanError, match=f"{uri} is damaged: .*{told}"):
        object_status(world.deployment, "run-1", f"{SOURCE}00001.csv")
