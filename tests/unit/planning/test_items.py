"""Runs of items: each item of a list is in exactly one shard, as often as it is listed."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparklet.errors import EventError, PlanError, RunExistsError, SettingsError
from sparklet.model import InputObject, RunOptions, Shard
from sparklet.planning.inputs.list_requests import ListRequest
from sparklet.planning.inputs.lists import MAX_ITEM_BYTES
from sparklet.planning.new_run import new_run
from sparklet.planning.packing import MAX_ITEMS_BYTES, preview
from sparklet.planning.plan_requests import handle_request
from sparklet.planning.planner import plan
from sparklet.settings import PlannerSettings
from tests.world import SCRIPT, SOURCE, World

LIST = "s3://lists/cities"


def request(world: World, *lists: ListRequest, **changes: Any) -> Any:
    return world.request(**{"inputs": (), "lists": lists, "options": RunOptions(max_objects=1), **changes})


def items_list(values: list[Any]) -> ListRequest:
    return ListRequest("-", json.dumps(values).encode(), "json", items=True)


def planned(world: World, *lists: ListRequest, **changes: Any) -> list[list[Any]]:
    plan(world.deployment, new_run(world.deployment, request(world, *lists, **changes)).run_id)
    return [shard.items for shard in world.planned()]


# --- plan parts ---


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.dictionaries(st.text(), inner, max_size=4) | st.lists(inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(JSON_VALUES, max_size=4))
def test_any_item_is_the_same_after_a_plans_line_is_read(values: list[Any]) -> None:
    shard = Shard(3, tuple(InputObject.of_item(value) for value in values))

    read = Shard.from_line(shard.to_line())

    assert (read, read.items, read.inputs) == (shard, values, [])


# --- refused requests ---


@pytest.mark.parametrize(
    "options",
    [
        RunOptions(incremental=True),
        RunOptions(include=("*.csv",)),
        RunOptions(exclude=("*.csv",)),
        RunOptions(modified_since_s=1.0),
        RunOptions(group_by="prefix"),
        RunOptions(split="csv"),
    ],
)
def test_options_that_choose_among_objects_are_refused(world: World, options: RunOptions) -> None:
    for begin in (new_run, preview):
        with pytest.raises(PlanError, match="items are not objects"):
            begin(world.deployment, request(world, items_list([1]), options=options))


def test_items_and_objects_are_not_mixed(world: World) -> None:
    uri = world.put(1)[0]
    for changes in ({"inputs": (SOURCE,)}, {"lists": (items_list([1]), ListRequest("-", uri.encode()))}):
        with pytest.raises(PlanError, match="either items or objects"):
            new_run(world.deployment, request(world, items_list([1]), **changes))


# --- planning ---


def test_items_are_packed_by_number_and_repeated_items_are_kept(world: World) -> None:
    assert planned(world, items_list([1, 2, 2, 1, 5]), options=RunOptions(max_objects=2)) == [[1, 2], [2, 1], [5]]
    assert [record.object_count for record in world.shards()] == [2, 2, 1]
    assert world.ledger.runs.get("run-1").object_count == 5
    assert all("items" not in body.to_body() for body in world.bodies())


def test_the_items_of_a_shard_are_bounded_in_bytes() -> None:
    value = "x" * (MAX_ITEM_BYTES - 2)

    shards = planned(World(), items_list([value] * 20), options=RunOptions())

    assert [len(shard) for shard in shards] == [16, 4] and 16 * MAX_ITEM_BYTES == MAX_ITEMS_BYTES


def test_an_interrupted_plan_continues_behind_its_last_item(world: World) -> None:
    run = new_run(world.deployment, request(world, items_list([1, 1, 2]), items_list([2, 3])))
    while not plan(world.deployment, run.run_id, part_shards=1, stop=lambda: True).sealed:
        pass

    assert [shard.items for shard in world.planned()] == [[1], [1], [2], [2], [3]]


def test_the_same_items_are_the_same_run_but_not_as_objects(world: World) -> None:
    uri = world.put(1)[0]
    run = new_run(world.deployment, request(world, items_list([uri])))

    assert new_run(world.deployment, request(world, items_list([uri]))).created_s == run.created_s
    with pytest.raises(RunExistsError, match="other lists"):
        new_run(world.deployment, request(world, ListRequest("-", json.dumps([uri]).encode(), "json")))


def test_a_damaged_item_is_never_handed_to_a_script(world: World) -> None:
    planned(world, items_list(["Ulm"]))
    uri = world.only_part()
    line = world.store.get(uri)

    with pytest.raises(PlanError, match="was planned"):
        world.shards()[0].planned(line.replace(b"Ulm", b"Bonn"), uri)


def test_a_preview_counts_items_and_their_bytes(world: World) -> None:
    found = preview(
        world.deployment, request(world, items_list(["Ulm", "Ulm", "Bonn"]), options=RunOptions(max_objects=2))
    )

    assert (found.shards, found.objects, found.size_bytes) == (2, 3, 16)
    assert found.largest_object == 'item "Ulm"'


# --- the planner function ---


def ask(world: World, **keys: Any) -> Any:
    event = {"script": SCRIPT, "output": "s3://data/out/", "run_id": "run-1", "max_objects": 1, **keys}
    return handle_request(world.deployment, event, PlannerSettings((SCRIPT,), 0, 0), "r-1", lambda: 900.0)


def test_a_request_carries_items_or_names_a_list_of_them(world: World) -> None:
    world.store.put(f"{LIST}.csv", b"city\nUlm\nUlm\n")
    lists = [{"source": f"{LIST}.csv", "items": True}]

    answer = ask(world, lists=lists, items=[{"city": "Bonn"}, 7])

    assert (answer["shards"], answer["sealed"]) == (4, True)
    cities = [[{"city": city}] for city in ("Ulm", "Ulm", "Bonn")]
    assert [shard.items for shard in world.planned()] == [*cities, [7]]


@pytest.mark.parametrize("keys", [{"items": "Ulm"}, {"lists": [{"source": LIST, "items": "yes"}]}, {"items": []}])
def test_a_request_with_odd_items_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises((EventError, SettingsError, PlanError)):
        ask(World(), **keys)
