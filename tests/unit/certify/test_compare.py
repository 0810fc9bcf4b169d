"""What a comparison finds: nothing between equal multisets, and every single change."""

import struct
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.certify.compare import Difference, Staged, canonical, differences, equal, unstable
from sparklet.certify.staged import dataset, read_folder

PLACE = "shard 0, output"
FLOATS = st.floats(width=64)
TAG = {"key": st.none() | st.text(), "weight": st.none() | FLOATS}
COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "id": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "name": (pa.string(), st.text(max_size=5)),
    "share": (pa.float64(), FLOATS),
    "price": (pa.decimal128(18, 2), st.decimals(-(10**15), 10**15, places=2, allow_nan=False)),
    "at": (pa.timestamp("us", tz="UTC"), st.integers(-(2**62), 2**62)),
    "day": (pa.date32(), st.integers(-(2**31), 2**31 - 1)),
    "tags": (
        pa.list_(pa.struct({"key": pa.string(), "weight": pa.float64()})),
        st.lists(st.none() | st.fixed_dictionaries(TAG), max_size=2),
    ),
    "body": (pa.binary(), st.binary(max_size=3)),
}
SCHEMA = pa.schema({name: kind for name, (kind, _) in COLUMNS.items()})
VALUES = {name: values for name, (_, values) in COLUMNS.items()}
ROWS = st.lists(st.fixed_dictionaries({name: st.none() | each for name, each in VALUES.items()}), max_size=8)
Row = dict[str, Any]


def staged(rows: Sequence[Row], schema: pa.Schema = SCHEMA) -> Staged:
    return Staged({}, {PLACE: dataset(schema, pa.Table.from_pylist(list(rows), schema))})


def found(first: Sequence[Row], second: Sequence[Row], tolerance: float = 0.0) -> list[Difference]:
    return [*differences(staged(first), staged(second), tolerance)]


def bits(value: Any) -> Any:
    """What must be the same for two values to be equal, by another way than the comparer's."""
    if isinstance(value, float):
        return b"nan" if value != value else struct.pack(">d", value)
    if isinstance(value, list):
        return ("list", *map(bits, value))
    if isinstance(value, dict):
        return ("struct", *((name, bits(each)) for name, each in value.items()))
    return type(value).__name__, value


@given(ROWS, st.randoms())
def test_equal_rows_in_any_order_are_equal(rows: list[Row], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))

    assert found(rows, shuffled) == []


@given(rows=ROWS, cut=st.integers(0, 8))
def test_files_may_be_cut_anywhere(tmp_path_factory: pytest.TempPathFactory, rows: list[Row], cut: int) -> None:
    tables = [pa.Table.from_pylist(part, SCHEMA) for part in (rows, rows[cut:], rows[:cut])]
    paths = [tmp_path_factory.mktemp("files") / "part.parquet" for _ in tables]
    for path, table in zip(paths, tables, strict=True):
        pq.write_table(table, path)

    whole, parts = (Staged({}, {PLACE: read_folder(each)}) for each in (paths[:1], paths[1:]))

    assert [*differences(whole, parts)] == []


@given(ROWS.filter(len), st.data())
def test_each_changed_value_is_found_by_its_column(rows: list[Row], data: Any) -> None:
    changed = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.sampled_from(SCHEMA.names))
    value = data.draw(st.none() | VALUES[column])
    other = [row | {column: value} if n == changed else row for n, row in enumerate(rows)]

    told = found(rows, other)

    if bits(rows[changed][column]) == bits(value):
        assert told == []
    else:
        assert told and all(each.column in (column, "") for each in told)
        assert found(other, rows)


@given(ROWS.filter(len), st.data())
def test_a_row_that_comes_once_more_is_found(rows: list[Row], data: Any) -> None:
    doubled = [*rows, data.draw(st.sampled_from(rows))]

    assert [each.kind for each in found(rows, doubled)] == ["row"]
    assert [each.kind for each in found(doubled, rows)] == ["row"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (0.0, -0.0),
        (1.0, 1.0000000000000002),
        (float("nan"), None),
        (float("inf"), float("-inf")),
        (Decimal("1.0"), Decimal("1.00")),
        ("", None),
        ("1", 1),
        (True, 1),
        (b"a", b"b"),
        (b"\x82", b"\x83"),
        ([], None),
        ([None], []),
        ([1, 2], [2, 1]),
        ({"a": None}, None),
        ({"a": -0.0}, {"a": 0.0}),
        ([("k", 1)], [("k", None)]),
    ],
)
def test_values_that_are_not_the_same(first: object, second: object) -> None:
    assert canonical(first) != canonical(second)
    assert not equal(first, second, 0.0)


def test_nan_is_nan_and_maps_have_no_order() -> None:
    assert equal(float("nan"), struct.unpack(">d", bytes.fromhex("fff8000000000001"))[0], 0.0)
    assert equal([("a", 1), ("b", [("c", 2)])], [("b", [("c", 2)]), ("a", 1)], 0.0)


def test_a_difference_has_column_key_and_both_values() -> None:
    rows = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "c"}]

    [told] = found(rows, [rows[0], rows[1] | {"name": "B"}, rows[2]])

    assert (told.place, told.column, told.first, told.second) == (PLACE, "name", "'b'", "'B'")
    assert told.key.startswith("id=2")


def test_a_missing_row_hides_no_other_difference() -> None:
    rows = [{"id": n, "name": str(n)} for n in range(4)]

    told = found(rows, [rows[0], rows[2] | {"name": "two"}, rows[3]])

    assert [(each.kind, each.column) for each in told] == [("row", ""), ("value", "name")]


@pytest.mark.parametrize(("tolerance", "differing"), [(0.0, 2), (1e-12, 1), (1e-3, 0)])
def test_floats_differ_by_more_than_a_given_tolerance(tolerance: float, differing: int) -> None:
    rows: list[Row] = [{"id": 1, "share": 1.0}, {"id": 2, "tags": [{"key": "k", "weight": 100.0}]}]
    other: list[Row] = [{"id": 1, "share": 1.0000000000000002}, {"id": 2, "tags": [{"key": "k", "weight": 100.001}]}]

    assert len(found(rows, other, tolerance)) == differing
    assert len(found([{"id": 1, "name": "1.0"}], [{"id": 1, "name": "1.00"}], tolerance)) == 1


def test_facts_differ_unless_their_shard_has_failed() -> None:
    fact = ("type", "shard 1, output", "id")
    first = Staged({fact: "int", ("answer", "shard 2", ""): "1"}, {})
    failed = Staged({("failure", "shard 1", ""): "ScriptFailedError", ("answer", "shard 2", ""): "1"}, {})

    assert [each.kind for each in differences(first, Staged({**first.facts, fact: "bigint"}, {}))] == ["type"]
    assert [each.kind for each in differences(first, failed)] == ["failure"]
    assert [*differences(failed, Staged({**failed.facts, ("failure", "shard 1", ""): "another"}, {}))] == []


def test_what_differs_from_itself_is_never_compared() -> None:
    first = [{"id": 1, "name": "a", "share": 0.25}, {"id": 2, "name": "b", "share": 0.5}]
    again = [{**row, "share": 0.75} for row in first]
    second = [{"id": 1, "name": "a", "share": 0.1}, {"id": 2, "name": "B", "share": 0.2}]

    noise = unstable(staged(first), staged(again))

    assert set(noise) == {("value", PLACE, "share")}
    assert [each.column for each in differences(staged(first), staged(second), ignored=noise)] == ["name"]
    sampled = unstable(staged(first), staged(first[:1]))
    assert [*differences(staged(first), staged([]), ignored=sampled)] == []


def test_columns_of_one_type_are_compared_beside_others() -> None:
    rows = [{"id": 1, "name": "a", "share": 1.0}]
    narrow = SCHEMA.set(2, pa.field("share", pa.float32()))

    told = differences(staged(rows), staged([rows[0] | {"name": "b"}], narrow))

    assert [(each.column, each.first, each.second) for each in told] == [("name", "'a'", "'b'")]


def test_texts_that_are_no_utf_8_are_compared(tmp_path: Path) -> None:
    for name, body in (("a", b"\x82"), ("b", b"\x83"), ("c", b"\x82")):
        texts = pa.Array.from_buffers(pa.string(), 1, pa.array([body], pa.binary()).buffers())
        pq.write_table(pa.table({"text": texts}), tmp_path / f"{name}.parquet")
    first, other, same = (Staged({}, {PLACE: read_folder([tmp_path / f"{each}.parquet"])}) for each in "abc")

    assert [(each.first, each.second) for each in differences(first, other)] == [(repr(b"\x82"), repr(b"\x83"))]
    assert [*differences(first, same)] == []


def test_types_are_sparks_and_nullability_is_known(tmp_path: Path) -> None:
    inner = pa.struct([pa.field("zip", pa.int32(), nullable=False)])
    schema = pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("early", pa.timestamp("us")),
            pa.field("prices", pa.map_(pa.string(), pa.decimal128(9, 1))),
            pa.field("places", pa.list_(inner)),
        ]
    )
    pq.write_table(pa.Table.from_pylist([], schema), tmp_path / "a.parquet")
    moments = pa.table({"early": pa.array([-(10**15)], pa.timestamp("us"))})
    pq.write_table(moments, tmp_path / "b.parquet", use_deprecated_int96_timestamps=True)

    told, old = read_folder([tmp_path / "a.parquet"]), read_folder([tmp_path / "b.parquet"])

    assert told.types["id"] == ("bigint", False) and told.types["early"] == ("timestamp_ntz", True)
    assert told.types["prices.value"] == ("decimal(9,1)", True) and told.types["prices.key"] == ("string", False)
    assert told.types["places.element.zip"] == ("int", False)
    assert (old.types["early"], old.rows) == (("timestamp", True), ((-(10**15),),))
