"""A list means the same in every format; a wrong row is refused with the list, the row and a remedy."""

import gzip
import json
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparklet.errors import PlanError
from sparklet.model import ListSource
from sparklet.planning.inputs.list_rows import Entry
from sparklet.planning.inputs.lists import MAX_ITEM_BYTES, MAX_ITEM_DEPTH, ListReader, list_format
from tests.stand_ins.memory import MemoryObjectStore
from tests.unit.inputs.written_lists import written

OF_ADDRESSES = ["lines", "json", "jsonl"]
WITH_COLUMNS = ["csv", "json", "jsonl", "parquet"]
KEYS = ["a.csv", "a b+%20.csv", "ü/ü#?.csv", "tr/", "//x", ".hidden", 'k,e"y', "a://b"]
LONG = "k" * 1025
CITIES = [{"city": "Ulm", "since": "854"}, {"city": "Köln, am Rhein", "since": ""}, {"city": "Ulm", "since": "854"}]
CSV = 'city,since\nUlm,854\n"Köln, am Rhein",\n\nUlm,854\n'.encode()
DEEP = b'{"a":' * (MAX_ITEM_DEPTH + 1) + b"1" + b"}" * (MAX_ITEM_DEPTH + 1)


def read(body: bytes, form: str, name: str = "s3://lists/l", *, items: bool = False) -> list[Any]:
    """Read all objects or items of a list, and assert that reading behind any row gives the rest."""
    store = MemoryObjectStore()
    store.put(name, body)
    reader = ListReader(ListSource(name, form, items=items), store)
    rows: Any = reader.items if items else reader.entries
    found = list(rows())
    for index in {0, len(found) // 2, len(found) - 1} if found else ():
        assert list(rows(found[index][0])) == found[index + 1 :]
    assert [place for place, _ in found] == sorted({place for place, _ in found})
    return [json.loads(row.item) if items else row for _, row in found]


def named(*keys: str) -> list[Entry]:
    return [Entry(f"s3://data/{key}") for key in keys]


# --- rows ---


@pytest.mark.parametrize("form", OF_ADDRESSES)
@pytest.mark.parametrize("scheme", ["s3://", "s3a://", "s3n://", ""])
def test_an_address_is_taken_literally(form: str, scheme: str) -> None:
    assert read(written(form, [f"{scheme}data/{key}" for key in KEYS]), form) == named(*KEYS)


TIME = {"last-modified": "2013-01-31T12:00:00Z"}


@pytest.mark.parametrize("form", WITH_COLUMNS)
@pytest.mark.parametrize(
    ("row", "entry"),
    [
        *(({"uri": f"s3://data/{key}"}, Entry(f"s3://data/{key}")) for key in KEYS),
        *(({"Bucket": "data", "Key": key}, Entry(f"s3://data/{key}")) for key in [*KEYS, "new\nline"]),
        ({"n": "1", "URI": "data/a", "key": "other"}, Entry("s3://data/a")),  # others' columns do not matter
        ({"uri": "data/a", "version_id": "v1", "size": 0, "ETag": '"abc"'}, Entry("s3://data/a", "v1", 0, "abc")),
        ({"uri": "data/a", "size_bytes": "12", **TIME}, Entry("s3://data/a", size_bytes=12, modified_s=1359633600.0)),
        ({"uri": "data/a", "LastModifiedDate": "2013-01-31 12:00:00"}, Entry("s3://data/a", modified_s=1359633600.0)),
        ({"uri": "data/a", "size": None, "etag": None, **dict.fromkeys(TIME), "isLatest": None}, Entry("s3://data/a")),
        ({"uri": "data/a", "is_latest": "TRUE", "is_delete_marker": "false"}, Entry("s3://data/a", latest=True)),
        (
            {"uri": "data/a", "is_latest": False, "IsDeleteMarker": True},
            Entry("s3://data/a", latest=False, deleted=True),
        ),
        ({"uri": "data/a", "storage_class": "STANDARD"}, Entry("s3://data/a")),
        ({"uri": "data/a", "storage_class": "DEEP_ARCHIVE"}, Entry("s3://data/a", archived=True)),
        ({"uri": "data/a", "intelligent_tiering_access_tier": "ARCHIVE"}, Entry("s3://data/a", archived=True)),
    ],
)
def test_columns_mean_the_same_in_each_format(form: str, row: Any, entry: Entry) -> None:
    assert read(written(form, [row, row, row]), form) == [entry] * 3  # in Parquet the three rows are in two row groups


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), min_size=1, max_size=9))
@example(["new\nline", "cr\rlf\r\n"])
def test_any_key_is_read_unchanged_in_every_format(keys: list[str]) -> None:
    for form in ("csv", "json", "jsonl"):
        assert read(written(form, [{"bucket": "data", "key": key} for key in keys]), form) == named(*keys)
    for form in ("json", "jsonl"):
        assert read(written(form, [f"s3://data/{key}" for key in keys]), form) == named(*keys)


@pytest.mark.parametrize(
    ("form", "body", "expected"),
    [
        ("lines", "Ulm\n\nKöln\r\nUlm".encode(), ["Ulm", "Köln", "Ulm"]),
        ("lines", b"\xef\xbb\xbfUlm\r\n\r\n", ["Ulm"]),
        ("csv", CSV, CITIES),
        ("csv", b"\xef\xbb\xbf" + CSV.replace(b"\n", b"\r\n"), CITIES),
        ("csv", b",city\n7,Ulm\n", [{"_c0": "7", "city": "Ulm"}]),  # with the index of pandas
        ("csv", b"uri,bucket,key\na,b,c\n", [{"uri": "a", "bucket": "b", "key": "c"}]),
        ("json", json.dumps([1, "a", None, {"b": [True]}]).encode(), [1, "a", None, {"b": [True]}]),
        ("jsonl", b'{"id": 1.5}\n\n7\n[8, 9]\n', [{"id": 1.5}, 7, [8, 9]]),
        ("parquet", written("parquet", [{"uri": "no", "price": Decimal("1.10")}]), [{"uri": "no", "price": "1.10"}]),
        (
            "parquet",
            written("parquet", [{"day": date(2026, 11, n)} for n in (1, 2)]),
            [{"day": "2026-11-01"}, {"day": "2026-11-02"}],
        ),
        (
            "parquet",
            written("parquet", [{"at": datetime(2026, 1, 1, tzinfo=UTC)}]),
            [{"at": "2026-01-01T00:00:00+00:00"}],
        ),
    ],
)
def test_each_row_is_an_item(form: str, body: bytes, expected: Sequence[Any]) -> None:
    assert read(body, form, items=True) == expected


@pytest.mark.parametrize("form", ["lines", "csv", "json", "jsonl"])
def test_a_list_may_be_zipped_and_must_be_whole(form: str) -> None:
    rows: Sequence[Any] = [{"uri": f"data/{key}"} for key in KEYS] if form == "csv" else [f"data/{key}" for key in KEYS]
    body = gzip.compress(written(form, rows))
    assert read(body, form, name="s3://lists/l.txt.gz") == named(*KEYS)
    with pytest.raises(PlanError, match="cannot be decompressed"):
        read(body[: len(body) // 2], form, name="s3://lists/l.gz")


# --- refused lists ---


@pytest.mark.parametrize(
    ("form", "body", "message"),
    [
        ("lines", "s3://data/a\nhello", "the list s3://lists/l, row 2: 'hello' does not name an object; write s3:"),
        ("lines", "s3://data/a\ns3://data", "row 2: '(s3://)?data' does not name an object"),
        ("lines", "https://data/a", "row 1: 'https://data/a' is not an address in S3"),
        ("lines", f"data/{LONG}", "row 1: .*a key of more than 1024 bytes"),
        ("csv", "uri,size\ns3://data/a,1\ns3://data/b", "row 3: it has 1 columns, not 2"),
        ("csv", "uri,size\ns3://data/a,many", "row 2: size is 'many', which is not a number of bytes"),
        ("csv", "uri,size\ns3://data/a,-1", "row 2: size is '-1'"),
        ("csv", "key,size\na,1", "row 2: there is no column uri, nor bucket and key, only key, size; rename"),
        ("csv", "s3://data/a\ns3://data/b", "row 2: there is no column uri, nor bucket and key, only s3"),
        ("csv", 'uri\n"s3://data/a', "row 2: it is not CSV: unexpected end of data"),
        ("csv", "uri,last_modified\ns3://data/a,yesterday", "the time is 'yesterday'; write it as 2013-01"),
        ("csv", "uri,is_latest\ns3://data/a,maybe", "'maybe' is neither true nor false"),
        ("json", "{", "the list s3://lists/l: it is not JSON"),
        ("json", "[" * 100_000, "it is not JSON"),
        ("json", '{"a": []}', "the document is not an array: write an array of addresses or objects"),
        ("json", "[17]", "row 1: 17 is neither an address nor a row of columns"),
        ("json", '[{"uri": 17}]', "row 1: uri is 17, which is not a text"),
        ("json", '[{"uri": "s3://a/b"}, {"uri": "s3://data/a", "size": true}]', "row 2: size is True"),
        ("jsonl", '["s3://data/a"]', r"row 1: \['s3://data/a'\] is neither an address nor a row of columns"),
        ("jsonl", '"s3://data/a"\n{"uri"', "row 2: it is not JSON"),
        ("parquet", "PAR1 but not really", "it cannot be read as parquet"),
    ],
)
def test_a_row_that_names_no_object_is_refused(form: str, body: str, message: str) -> None:
    assert_refused(body.encode(), form, message)


@pytest.mark.parametrize(
    ("form", "body", "message"),
    [
        ("csv", b"city\nUlm\n\xff\n", "it is not UTF-8 after this row"),
        ("csv", b"a,b\n1,2\n1,2,3\n", "row 3: it has 3 columns"),
        ("csv", b"a,a\n1,2\n", "row 1: each column needs a name"),
        ("csv", b",_c0\n1,2\n", "row 1: each column needs a name"),
        ("lines", b"ok\n\xff\n", "not UTF-8"),
        ("jsonl", b"1\nNaN\n", "row 2: the item cannot be written as JSON"),
        ("jsonl", b'1\n"\\ud800"\n', "row 2: the item cannot be written as JSON"),
        ("jsonl", b"1\n" + DEEP, "row 2: .* deeper"),
        ("jsonl", b'{"a":' * 100_000, "row 1: it is not JSON"),
        ("lines", b"ok\n" + b"x" * MAX_ITEM_BYTES, "row 2: the item has 65,538 bytes"),
        ("parquet", written("parquet", [{"b": b"\x00"}]), "row 1: the item holds a bytes"),
        ("parquet", written("parquet", [{"day": pa.scalar(2_932_897, pa.date32())}]), "beyond the year 9999"),
    ],
)
def test_a_row_that_is_no_item_is_refused(form: str, body: bytes, message: str) -> None:
    assert_refused(body, form, message, items=True)


def assert_refused(body: bytes, form: str, message: str, *, items: bool = False) -> None:
    with pytest.raises(PlanError, match=f"the list s3://lists/l.*{message}|^{message}") as caught:
        read(body, form, items=items)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("form", ["lines", *WITH_COLUMNS])
@given(
    body=st.binary(max_size=200)
    | st.text(max_size=200).map(str.encode)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just("s3://bucket/key"),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["uri", "bucket", "key", "size", "etag", "last_modified", "x"]), inner)
        ),
    ).map(lambda document: json.dumps(document).encode()),
    zipped=st.booleans(),
)
def test_any_list_is_read_or_refused_in_a_short_line(form: str, body: bytes, zipped: bool) -> None:
    refusal = ""
    try:
        assert all(entry.uri.startswith("s3://") for entry in read(body, form, f"s3://lists/l{'.gz' * zipped}"))
    except PlanError as error:
        refusal = str(error)
    assert "\n" not in refusal and len(refusal) < 1000


def test_a_document_too_large_for_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparklet.planning.inputs.list_rows.MAX_JSON_BYTES", 10)
    assert read(b'["data/a"]', "json") == named("a")
    with pytest.raises(PlanError, match="would be held in memory as a whole; write it as JSON Lines"):
        read(b'["data/aa"]', "json")


def test_without_pyarrow_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PlanError, match=r"pip install pyarrow, or give the list as CSV or JSON Lines"):
        read(b"PAR1", "parquet")


# --- names and temporary files ---


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("s3://b/x.csv", "csv"),
        ("x.CSV.gz", "csv"),
        ("x.json", "json"),
        ("s3://b/inv/manifest.json", "s3-inventory"),
        ("x.ndjson", "jsonl"),
        ("x.parquet", "parquet"),
        ("files.txt", "lines"),
    ],
)
def test_the_format_follows_from_the_name(name: str, form: str) -> None:
    assert list_format(name) == form


def test_a_name_without_a_known_format_is_refused() -> None:
    with pytest.raises(PlanError, match=r"list s3://b/files does not show its format: give --list-format lines \| csv"):
        list_format("s3://b/files")


def test_no_temporary_file_of_a_list_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert read(b"data/a", "lines") == named("a")
    assert list(tmp_path.iterdir()) == []
