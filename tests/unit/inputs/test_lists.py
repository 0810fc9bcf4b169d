"""Lists as input: each object once, facts that a list lacks are looked up, and a changed list is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.errors import ObjectForbiddenError, PlanError, RunExistsError, SettingsError
from sparklet.model import Access, InputObject, ListSource, Position, RunOptions
from sparklet.planning.inputs.list_requests import ListRequest
from sparklet.planning.inputs.lists import ListReader
from sparklet.planning.inputs.selection import Reason
from sparklet.planning.inventory import Inventory
from sparklet.planning.new_run import new_run
from sparklet.planning.packing import preview
from sparklet.planning.planner import plan
from tests.stand_ins.memory import FakeClock, MemoryObjectStore
from tests.world import BUCKET, World

LIST = "s3://lists/files.jsonl"
MANY = b"data/in/00000.csv\n" * 5000


def reader(store: MemoryObjectStore, *rows: object, name: str = LIST) -> ListReader:
    etag = store.put(name, "\n".join(map(json.dumps, rows)).encode())
    return ListReader(ListSource(name, "jsonl", etag=etag), store)


def store_with(*keys: str) -> MemoryObjectStore:
    store = MemoryObjectStore(versioned=["data"])
    for key in keys:
        store.put(f"s3://data/{key}", b"" if key.endswith("0") else b"data")
    return store


def names(inventory: Inventory, position: Position = Position()) -> list[str]:  # noqa: B008
    return [each.item.uri.removeprefix("s3://data/") for each in inventory.objects(position)]


def test_listed_objects_follow_the_inputs_each_once() -> None:
    store = store_with("z", "in/1", "in/2", "a", "b")
    again = reader(store, "data/b", "data/a", "data/b", name="s3://lists/2.jsonl")
    inventory = Inventory(store, ("s3://data/in/",), lists=[reader(store, "data/z", "data/in/1", "data/a"), again])

    assert names(inventory) == ["in/1", "in/2", "z", "a", "b"]
    assert inventory.skipped == {Reason.DUPLICATE: 3}


def test_facts_missing_from_a_list_are_requested() -> None:
    store = store_with("a", "b")
    listed_row = {"uri": "s3://data/b", "size": 99, "etag": '"mine"'}
    found = [each.item for each in Inventory(store, (), lists=[reader(store, "data/a", listed_row)]).objects()]
    assert found == [
        InputObject("s3://data/a", 4, store.head("s3://data/a").etag),
        InputObject("s3://data/b", 99, "mine"),
    ]


def test_versions_that_a_list_names_are_objects_of_their_own() -> None:
    store = MemoryObjectStore(versioned=["data"])
    store.put("s3://data/a", b"1234")
    store.put("s3://data/a", b"newer")
    old = store.versions("s3://data/a")[1]
    rows = [
        {"uri": "s3://data/a", "version_id": old},
        {"uri": "s3://data/a"},
        {"bucket": "data", "key": "a", "versionId": old},
        {"uri": "s3://data/a", "version_id": "gone"},
    ]
    inventory = Inventory(store, (), lists=[reader(store, *rows)])
    assert [(each.item.size_bytes, each.item.version_id) for each in inventory.objects()] == [(4, old), (5, "")]
    assert inventory.skipped == {Reason.DUPLICATE: 1, Reason.MISSING: 1}


def test_every_listed_object_is_planned_or_counted() -> None:
    store = store_with("a", "empty0", "cold", "not.csv")
    store.put("s3://data/folder/", b"")
    store.archive("s3://data/cold")
    rows = ["data/a", "data/gone", "data/empty0", "data/cold", "data/folder/", "data/a", "data/not.csv"]
    options = RunOptions(exclude=("*.csv",), archived="skip")
    inventory = Inventory(store, (), options, [reader(store, *rows)])
    assert names(inventory) == ["a"]
    reasons = (Reason.MISSING, Reason.EMPTY, Reason.ARCHIVED, Reason.FOLDER_MARKER, Reason.DUPLICATE, Reason.EXCLUDED)
    assert inventory.skipped == dict.fromkeys(reasons, 1)


def test_a_forbidden_object_stops_planning_and_is_named() -> None:
    class Closed(MemoryObjectStore):
        def head_all(self, addresses: Any) -> Any:
            raise ObjectForbiddenError(f"{addresses[0][0]} may not be accessed")

    store = Closed()
    with pytest.raises(ObjectForbiddenError, match="s3://data/secret may not be accessed"):
        list(Inventory(store, (), lists=[reader(store, "data/secret")]).objects())


def test_since_uses_the_time_in_the_list_or_the_stores() -> None:
    clock = FakeClock()
    store = MemoryObjectStore(clock)
    store.put("s3://data/old", b"1")
    clock.advance(100)
    store.put("s3://data/new", b"1")
    # It is not in the store, so that its time can only be that of the list.
    listed_row = {"uri": "s3://data/with-time", "size": 1, "last_modified": "2001-01-01T00:00:00Z"}
    rows = [{"uri": "s3://data/old", "size": 1}, {"uri": "s3://data/new", "size": 1}, listed_row]
    inventory = Inventory(store, (), RunOptions(modified_since_s=clock.now_s()), [reader(store, *rows)])
    assert names(inventory) == ["new"]
    assert inventory.skipped == {Reason.OLDER: 2}


@given(
    rows=st.lists(st.integers(0, 12), max_size=40), cut=st.integers(0, 40), slices=st.booleans(), folder=st.booleans()
)
def test_a_plan_can_be_resumed_behind_any_row_without_duplicates(
    rows: list[int], cut: int, slices: bool, folder: bool
) -> None:
    store = store_with(*(f"k{n}" for n in range(11)))  # 0 and 10 are empty, 11 and 12 are not there
    inputs = ("s3://data/k1",) if folder else ()
    planned: list[InputObject] = []

    def inventory() -> Inventory:
        lists = [reader(store, *(f"data/k{n}" for n in rows))]
        return Inventory(store, inputs, lists=lists, read_planned=lambda: iter(planned))

    first = inventory()
    whole = list(first.objects())
    cut = min(cut, len(whole))
    planned.extend(each.item for each in whole[:cut])
    at = whole[cut - 1].position if cut else Position()
    again, expected = inventory(), whole[cut:]
    if slices and cut:
        at, expected = Position(at.source, at.after, slices=2), whole[cut - 1 :]

    found = list(again.objects(at))

    assert [(each.item, each.position) for each in found] == [(each.item, each.position) for each in expected]
    before = sum(whole[cut - 1].skipped.values()) if cut else 0
    assert before + sum(again.skipped.values()) == sum(first.skipped.values())
    assert len(whole) + sum(first.skipped.values()) == len(rows) + len(inputs)


# --- runs ---


def listed(world: World, *uris: str, name: str = "s3://data/lists/files.txt") -> ListRequest:
    world.store.put(name, "\n".join(uris).encode())
    return ListRequest(name)


def test_a_run_over_a_list_is_planned_like_any_other(world: World) -> None:
    uris = world.put(7)
    request = world.request(inputs=(), lists=(listed(world, *reversed(uris), uris[0], "s3://data/gone"),))
    request = replace(request, options=replace(request.options, missing="skip"))

    new_run(world.deployment, request)
    run = plan(world.deployment, "run-1", part_shards=2)

    assert world.taken() == uris[::-1]
    assert (run.object_count, run.skipped) == (7, {Reason.DUPLICATE: 1, Reason.MISSING: 1})
    source = request.lists[0].source
    assert run.lists == (ListSource(source, "lines", world.store.head(source).etag),)
    seen = preview(world.deployment, request)
    assert (seen.shards, seen.objects, seen.skipped) == (run.shard_count, 7, run.skipped)


def test_a_list_from_a_file_or_stdin_is_stored_with_the_run(world: World) -> None:
    uris = world.put(3)
    body = "\n".join(uris).encode()
    request = world.request(inputs=(), lists=(ListRequest("-", body),))

    run = new_run(world.deployment, request)
    plan(world.deployment, "run-1")

    (source,) = run.lists
    assert source.uri.startswith(f"s3://{BUCKET}/runs/run-1/lists/0-") and world.store.get(source.uri) == body
    assert world.taken() == uris
    assert new_run(world.deployment, request).run_id == "run-1"
    with pytest.raises(RunExistsError, match="with other lists"):
        new_run(world.deployment, world.request(inputs=(), lists=(ListRequest("-", body + b"\n"),)))
    assert preview(world.deployment, request).objects == 3


def test_a_list_changed_after_the_run_was_created_is_refused(world: World) -> None:
    uris = world.put(3)
    request = world.request(inputs=(), lists=(listed(world, *uris),))
    new_run(world.deployment, request)
    listed(world, *uris[:2])
    listed_row = "files.txt was changed since the run was created, so its plan cannot continue; put"
    with pytest.raises(PlanError, match=listed_row):
        plan(world.deployment, "run-1")
    listed(world, *uris)
    plan(world.deployment, "run-1")
    assert world.taken() == uris


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (ListRequest("s3://data/none.csv"), PlanError, "the list s3://data/none.csv is not there"),
        (ListRequest("./files.csv"), PlanError, "must be in S3"),
        (ListRequest("s3://data/jobs/daily.py"), PlanError, "does not show its format"),
        (
            ListRequest("-", b"x", format="xml"),
            SettingsError,
            "the list format 'xml' is unknown; it must be one of lines",
        ),
        (ListRequest("manifest.json", b"{}"), PlanError, "a local copy without its checksum; give its s3:// address"),
        (ListRequest("-", MANY + b"hello"), PlanError, "the list -, row 5001: 'hello' does not name an object"),
        (ListRequest("-", b"data/gone\n"), PlanError, "1 object not there|left out: 1 named but not"),
        (ListRequest("-", b""), PlanError, "the input - has nothing to plan; left out: nothing"),
        (ListRequest("-", b"[]", "json", items=True), PlanError, "the input - has nothing to plan"),
        (ListRequest("-", b"Ulm\n\xff", items=True), PlanError, "the list -.*: it is not UTF-8"),
        (ListRequest("s3://inv/manifest.json", items=True), PlanError, "is an S3 Inventory, which lists objects"),
    ],
)
@pytest.mark.parametrize(("archived", "limit"), [("refuse", 9_999), ("skip", 9_999), ("skip", 0)])
def test_an_invalid_list_is_refused_before_the_run_is_created(
    world: World, given: ListRequest, error: type[Exception], message: str, archived: str, limit: int
) -> None:
    """The list is refused even if no other check reads it to its end."""
    world.put(1)
    options = RunOptions(archived=archived, missing=archived, limit=limit)
    with pytest.raises(error, match=message):
        new_run(world.deployment, world.request(inputs=(), lists=(given,), options=options))
    assert world.keys(f"s3://{BUCKET}/") == []
    assert list(world.ledger.runs.list()) == []


def test_archived_objects_are_refused_with_count_and_examples(world: World) -> None:
    uris = world.put(9)
    for uri in uris[2:7]:
        world.store.archive(uri)
    with pytest.raises(PlanError, match=rf"5 archived objects .*{uris[2]}, {uris[3]}, {uris[4]} and 2 more; restore"):
        new_run(world.deployment, world.request())
    assert list(world.ledger.runs.list()) == []
    with pytest.raises(PlanError, match="5 archived objects"):
        preview(world.deployment, world.request())

    run = world.plan(options=RunOptions(archived="skip"))
    assert world.taken() == uris[:2] + uris[7:]
    assert run.skipped == {Reason.ARCHIVED: 5}


@pytest.mark.parametrize("archived", ["refuse", "skip"])
def test_more_objects_than_the_limit_are_refused(world: World, archived: str) -> None:
    world.put(5)
    world.put(2, folder="s3://data/listed/")
    world.store.put("s3://data/list.txt", b"s3://data/listed/00000.csv\ns3://data/listed/00001.csv\n")
    request = world.request(lists=(ListRequest("s3://data/list.txt"),))

    def limited(limit: int) -> RunOptions:
        return RunOptions(limit=limit, archived=archived, max_objects=1)

    with pytest.raises(PlanError, match=r"more than 6 objects.*--limit"):
        new_run(world.deployment, replace(request, options=limited(6)))
    assert world.deployment.known_run("run-1") is None
    new_run(world.deployment, replace(request, options=limited(7)))
    new_run(world.deployment, replace(request, options=limited(0), run_id="run-2", output_uri="s3://data/out-2/"))


def test_an_object_archived_during_planning_is_skipped(world: World) -> None:
    uris = world.put(4)
    new_run(world.deployment, world.request())
    world.store.archive(uris[2])
    assert plan(world.deployment, "run-1").skipped == {Reason.ARCHIVED: 1}


@pytest.mark.parametrize("by", ["input", "list"])
def test_a_bucket_of_another_region_is_refused(world: World, by: str) -> None:
    world.store.regions = {"far": "eu-west-1"}
    world.store.put("s3://far/in/1", b"x")
    more = {"inputs": ("s3://far/in/",)} if by == "input" else {"inputs": (), "lists": (ListRequest("-", b"far/in/1"),)}
    with pytest.raises(PlanError, match=r"the bucket far is in eu-west-1, not in this region: run Sparklet there"):
        new_run(world.deployment, world.request(**more))
    assert list(world.ledger.runs.list()) == []


def test_only_inputs_are_read_with_the_requested_access(world: World) -> None:
    theirs = MemoryObjectStore(world.clock)
    theirs.put("s3://theirs/in/1", b"x")
    theirs.put("s3://theirs/list.txt", b"theirs/in/2")
    theirs.put("s3://theirs/in/2", b"xy")
    access = Access(requester_pays=True, role_arn="arn:aws:iam::111122223333:role/reader")
    deployment = replace(world.deployment, open_inputs={access: theirs}.__getitem__)
    request = world.request(
        inputs=("s3://theirs/in/1",),
        lists=(ListRequest("s3://theirs/list.txt"), ListRequest("-", b"theirs/in/2\ntheirs/in/1")),
        access=access,
    )

    run = new_run(deployment, request)
    plan(deployment, "run-1")

    assert run.access == access == world.ledger.runs.get("run-1").access
    assert world.taken() == ["s3://theirs/in/1", "s3://theirs/in/2"]
    assert [info.uri for info in theirs.list("s3://sparklet/")] == []
    with pytest.raises(SettingsError, match="with its own access only"):
        new_run(world.deployment, replace(request, run_id="run-2"))
