"""Runs of items: each row of a list is in exactly one shard, as often as it is listed, or the run is refused."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparklet.errors import EventError, PlanError, RunExistsError, SettingsError
from sparklet.model import InputObject, ListSource, RunOptions, Shard
from sparklet.planning.inputs.list_requests import ListRequest
from sparklet.planning.inputs.lists import MAX_ITEM_BYTES, MAX_ITEM_DEPTH, ListReader
from sparklet.planning.new_run import new_run
from sparklet.planning.packing import MAX_ITEMS_BYTES, preview
from sparklet.planning.plan_requests import handle_request
from sparklet.planning.planner import plan
from sparklet.settings import PlannerSettings
from tests.stand_ins.memory import MemoryObjectStore
from tests.unit.inputs.test_list_formats import parquet
from tests.world import SCRIPT, SOURCE, World

LIST = "s3://lists/cities"
CITIES = [{"city": "Ulm", "since": "854"}, {"city": "Köln, am Rhein", "since": ""}, {"city": "Ulm", "since": "854"}]
AFTER_9999 = [{"day": pa.scalar(2_932_897, pa.date32())}]
CSV = 'city,since\nUlm,854\n"Köln, am Rhein",\n\nUlm,854\n'.encode()


def items(body: bytes, form: str) -> list[Any]:
    """Every item of a list, and the same whichever item reading begins behind."""
    store = MemoryObjectStore()
    store.put(LIST, body)
    reader = ListReader(ListSource(LIST, form, items=True), store)
    found = list(reader.items())
    for index in {0, len(found) // 2, len(found) - 1} if found else ():
        assert list(reader.items(found[index][0])) == found[index + 1 :]
    return [json.loads(item.item) for _, item in found]


def request(world: World, *lists: ListRequest, **changes: Any) -> Any:
    return world.request(**{"inputs": (), "lists": lists, "options": RunOptions(max_objects=1), **changes})


def of(values: list[Any]) -> ListRequest:
    return ListRequest("-", json.dumps(values).encode(), "json", items=True)


def planned(world: World, *lists: ListRequest, **changes: Any) -> list[list[Any]]:
    plan(world.deployment, new_run(world.deployment, request(world, *lists, **changes)).run_id)
    return [shard.items for shard in world.planned()]


# --- formats ---


@pytest.mark.parametrize(
    ("form", "body", "expected"),
    [
        ("lines", "Ulm\n\nKöln\r\nUlm".encode(), ["Ulm", "Köln", "Ulm"]),
        ("csv", CSV, CITIES),
        ("csv", b"\xef\xbb\xbf" + CSV, CITIES),
        ("csv", b",city\n7,Ulm\n", [{"_c0": "7", "city": "Ulm"}]),  # with the index of pandas
        ("csv", b"uri,bucket,key\na,b,c\n", [{"uri": "a", "bucket": "b", "key": "c"}]),
        ("json", json.dumps([1, "a", None, {"b": [True]}]).encode(), [1, "a", None, {"b": [True]}]),
        ("jsonl", b'{"id": 1.5}\n\n7\n[8, 9]\n', [{"id": 1.5}, 7, [8, 9]]),
    ],
)
def test_each_row_is_an_item(form: str, body: bytes, expected: list[Any]) -> None:
    assert items(body, form) == expected


def test_all_columns_of_parquet_are_in_an_item() -> None:
    more = {"uri": "no", "price": Decimal("1.10"), "at": datetime(2026, 1, 1, tzinfo=UTC)}
    rows = [{"day": date(2026, 11, n), **more} for n in (1, 2, 3)]

    assert items(parquet(rows), "parquet")[0] == {
        "uri": "no",
        "day": "2026-11-01",
        "price": "1.10",
        "at": "2026-01-01T00:00:00+00:00",
    }


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.dictionaries(st.text(), inner, max_size=4) | st.lists(inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(JSON_VALUES, max_size=4))
def test_any_item_comes_back_from_its_plan_part(values: list[Any]) -> None:
    shard = Shard(3, tuple(InputObject.of_item(value) for value in values))

    read = Shard.from_line(shard.to_line())

    assert (read, read.items, read.inputs) == (shard, values, [])


# --- what is refused ---


@pytest.mark.parametrize(
    ("form", "body", "words"),
    [
        ("csv", b"city\nUlm\n\xff\n", "not UTF-8"),
        ("csv", b"a,b\n1,2\n1,2,3\n", "row 3: it has 3 columns"),
        ("csv", b"a,a\n1,2\n", "row 1: each column needs a name"),
        ("csv", b",_c0\n1,2\n", "row 1: each column needs a name"),
        ("lines", b"ok\n\xff\n", "not UTF-8"),
        ("jsonl", b"1\nNaN\n", "row 2: the item cannot be written as JSON"),
        ("jsonl", b'1\n"\\ud800"\n', "row 2: the item cannot be written as JSON"),
        ("jsonl", b"1\n" + b'{"a":' * (MAX_ITEM_DEPTH + 1) + b"1" + b"}" * (MAX_ITEM_DEPTH + 1), "row 2: .* deeper"),
        ("jsonl", b'{"a":' * 100_000, "row 1: it is no JSON"),
        ("lines", b"ok\n" + b"x" * MAX_ITEM_BYTES, "row 2: the item has 65,538 bytes"),
        ("parquet", parquet([{"b": b"\x00"}]), "row 1: the item holds a bytes"),
        ("parquet", parquet(AFTER_9999), "a date or time in it is beyond the year 9999"),
    ],
)
def test_a_bad_list_is_refused_before_any_work(world: World, form: str, body: bytes, words: str) -> None:
    world.store.put(LIST, body)

    with pytest.raises(PlanError, match=f"the list {LIST}.*{words}") as refused:
        new_run(world.deployment, request(world, ListRequest(LIST, None, form, items=True)))

    assert len(str(refused.value)) < 400
    assert not list(world.ledger.runs.list()) and not world.keys("s3://sparklet/")


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
        with pytest.raises(PlanError, match="items are no objects"):
            begin(world.deployment, request(world, of([1]), options=options))


def test_items_and_objects_are_not_mixed(world: World) -> None:
    uri = world.put(1)[0]
    for changes in ({"inputs": (SOURCE,)}, {"lists": (of([1]), ListRequest("-", uri.encode()))}):
        with pytest.raises(PlanError, match="items or objects, not both"):
            new_run(world.deployment, request(world, of([1]), **changes))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (ListRequest("s3://inv/manifest.json", items=True), "lists objects"),
        (ListRequest("-", b"[]", "json", items=True), "nothing to plan"),
    ],
)
def test_a_list_without_items_is_refused(world: World, given: ListRequest, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        new_run(world.deployment, request(world, given))


# --- planning ---


def test_items_are_packed_by_number_and_each_is_planned(world: World) -> None:
    assert planned(world, of([1, 2, 2, 1, 5]), options=RunOptions(max_objects=2)) == [[1, 2], [2, 1], [5]]
    assert [record.object_count for record in world.shards()] == [2, 2, 1]
    assert world.ledger.runs.get("run-1").object_count == 5
    assert all("items" not in body.to_body() for body in world.bodies())


def test_the_items_of_a_shard_are_bounded_in_bytes() -> None:
    value = "x" * (MAX_ITEM_BYTES - 2)

    shards = planned(World(), of([value] * 20), options=RunOptions())

    assert [len(shard) for shard in shards] == [16, 4] and 16 * MAX_ITEM_BYTES == MAX_ITEMS_BYTES


def test_a_plan_that_was_broken_off_goes_on_behind_its_last_item(world: World) -> None:
    run = new_run(world.deployment, request(world, of([1, 1, 2]), of([2, 3])))
    while not plan(world.deployment, run.run_id, part_shards=1, stop=lambda: True).sealed:
        pass

    assert [shard.items for shard in world.planned()] == [[1], [1], [2], [2], [3]]


def test_the_same_items_are_the_same_run_unlike_objects(world: World) -> None:
    uri = world.put(1)[0]
    run = new_run(world.deployment, request(world, of([uri])))

    assert new_run(world.deployment, request(world, of([uri]))).created_s == run.created_s
    with pytest.raises(RunExistsError, match="other lists"):
        new_run(world.deployment, request(world, ListRequest("-", json.dumps([uri]).encode(), "json")))


def test_a_damaged_item_is_never_handed_to_a_script(world: World) -> None:
    planned(world, of(["Ulm"]))
    uri = world.only_part()
    line = world.store.get(uri)

    with pytest.raises(PlanError, match="was planned"):
        world.shards()[0].planned(line.replace(b"Ulm", b"Bonn"), uri)


def test_a_preview_counts_items_and_their_bytes(world: World) -> None:
    found = preview(world.deployment, request(world, of(["Ulm", "Ulm", "Bonn"]), options=RunOptions(max_objects=2)))

    assert (found.shards, found.objects, found.size_bytes) == (2, 3, 16)
    assert found.largest_object == 'item "Ulm"'


# --- the planner function ---


def ask(world: World, **keys: Any) -> Any:
    event = {"script": SCRIPT, "output": "s3://data/out/", "run_id": "run-1", "max_objects": 1, **keys}
    return handle_request(world.deployment, event, PlannerSettings((SCRIPT,), 0, 0), "r-1", lambda: 900.0)


def test_a_request_carries_items_or_names_a_list_of_them(world: World) -> None:
    world.store.put(f"{LIST}.csv", CSV)
    lists = [{"source": f"{LIST}.csv", "items": True}]

    answer = ask(world, lists=lists, items=[{"city": "Bonn"}, 7])

    assert (answer["shards"], answer["sealed"]) == (5, True)
    shards = [shard.items for shard in world.planned()]
    assert shards == [*([city] for city in CITIES), [{"city": "Bonn"}], [7]]


@pytest.mark.parametrize("keys", [{"items": "Ulm"}, {"lists": [{"source": LIST, "items": "yes"}]}, {"items": []}])
def test_a_request_with_odd_items_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises((EventError, SettingsError, PlanError)):
        ask(World(), **keys)
