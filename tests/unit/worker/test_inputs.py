"""Inputs of Spark: the worker fetches the inputs that Spark would misread, exactly as planned, and no others."""

import csv
import gzip
import io
import json
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparklet.errors import (
    DeadlineExceededError,
    EventError,
    ObjectNotFoundError,
    ObjectStoreError,
    PlanError,
    ScratchFullError,
    SparkletError,
)
from sparklet.job.event_objects import misread
from sparklet.model import MISNAMED, Access, InputObject, Position, RunOptions, Slice, SliceKind
from sparklet.planning.inputs.selection import Found
from sparklet.planning.inputs.slicing import slice_objects
from sparklet.spark.runner import Deadline
from sparklet.spark.script import Script
from sparklet.worker import inputs
from sparklet.worker.inputs import Read, ShardInputs, SparkInput, View, description_of, staged_name, with_origins
from sparklet.worker.without_view import WithoutView
from tests.stand_ins.memory import MemoryObjectStore

URI = "s3://data/in/a b#1.csv"
LATER = Deadline(4e9, 4e9)
NO_ACCESS, PLAIN = Access(), Script(b"")


def view(
    store: MemoryObjectStore, *items: InputObject, access: Access = NO_ACCESS, kind: type[View] = View, **planned: Any
) -> View:
    """The view that presents these items to Spark as its inputs."""
    return kind(ShardInputs(items, access, lambda: store, **planned), PLAIN)


def copies(read: Sequence[Read]) -> dict[int, Path]:
    return {number: copy for number, (_, _, copy) in enumerate(read) if copy}


def slices_of(store: MemoryObjectStore, body: bytes, split: str, target: int) -> list[InputObject]:
    found = Found(InputObject(URI, len(body), store.put(URI, body)), Position(0, "in/a b#1.csv"))
    options = RunOptions(split=split, target_bytes=target)
    return [each.item for each in slice_objects(store, [found], options)]


def fetched(store: MemoryObjectStore, items: Sequence[InputObject], chunk: int = inputs.CHUNK_BYTES) -> list[bytes]:
    """The content that a script would read from each input, fetched singly in chunks; b"" if it is not fetched."""
    contents = []
    for item in items:
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(inputs, "CHUNK_BYTES", chunk)
            [(_, _, copy)] = view(store, item, kind=WithoutView).fetch(Path(folder), LATER, 0)
            contents.append(copy.read_bytes() if copy else b"")
    return contents


# --- slices of lines ---

FIELDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0\\"), max_size=8)
TABLES = st.lists(st.tuples(FIELDS, st.sampled_from(["", '"', '","', "long" * 30]), FIELDS), min_size=1, max_size=25)


def written(rows: Sequence[Sequence[str]], line_break: str, quoting: int) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator=line_break, quoting=quoting).writerows([("one", 'the "two"', "3"), *rows])  # type: ignore[arg-type]
    return text.getvalue()


@settings(deadline=None, max_examples=50)
@given(
    rows=TABLES,
    line_break=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    mark=st.booleans(),
    ended=st.booleans(),
    target=st.integers(1, 200),
    chunk=st.integers(1, 64),
)
def test_csv_slices_hold_each_row_once_and_a_header_each(
    rows: list[tuple[str, str, str]],
    line_break: str,
    quoting: int,
    mark: bool,
    ended: bool,
    target: int,
    chunk: int,
) -> None:
    text = written(rows, line_break, quoting)
    body = (text if ended else text.removesuffix(line_break)).encode("utf-8-sig" if mark else "utf-8")
    store = MemoryObjectStore()
    items = slices_of(store, body, "csv", target)

    contents = fetched(store, items, chunk) if items[0].slice else [body]

    tables = [list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))) for content in contents]
    assert {tuple(header) for header, *_ in tables} == {("one", 'the "two"', "3")}
    assert [tuple(row) for _, *rest in tables for row in rest] == rows
    assert len(items) > 1 or target >= len(body) or len(rows) == 1 or not items[0].slice


@settings(deadline=None, max_examples=50)
@given(body=st.binary(min_size=1, max_size=400), target=st.integers(1, 80), chunk=st.integers(1, 64))
def test_slices_of_lines_add_up_to_the_whole_object(body: bytes, target: int, chunk: int) -> None:
    body = b"#" + body.replace(b"\0", b"\n")
    store = MemoryObjectStore()
    items = slices_of(store, body, "lines", target)

    contents = fetched(store, items, chunk)

    assert b"".join(contents) == (body if items[0].slice else b"")  # an object that is not sliced is not fetched


@settings(deadline=None, max_examples=50)
@given(
    rows=TABLES,
    at=st.integers(0, 100),
    target=st.integers(1, 120),
    chunk=st.integers(1, 40),
    line_break=st.sampled_from(["\n", "\r\n"]),
)
def test_csv_rows_over_several_lines_are_refused(
    rows: list[tuple[str, str, str]], at: int, target: int, chunk: int, line_break: str
) -> None:
    rows.insert(at % (len(rows) + 1), ("a", f"over{line_break}two", "c"))
    store = MemoryObjectStore()
    items = slices_of(store, written(rows, line_break, csv.QUOTE_MINIMAL).encode(), "csv", target)
    if items[0].slice is None:
        return
    with pytest.raises(PlanError, match="rows of several lines, which a slice can cut: plan without --split csv"):
        fetched(store, items, chunk)


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 100])
@pytest.mark.parametrize(
    ("body", "passes"),
    [
        (b'"a\\"b"\n', True),  # the quote is escaped by a backslash
        (b'"a\\\\"\n', True),  # the backslash is escaped itself
        (b'"a"",""b"\n', True),
        (b'5" pipe,6" pipe\n', True),
        (b'5" pipe\n', False),  # looks like a row that goes on in the next line
        (b'"a\nb"\n', False),
        (b'"a\\"\n', False),
        (b"a\\\n", True),
        (b'"open', False),
    ],
)
def test_a_line_with_an_open_quote_is_refused(body: bytes, passes: bool, chunk: int) -> None:
    store = MemoryObjectStore()
    etag = store.put(URI, b"h\n" + body)
    item = InputObject(URI, len(body), etag, slice=Slice(SliceKind.LINES, 2, 2 + len(body), 2))
    if passes:
        assert fetched(store, [item], chunk) == [b"h\n" + body]
    else:
        with pytest.raises(PlanError, match=r"a b#1\.csv \(bytes 2 to "):
            fetched(store, [item], chunk)


# --- the inputs that must be fetched ---

RIGHT = (
    *("plain.csv", "a b.csv", "a+b.csv", "a%20b.csv", "a%.csv", "a#b.csv", "a:b.csv", ":a.csv", "x:y/z.csv", "a,b.csv"),
    *("ü.csv", unicodedata.normalize("NFD", "ü.csv"), "😀.csv", "_dir/x.csv", ".dir/x.csv", "_dt=1/x.csv", "~x.csv"),
    *("a&b;c=d@e$f!'()\"<>|^`.csv", " lead.csv", "trail .csv ", "a..csv", "a/b.", "a./b", "-x.csv", "s/%2F.csv"),
    *("noext", "l" * 1000 + ".csv", "a\u00a0b.csv", "a\u2028b.csv"),
)
MISREAD = (
    *("_h.csv", ".h.csv", "..x.csv", "...", "x._COPYING_", "a//b.csv", "/lead.csv", "a/./b.csv", "a/../b.csv"),
    *("./b.csv", "../b.csv", "trail/", "trail.csv/", "a*b.csv", "a?b.csv", "a[1].csv", "a{b,c}.csv", "a\\b.csv"),
    *("a/[x]/d.csv", "nl\nx.csv", "cr\rx.csv", "tab\tx.csv", "c\x01x.csv", "c\x7fx.csv"),
)


@pytest.mark.parametrize("key", [*RIGHT, *MISREAD])
def test_only_names_that_spark_misreads_are_fetched(key: str) -> None:
    assert bool(misread(f"s3://b/{key}")) == (key in MISREAD)


def test_names_that_are_patterns_are_not_fetched_with_our_view() -> None:
    read = view(MemoryObjectStore())
    keys = [key for key in MISREAD if not read.is_fetched(InputObject(f"s3://b/{key}", 1))]
    assert keys == ["a*b.csv", "a?b.csv", "a[1].csv", "a{b,c}.csv", "a\\b.csv", "a/[x]/d.csv"]


def test_old_versions_and_inputs_of_another_access_are_fetched() -> None:
    plain, none = InputObject("s3://b/a.csv", 1), Access()

    def is_fetched(item: InputObject, access: Access, kind: type[View] = View) -> bool:
        return view(MemoryObjectStore(), item, access=access, kind=kind).is_fetched(item)

    assert not is_fetched(plain, none)
    assert is_fetched(InputObject("s3://b/a.csv", 1, version_id="v1"), none)
    lines = InputObject("s3://b/a.csv", 1, slice=Slice(SliceKind.LINES, 0, 1))
    assert is_fetched(lines, none, WithoutView) and not is_fetched(lines, none)
    assert not is_fetched(InputObject("s3://b/a.parquet", 1, slice=Slice(SliceKind.ROW_GROUPS, 0, 1)), none)
    assert is_fetched(plain, Access(requester_pays=True))
    assert is_fetched(plain, Access(role_arn="arn:aws:iam::1:role/x"))


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://b/x/data.csv", "data-00007.csv"),
        ("s3://b/x/data_1 (2).csv.gz", "data_1-2-00007.csv.gz"),
        ("s3://b/x/part-0.c000.snappy.parquet", "part-0-00007.c000.snappy.parquet"),
        ("s3://b/x/_hidden.json", "hidden-00007.json"),
        ("s3://b/x/.csv", "csv-00007"),
        ("s3://b/x/ü\n*.jsonl", "00007.jsonl"),
        ("s3://b/x/folder.csv/", "folder-00007.csv"),
        ("s3://b/x//", "x-00007"),
        ("s3://b/" + "k" * 1000 + ".csv", "k" * 80 + "-00007.csv"),
    ],
)
def test_a_copys_name_is_plain_and_resembles_the_objects_name(uri: str, name: str) -> None:
    assert staged_name(7, uri) == name


@settings(deadline=None, max_examples=50)
@given(key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_spark_misreads_no_copys_name(key: str) -> None:
    name = staged_name(3, f"s3://b/{key}")
    assert not misread(f"s3://b/{name}")
    assert name.isascii()
    assert len(name) < 150


def test_only_misread_objects_are_fetched_and_order_is_kept(tmp_path: Path) -> None:
    store = MemoryObjectStore()
    keys = ("z.csv", "_y.csv", "x.csv", "w[1].csv", "v\n/_y.csv")
    items = [InputObject(f"s3://b/{key}", len(key), store.put(f"s3://b/{key}", key.encode())) for key in keys]

    work = view(store, *items, kind=WithoutView)
    read = work.fetch(tmp_path, LATER, 0)

    fetched = copies(read)
    assert {place: path.read_text() for place, path in fetched.items()} == {n: keys[n] for n in (1, 3, 4)}
    assert len(list((tmp_path / "copies").iterdir())) == 3
    local = [f"file://{fetched[n]}" if n in fetched else item.uri for n, item in enumerate(items)]
    assert [each.path for each in work.spark_inputs(read)] == local


@pytest.mark.parametrize("in_partitions", [False, True])
def test_a_copys_address_is_in_its_objects_folder(tmp_path: Path, in_partitions: bool) -> None:
    """With partitions the script gets an address in the folder, else the copy's path, which any library can read."""
    store = MemoryObjectStore()
    keys = ("z.csv", "_y.csv", "w[1]*.csv", "v\n/_y.csv")
    items = [InputObject(f"s3://b/{key}", len(key), store.put(f"s3://b/{key}", key.encode())) for key in keys]
    work = view(store, *items, partitions={item.uri: "s3://b/" for item in items if in_partitions})

    shown = work.spark_inputs(work.fetch(tmp_path, LATER, 0))

    addresses = ["s3://b/z.csv", "s3://b/y-00001.csv", "s3://b/w[1]*.csv", "s3://b/v-/y-00003.csv"]
    assert [f"s3://{each.key}" for each in shown] == addresses
    files = [f"file://{each.copy}" if each.copy else f"s3://{each.key}" for each in shown]
    assert [each.path for each in shown] == (addresses if in_partitions else files)


def test_slices_of_one_object_have_different_addresses() -> None:
    store = MemoryObjectStore()
    items = slices_of(store, b"abc\n" * 10, "lines", 8)[:3]

    others = ["s3://data/in/a-b-1-00001.csv", "s3://data/in/a-b-1-00002.csv"]
    for copy in (None, Path("x")):
        shown = view(store).spark_inputs([(item, item, copy) for item in items])
        assert [each.path for each in shown] == [URI, *others]


def test_the_view_lists_each_input_and_folder_for_our_java() -> None:
    part = InputObject("s3://b/in/p.parquet", 9, "p", slice=Slice(SliceKind.ROW_GROUPS, 4, 13), modified_s=2.5)
    lines = InputObject("s3://b/in/l.csv", 9, "l", slice=Slice(SliceKind.LINES, 20, 29, 3))
    plain, item = InputObject("s3://b/in/day=1/ü.csv", 7, '"e"'), InputObject.of_item(1)
    roots = dict.fromkeys((plain.uri, "s3://b/in/day=2/"), "s3://b/in/")
    work = view(MemoryObjectStore(), part, lines, plain, item, partitions=roots, folders=("s3://b/in/",))

    told = work.lines(
        work.spark_inputs([*((each, each, None) for each in (part, lines, plain, item)), (lines, lines, Path("/t/l"))])
    )

    slice_of_part = {"kind": "row-groups", "start": 4, "end": 13, "header_bytes": 0}
    fields_of_lines = {"etag": "l", "bytes": 9, "slice": {"kind": "lines", "start": 20, "end": 29, "header_bytes": 3}}
    assert list(map(json.loads, told.splitlines())) == [
        {"input": "b/in/p.parquet", "etag": "p", "bytes": 9, "modified_ms": 2500, "slice": slice_of_part},
        {"input": "b/in/l.csv", **fields_of_lines},
        {"input": "b/in/day=1/ü.csv", "etag": "e", "bytes": 7, "partitions": "/in/"},
        {"input": "b/in/l-00004.csv", "object": "b/in/l.csv", "copy": "/t/l", **fields_of_lines},
        {"others": "b/in/day=2/", "partitions": "/in/"},
        {"folder": "b/in/"},
        {"misnamed": MISNAMED},
    ]


@pytest.mark.parametrize("body", [b"id\n1\n", gzip.compress(b"id\n1\n")])
def test_a_copy_has_the_modification_time_of_its_object(tmp_path: Path, body: bytes) -> None:
    """Spark's option ``modifiedBefore`` compares these times."""
    (store := MemoryObjectStore()).put("s3://b/_1.csv", body)
    work = view(store, InputObject("s3://b/_1.csv", len(body), modified_s=1000.5), checks_first_bytes=True)

    read = work.fetch(tmp_path, LATER, 0)

    assert [path.stat().st_mtime for path in copies(read).values()] == [1000.5]


def test_each_version_of_an_object_can_be_fetched() -> None:
    store = MemoryObjectStore(versioned=["data"])
    store.put(URI, b"old")
    store.put(URI, b"new")
    items = [InputObject(URI, 3, version_id=each) for each in store.versions(URI)]

    assert fetched(store, items) == [b"new", b"old"]


# --- errors ---


def sliced(store: MemoryObjectStore) -> InputObject:
    return slices_of(store, b"abc\n" * 10, "lines", 8)[1]


def test_a_response_with_too_few_bytes_is_an_error() -> None:
    store = MemoryObjectStore()
    store.get = lambda *args: b"abc\n"  # type: ignore[method-assign]
    item = InputObject(URI, 8, "etag", slice=Slice(SliceKind.LINES, 8, 16))
    with pytest.raises(ObjectStoreError, match="8 bytes were requested at 8, 4 came"):
        fetched(store, [item])


def test_misread_inputs_are_unpacked_as_they_are_fetched(tmp_path: Path) -> None:
    """Spark reads copies by file://, where no first bytes are compared; a UTF-16 text has an s3:// address instead."""
    store, bodies = MemoryObjectStore(), {"_1.csv": gzip.compress(b"x"), "_2.csv": "x".encode("utf-16"), "_c": b"x"}
    items = tuple(InputObject(f"s3://b/{name}", 9, store.put(f"s3://b/{name}", bodies[name])) for name in bodies)

    read = (work := view(store, *items)).fetch(tmp_path, LATER, 0)

    assert [path.read_bytes() for path in copies(read).values()] == [b"x"] * 3
    assert [each.path.partition("//")[0] for each in work.spark_inputs(read)] == ["file:", "s3:", "file:"]


@pytest.mark.parametrize(
    ("item", "error"),
    [
        (InputObject("s3://b/a.zip", 4), EventError),
        (InputObject("s3://b/gone.csv", 10, "e", slice=Slice(SliceKind.LINES, 0, 5)), ObjectNotFoundError),
    ],
    ids=["broken archive", "gone"],
)
def test_an_error_of_a_fetch_names_its_input_for_isolation(
    tmp_path: Path, item: InputObject, error: type[SparkletError]
) -> None:
    (store := MemoryObjectStore()).put("s3://b/a.zip", b"PK\x03\x04")

    with pytest.raises(error) as raised:
        view(store, item, kind=WithoutView).fetch(tmp_path, LATER, 0)

    assert raised.value.files == (description_of(item),)


def test_nothing_is_fetched_if_the_disk_lacks_space(tmp_path: Path) -> None:
    store = MemoryObjectStore()
    huge = InputObject(URI, 1 << 60, "e", slice=Slice(SliceKind.LINES, 0, 1 << 60))
    with pytest.raises(
        ScratchFullError, match=r"MiB free, the shard's inputs that must be fetched have 1099511627776 MiB"
    ):
        view(store, huge, kind=WithoutView).fetch(tmp_path, LATER, 0)
    small = sliced(store)
    with pytest.raises(ScratchFullError, match="must stay free"):
        view(store, small, kind=WithoutView).fetch(tmp_path, LATER, 1 << 60)
    assert list(tmp_path.iterdir()) == []


def test_fetching_ends_at_the_deadline(tmp_path: Path) -> None:
    store = MemoryObjectStore()
    with pytest.raises(DeadlineExceededError, match=r"a b#1\.csv \(bytes 8 to 15\) was fetched"):
        view(store, sliced(store), kind=WithoutView).fetch(tmp_path, Deadline(0, 0), 0)


def test_a_failure_names_the_object_instead_of_the_fetched_copy() -> None:
    store = MemoryObjectStore()
    items = {URI: sliced(store), "file:///t/1-x.csv": InputObject("s3://b/_x.csv", 1)}
    shown = [SparkInput(item, item, path, path) for path, item in items.items()]

    told = with_origins(f"bad line in s3a://{URI[5:]}, file:/t/1-x.csv and {URI}: 'x'", shown)

    cut = f"{URI} (bytes 8 to 15)"
    assert told == f"bad line in {cut}, s3://b/_x.csv and {cut}: 'x'"
