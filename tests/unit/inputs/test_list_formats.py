"""Every format of a list names the same objects; what names none is told with list, row and remedy."""

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow.parquet import write_table

from sparklet.errors import PlanError
from sparklet.model import ListSource
from sparklet.planning.inputs.list_entries import Entry
from sparklet.planning.inputs.lists import ListReader, list_format
from tests.stand_ins.memory import MemoryObjectStore

KEYS = ["a.csv", "a b+%20.csv", "ü/ü#?.csv", "tr/", "//x", ".hidden", 'k,e"y']
URIS = [f"s3://data/{key}" for key in KEYS]


def read(body: bytes, form: str, name: str = "s3://lists/l") -> list[Entry]:
    """Every entry of a list, and the same whichever row reading begins behind."""
    store = MemoryObjectStore()
    store.put(name, body)
    reader = ListReader(ListSource(name, form), store)
    found = list(reader.entries())
    for index in {0, len(found) // 2, len(found) - 1} if found else ():
        assert list(reader.entries(found[index][0])) == found[index + 1 :]
    assert [place for place, _ in found] == sorted({place for place, _ in found})
    return [entry for _, entry in found]


def uris(body: bytes, form: str) -> list[str]:
    return [entry.uri for entry in read(body, form)]


def parquet(rows: list[dict[str, Any]]) -> bytes:
    write_table(pa.Table.from_pylist(rows), sink := io.BytesIO(), row_group_size=2)
    return sink.getvalue()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_lines_are_addresses_taken_literally(end: str, bom: bytes) -> None:
    assert uris(bom + (end.join(URIS) + end + end).encode(), "lines") == URIS
    assert uris(end.join(uri.removeprefix("s3://") for uri in URIS).encode(), "lines") == URIS
    assert uris(end.join(uri.replace("s3://", "s3a://") for uri in URIS).encode(), "lines") == URIS


def csv_of(*rows: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


@pytest.mark.parametrize(
    "rows",
    [
        [["uri"], *([uri] for uri in URIS)],
        [["n", "URI"], *(["1", uri] for uri in URIS)],
        [["size", "Key", "Bucket"], *(["1", key, "data"] for key in KEYS)],
    ],
)
def test_csv_columns_are_known_by_their_names(rows: list[list[str]]) -> None:
    assert uris(csv_of(*rows), "csv") == URIS


def test_a_csv_list_may_carry_version_size_etag_and_time() -> None:
    body = csv_of(
        ["bucket", "key", "version_id", "size", "ETag", "last-modified", "storage_class"],
        ["data", "a", "v1", "12", '"abc"', "2013-01-31T12:00:00Z", "STANDARD"],
        ["data", "b", "", "", "", "", "GLACIER"],
    )
    assert read(body, "csv") == [
        Entry("s3://data/a", "v1", 12, "abc", 1359633600.0),
        Entry("s3://data/b", archived=True),
    ]


@pytest.mark.parametrize(
    "rows", [URIS, [{"uri": uri, "size": 1} for uri in URIS], [{"Bucket": "data", "Key": key} for key in KEYS]]
)
def test_json_holds_addresses_or_objects(rows: list[Any]) -> None:
    assert uris(json.dumps(rows).encode(), "json") == URIS
    assert uris("\n\n".join(map(json.dumps, rows)).encode(), "jsonl") == URIS


def test_parquet_is_read_by_row_groups_and_columns() -> None:
    rows = [{"uri": uri, "size": n, "other": "x"} for n, uri in enumerate(URIS)]
    found = [(entry.uri, entry.size_bytes) for entry in read(parquet(rows), "parquet")]
    assert found == [(uri, n) for n, uri in enumerate(URIS)]


def test_a_list_may_be_zipped() -> None:
    body = gzip.compress("\n".join(URIS).encode())
    assert [e.uri for e in read(body, "lines", name="s3://lists/l.txt.gz")] == URIS


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), min_size=1, max_size=9))
@example(["new\nline", "cr\rlf\r\n"])
def test_any_key_goes_through_csv_and_json_as_it_is(keys: list[str]) -> None:
    wanted = [f"s3://data/{key}" for key in keys]
    assert uris(csv_of(["bucket", "key"], *(["data", key] for key in keys)), "csv") == wanted
    assert uris(json.dumps(wanted).encode(), "json") == wanted
    assert uris("\n".join(map(json.dumps, wanted)).encode(), "jsonl") == wanted


LONG = "k" * 1025


@pytest.mark.parametrize(
    ("form", "body", "message"),
    [
        ("lines", "s3://data/a\nhello", "the list s3://lists/l, row 2: 'hello' names no object; write s3://bucket"),
        ("lines", "s3://data/a\ns3://data", "row 2: 's3://data' names no object|row 2: 'data' names no object"),
        ("lines", "https://data/a", "row 1: 'https://data/a' is no address in S3"),
        ("lines", f"data/{LONG}", "row 1: .*a key of more than 1024 bytes"),
        ("csv", "uri,size\ns3://data/a,1\ns3://data/b", "row 3: it has 1 columns, not 2"),
        ("csv", "uri,size\ns3://data/a,many", "row 2: size is 'many', which is no number of bytes"),
        ("csv", "uri,size\ns3://data/a,-1", "row 2: size is '-1'"),
        ("csv", "key,size\na,1", "row 2: no column is called uri, or bucket and key, only key, size; name them so"),
        ("csv", 'uri\n"s3://data/a', "row 2: it is no CSV: unexpected end of data"),
        ("csv", "uri,last_modified\ns3://data/a,yesterday", "the time is 'yesterday'; write it as 2013-01"),
        ("csv", "uri,is_latest\ns3://data/a,maybe", "'maybe' is neither true nor false"),
        ("json", "{", "the list s3://lists/l: it is no JSON"),
        ("json", "[" * 100_000, "it is no JSON"),
        ("json", '{"a": []}', "the document is no array: write an array of addresses or objects"),
        ("jsonl", '["s3://data/a"]', r"row 1: \['s3://data/a'\] is neither an address nor has it columns"),
        (
            "csv",
            "s3://data/a\ns3://data/b",
            "row 2: no column is called uri, or bucket and key, only s3",
        ),
        ("json", "[17]", "row 1: 17 is neither an address nor has it columns"),
        ("json", '[{"uri": 17}]', "row 1: uri is 17, which is no text"),
        ("json", '[{"uri": "s3://a/b"}, {"uri": "s3://data/a", "size": true}]', "row 2: size is True"),
        ("jsonl", '"s3://data/a"\n{"uri"', "row 2: it is no JSON"),
        ("parquet", "PAR1 but not really", "it cannot be read as parquet"),
    ],
)
def test_a_malformed_row_is_refused_with_list_row_and_remedy(form: str, body: str, message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        read(body.encode(), form)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_truncated_zipped_list_is_refused() -> None:
    body = gzip.compress(("\n".join(URIS) * 100).encode())
    with pytest.raises(PlanError, match="cannot be decompressed"):
        read(body[: len(body) // 2], "lines", name="s3://lists/l.gz")


def test_a_document_too_large_for_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparklet.planning.inputs.list_rows.MAX_JSON_BYTES", 50)
    with pytest.raises(PlanError, match="would be held in memory as a whole; write it as JSON Lines"):
        uris(json.dumps(URIS).encode(), "json")


def test_without_pyarrow_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PlanError, match=r"pip install pyarrow, or give the list as CSV or JSON Lines"):
        uris(b"PAR1", "parquet")


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


def test_nothing_of_a_list_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert uris("\n".join(URIS).encode(), "lines") == URIS
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["lines", "csv", "json", "jsonl", "parquet"])
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
    store = MemoryObjectStore()
    source = ListSource("s3://lists/l.gz" if zipped else "s3://lists/l", form)
    store.put(source.uri, body)
    refusal = ""
    try:
        for _, entry in ListReader(source, store).entries():
            assert entry.uri.startswith("s3://")
    except PlanError as error:
        refusal = str(error)
    assert "\n" not in refusal and len(refusal) < 1000
