"""The inventory lists every object once, in order, from any position on; inputs without objects are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.errors import PlanError
from sparklet.model import Position, RunOptions
from sparklet.planning.inputs.selection import Reason
from sparklet.planning.inventory import Inventory, resolve_inputs
from tests.stand_ins.memory import MemoryObjectStore


def store_of(*uris: str) -> MemoryObjectStore:
    store = MemoryObjectStore()
    for uri in uris:
        store.put(uri, b"" if uri.endswith("/") else b"data")
    return store


def uris(inventory: Inventory, position: Position | None = None) -> list[str]:
    return [found.item.uri for found in inventory.objects(position or Position())]


def test_inputs_are_listed_in_their_order_and_keys_in_s3s_order() -> None:
    store = store_of("s3://b/z/1", "s3://b/a/2", "s3://b/a/10", "s3://b/single.csv")

    found = uris(Inventory(store, ("s3://b/z/", "s3://b/single.csv", "s3://b/a/")))

    assert found == ["s3://b/z/1", "s3://b/single.csv", "s3://b/a/10", "s3://b/a/2"]


@given(cut=st.integers(0, 11))
def test_a_listing_can_be_continued_behind_any_object(cut: int) -> None:
    store = store_of(*(f"s3://b/a/{n}" for n in range(5)), "s3://b/one", *(f"s3://b/c/{n}" for n in range(5)))
    inventory = Inventory(store, ("s3://b/c/", "s3://b/one", "s3://b/a/"))
    whole = list(inventory.objects())
    position = whole[cut - 1].position if cut else Position()

    assert list(inventory.objects(position)) == whole[cut:]


def test_folder_markers_are_skipped_and_counted() -> None:
    store = store_of("s3://b/a/", "s3://b/a/x/", "s3://b/a/_SUCCESS", "s3://b/a/.hidden", "s3://b/a/x/1.csv")
    store.put("s3://b/a/empty.csv", b"")
    store.put("s3://b/a/y/", b"data under a name like a folder's")
    inventory = Inventory(store, ("s3://b/a/",))

    found = uris(inventory)

    assert found == [f"s3://b/a/{n}" for n in ("x/1.csv", "y/")]
    assert inventory.skipped == {Reason.FOLDER_MARKER: 2, Reason.EMPTY: 1, Reason.HIDDEN: 2}
    kept = Inventory(store, ("s3://b/a/",), RunOptions(keep_empty=True))
    assert "s3://b/a/empty.csv" in uris(kept)
    assert kept.skipped == {Reason.FOLDER_MARKER: 2, Reason.HIDDEN: 2}


def test_hidden_objects_are_planned_only_with_the_option() -> None:
    hidden = ["_SUCCESS", "_temporary/0/a", ".x.crc", "d/._a.csv", "a._COPYING_", ".h/a.csv", "_metadata"]
    seen = ["_k=1/a.csv", "_metadata_of_2026.csv", "a_b.csv", "d/a.csv"]
    store = store_of(*(f"s3://b/a/{name}" for name in (*hidden, *seen)))

    inventory = Inventory(store, ("s3://b/a/",))
    assert uris(inventory) == [f"s3://b/a/{name}" for name in seen]
    assert inventory.skipped == {Reason.HIDDEN: len(hidden)}
    everything = Inventory(store, ("s3://b/a/",), RunOptions(hidden=True))
    assert uris(everything) == sorted(f"s3://b/a/{name}" for name in (*hidden, *seen))
    assert uris(Inventory(store, ("s3://b/a/_temporary/",))) == ["s3://b/a/_temporary/0/a"]  # the input
    assert uris(Inventory(store, ("s3://b/a/_SUCCESS",))) == ["s3://b/a/_SUCCESS"]


def test_patterns_see_the_key_below_the_folder() -> None:
    store = store_of("s3://b/2013/01/a.csv", "s3://b/2013/02/a.csv", "s3://b/2013/a.json")
    inventory = Inventory(store, ("s3://b/2013/",), RunOptions(include=("01/*",)))

    assert uris(inventory) == ["s3://b/2013/01/a.csv"]
    assert inventory.skipped == {Reason.NOT_INCLUDED: 2}


def test_odd_keys_are_taken_literally() -> None:
    names = ["a b.csv", "a%20b.csv", "ü.csv", "a+b.csv", "q?x=1#f", "x//y.csv"]
    store = store_of(*(f"s3://b/a/{name}" for name in names))
    inventory = Inventory(store, ("s3://b/a/",))

    found = list(inventory.objects())

    assert sorted(each.item.uri for each in found) == sorted(f"s3://b/a/{name}" for name in names)
    for index, each in enumerate(found):
        assert list(inventory.objects(each.position)) == found[index + 1 :]


# --- resolving ---


@pytest.mark.parametrize(
    ("given_inputs", "resolved"),
    [
        (["s3://b/a", "s3://b/c"], ("s3://b/a", "s3://b/c/")),  # an object if there is one, else a folder
        (["s3://b", "s3a://c/x"], ("s3://b/", "s3://c/x/")),
        # No overlap.
        (["s3://b/a/", "s3://b/ab/", "s3://b/a.csv"], ("s3://b/a/", "s3://b/ab/", "s3://b/a.csv")),
    ],
)
def test_objects_folders_and_buckets_are_inputs(given_inputs: list[str], resolved: tuple[str, ...]) -> None:
    store = store_of("s3://b/a", "s3://b/a/1", "s3://b/ab/1", "s3://b/a.csv", "s3://b/c/1", "s3://c/x/1")
    assert resolve_inputs(store, given_inputs) == resolved


@pytest.mark.parametrize(
    "given_inputs", [("s3://b/a/", "s3://b/a/x/"), ("s3://b/a/x/1", "s3://b/a/"), ("s3://b/a", "s3://b/a/")]
)
def test_inputs_that_overlap_are_refused(given_inputs: tuple[str, str]) -> None:
    store = store_of("s3://b/a/x/1", "s3://b/a/y")
    with pytest.raises(PlanError, match=r"processed twice"):
        resolve_inputs(store, given_inputs)


@pytest.mark.parametrize(
    ("given_inputs", "message"),
    [
        ([], "no input was given"),
        (["./data"], "must look like s3://bucket/folder/"),
        (["http://b/a"], "must look like"),
        (["s3:///a"], "must look like"),
        (["s3://b/nothing/"], r"s3://b/nothing/ is empty"),
        (["s3://b/a/1", "s3://b/typo"], r"s3://b/typo is empty"),
        (["s3://b/a/1x"], "is empty"),
    ],
)
def test_an_invalid_input_is_named(given_inputs: list[str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        resolve_inputs(store_of("s3://b/a/1", "s3://b/a/1xy"), given_inputs)


# --- objects that changed during the plan ---


def test_an_object_with_unplanned_slices_is_listed_again() -> None:
    store = store_of("s3://b/a/1", "s3://b/a/2")
    store.archive("s3://b/a/1")
    inventory = Inventory(store, ("s3://b/a/",), RunOptions(modified_since_s=1e12))
    assert uris(inventory, Position(0, "a/1", slices=2)) == ["s3://b/a/1"]
    store.delete("s3://b/a/1")
    assert uris(inventory, Position(0, "a/1", slices=2)) == []
    assert inventory.skipped[Reason.MISSING] == 1


def test_a_single_object_that_vanished_is_counted() -> None:
    inventory = Inventory(store_of("s3://b/2"), ("s3://b/1", "s3://b/2"))
    assert uris(inventory) == ["s3://b/2"]
    assert inventory.skipped == {Reason.MISSING: 1}
