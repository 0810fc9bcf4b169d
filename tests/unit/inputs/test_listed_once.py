"""An input is listed once for a request, and nothing of it is lost by that."""

from collections.abc import Iterator

import pytest

from sparklet.errors import ObjectStoreError
from sparklet.inputs import listed_once
from sparklet.inputs.listed_once import listing_once
from sparklet.model import Access
from sparklet.planning.new_run import new_run
from sparklet.planning.plan_requests import handle_request
from sparklet.planning.planner import plan
from sparklet.ports import ObjectInfo
from sparklet.settings import PlannerSettings
from tests.stand_ins.memory import MemoryObjectStore
from tests.world import SCRIPT, SOURCE, World


class CountingStore(MemoryObjectStore):
    """Counts the objects of the source that it lists; ``fails_at`` so many it fails, once."""

    listed = 0
    fails_at = 0

    def list(self, prefix_uri: str, start_after: str = "") -> Iterator[ObjectInfo]:
        for info in super().list(prefix_uri, start_after):
            if prefix_uri == SOURCE:
                self.listed += 1
                if self.listed == self.fails_at:
                    self.fails_at = 0
                    raise ObjectStoreError("S3 is away for a moment")
            yield info


@pytest.fixture
def store(world: World) -> CountingStore:
    world.store = store = CountingStore(world.clock)
    store.put(SCRIPT, b"")
    return store


def test_a_planner_request_lists_its_input_once(world: World, store: CountingStore) -> None:
    world.put(7)
    event = {"script": SCRIPT, "inputs": [SOURCE], "output": "s3://data/out/", "run_id": "run-1"}

    answer = handle_request(
        world.at, event, PlannerSettings(("s3://data/jobs/",), 3008, 2**32), "request-1", lambda: 900.0
    )

    assert (answer["objects"], store.listed) == (7, 7)


def test_input_changes_after_the_look_do_not_change_the_plan(world: World, store: CountingStore) -> None:
    uris = world.put(4)
    with listing_once(world.at) as at:
        new_run(at, world.request())
        store.delete(uris[0])
        world.put(6)

        plan(at, "run-1")

    assert [item.uri for shard in world.planned() for item in shard.objects] == uris


def test_a_plan_that_goes_on_lists_what_is_there_then(world: World, store: CountingStore) -> None:
    world.put(4)
    with listing_once(world.at) as at:
        new_run(at, world.request())
        plan(at, "run-1", part_shards=1, stop=lambda: True)
    uris = world.put(6)

    with listing_once(world.at) as at:
        plan(at, "run-1")

    assert [item.uri for shard in world.planned() for item in shard.objects] == uris


def test_a_listing_that_broke_off_is_not_taken_for_all(world: World, store: CountingStore) -> None:
    uris = world.put(5)
    with listing_once(world.at) as at:
        inputs = at.inputs(Access())
        store.fails_at = 3
        with pytest.raises(ObjectStoreError):
            list(inputs.list(SOURCE))

        assert [info.uri for info in inputs.list(SOURCE)] == uris


@pytest.mark.parametrize("kept_bytes", [1, 300])
def test_more_than_may_be_kept_is_planned_all_the_same(
    world: World, store: CountingStore, monkeypatch: pytest.MonkeyPatch, kept_bytes: int
) -> None:
    monkeypatch.setattr(listed_once, "MAX_KEPT_BYTES", kept_bytes)
    uris = world.put(9)

    with listing_once(world.at) as at:
        assert [[info.uri for info in at.inputs(Access()).list(SOURCE)] for _ in range(2)] == [uris, uris]
