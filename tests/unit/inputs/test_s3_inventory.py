"""S3 Inventory in each format: verified, decoded as AWS documents it, and read without requests for objects."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from sparklet.errors import PlanError
from sparklet.model import InputObject, ListSource, RunOptions
from sparklet.planning.inputs.lists import ListReader
from sparklet.planning.inputs.selection import Reason
from sparklet.planning.inventory import Inventory
from tests.stand_ins.memory import MemoryObjectStore
from tests.unit.inputs.written_lists import MANIFEST, SCHEMA, inventory_row, write_inventory, write_manifest

FORMS = ["CSV", "ORC", "Parquet"]
CHECKSUM = MANIFEST.replace("manifest.json", "manifest.checksum")
DATA_FILE = "s3://lists/inv/data/daily/data/0.csv.gz"
KEYS = ["a b+c%20.csv", "ü/日本?#.csv", 'quote",.csv', "new\nline", "//x/../y", "+", "plain.csv", "tr/"]


class NoHeads(MemoryObjectStore):
    """A store of which no object is asked for."""

    def head_all(self, addresses: Any) -> Any:
        assert not addresses
        return iter(())


def inventory(store: MemoryObjectStore, **options: Any) -> Inventory:
    reader = ListReader(ListSource(MANIFEST, "s3-inventory"), store)
    return Inventory(store, (), RunOptions(**options), [reader])


@pytest.mark.parametrize("form", FORMS)
def test_an_inventory_gives_all_that_planning_needs(form: str) -> None:
    store = NoHeads()
    rows = [inventory_row(key, n) for n, key in enumerate(KEYS, 1)]
    write_inventory(store, form, [rows[:5], [], rows[5:]])

    found = list(inventory(store).objects())

    objects = [InputObject(f"s3://data/{key}", n, f"etag-{key}") for n, key in enumerate(KEYS, 1)]
    assert [each.item for each in found] == objects
    for index, each in enumerate(found):
        assert list(inventory(store).objects(each.position)) == found[index + 1 :]


@pytest.mark.parametrize("form", FORMS)
def test_deleted_noncurrent_empty_and_old_objects_are_skipped(form: str) -> None:
    store = NoHeads()
    versions = [
        inventory_row("a", VersionId="v2"),
        inventory_row("a", VersionId="v1", IsLatest=False),
        inventory_row("gone", None, VersionId="v9", IsDeleteMarker=True, ETag="", StorageClass=""),
        inventory_row("gone", VersionId="v8", IsLatest=False),
    ]
    old = inventory_row("old", LastModifiedDate=datetime(2020, 1, 1, tzinfo=UTC))
    others = [inventory_row("folder/", 0), inventory_row("empty", 0), old, inventory_row("new")]
    write_inventory(store, form, [versions, others])
    current = inventory(store, modified_since_s=datetime(2026, 1, 1, tzinfo=UTC).timestamp())

    found = [(each.item.uri, each.item.version_id) for each in current.objects()]

    assert found == [("s3://data/a", ""), ("s3://data/new", "")]
    once = dict.fromkeys((Reason.DELETE_MARKER, Reason.FOLDER_MARKER, Reason.EMPTY, Reason.OLDER), 1)
    assert current.skipped == {Reason.NOT_LATEST: 2, **once}


def test_an_archived_object_is_checked_for_its_restoration() -> None:
    store = MemoryObjectStore()
    rows = [inventory_row("cold", StorageClass="GLACIER"), inventory_row("back", StorageClass="DEEP_ARCHIVE")]
    tier = [inventory_row("tier", StorageClass="INTELLIGENT_TIERING", IntelligentTieringAccessTier="ARCHIVE")]
    instant = [inventory_row("now", StorageClass="GLACIER_IR", IntelligentTieringAccessTier="")]
    every = [{"IntelligentTieringAccessTier": "", **row} for row in rows] + tier + instant
    write_inventory(store, "CSV", [every], f"{SCHEMA}, IntelligentTieringAccessTier")
    for key in ("cold", "back", "tier"):
        store.put(f"s3://data/{key}", b"cold")
    store.archive("s3://data/cold")
    store.archive("s3://data/tier")
    found = inventory(store, archived="skip")

    assert [each.item.uri for each in found.objects()] == ["s3://data/back", "s3://data/now"]
    assert found.skipped == {Reason.ARCHIVED: 2}
    assert found.named[Reason.ARCHIVED] == ["s3://data/cold", "s3://data/tier"]


def test_missing_sizes_are_requested_from_the_objects() -> None:
    store = MemoryObjectStore()
    store.put("s3://data/a b", b"12345")
    write_inventory(store, "CSV", [[inventory_row("a b")]], "Bucket, Key")
    (found,) = inventory(store).objects()
    assert (found.item.size_bytes, found.item.etag) == (5, store.head("s3://data/a b").etag)


def changed(uri: str) -> Callable[[MemoryObjectStore], object]:
    return lambda store: store.put(uri, store.get(uri) + b" ")


def gone(uri: str) -> Callable[[MemoryObjectStore], object]:
    return lambda store: store.delete(uri)


def rewritten(manifest: Any = None, **keys: Any) -> Callable[[MemoryObjectStore], object]:
    """Another manifest, or one with other keys, and the checksum that fits it."""
    return lambda store: write_manifest(
        store, MANIFEST, {**json.loads(store.get(MANIFEST)), **keys} if keys else manifest
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed(DATA_FILE), rf"data file {DATA_FILE} has the MD5 \w+, its manifest has \w+: it was changed"),
        (gone(DATA_FILE), "does not exist any more; give a newer manifest"),
        (changed(MANIFEST), r"has the MD5 \w+, its checksum file has '\w+': it was changed"),
        (gone(CHECKSUM), "has no manifest.checksum next to it: it is incomplete"),
        (rewritten([]), "is not a manifest of S3 Inventory"),
        (rewritten({"fileFormat": "CSV"}), "is not a manifest of S3 Inventory .*fileSchema.*; name its manifest.json"),
        (rewritten(files=[1]), "is not a manifest"),
        (rewritten(fileFormat="XML"), "is in XML; Sparklet reads CSV"),
        (rewritten(fileSchema="Key"), "no columns Bucket and Key"),
        (rewritten(fileSchema="Bucket, Key"), r"0.csv.gz, row 1: it has 9 columns, not 2 \(Bucket, Key\)"),
    ],
)
def test_an_inventory_that_is_not_as_s3_wrote_it_is_refused(
    damage: Callable[[MemoryObjectStore], object], message: str
) -> None:
    store = NoHeads()
    write_inventory(store, "CSV", [[inventory_row("a")], [inventory_row("b")]])
    damage(store)
    with pytest.raises(PlanError, match=message):
        list(inventory(store).objects())
