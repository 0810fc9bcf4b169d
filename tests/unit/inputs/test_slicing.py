"""Slicing: every line is in one slice, slices have the target size, and a restart gives the same slices."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparklet.errors import ObjectForbiddenError, ObjectNotFoundError, ObjectStoreError, PlanError
from sparklet.model import Access, InputObject, Position, RunOptions, SliceKind
from sparklet.planning.inputs import slicing as line_cuts
from sparklet.planning.inputs.selection import Found
from sparklet.planning.inputs.slicing import slice_objects, split_kind
from sparklet.planning.packing import pack_shards
from sparklet.ports import ObjectInfo
from tests.stand_ins.memory import MemoryObjectStore

URI = "s3://data/in/big.csv"
OPTIONS = RunOptions(split="lines", target_bytes=16)
BREAKS = st.sampled_from([b"\n", b"\r\n"])
LINES = st.lists(
    st.binary(max_size=12).map(lambda text: bytes(b for b in text if b not in b"\n\0")) | st.just(b"long" * 40),
    max_size=40,
)


def text_of(lines: list[bytes], line_break: bytes, ended: bool) -> bytes:
    return line_break.join([*lines, b""] if ended else lines)


TEXTS = st.builds(text_of, LINES, BREAKS, st.booleans()).map(lambda text: b"#" + text)  # '#': no magic bytes


def put(store: MemoryObjectStore, body: bytes, uri: str = URI) -> Found:
    etag = store.put(uri, body)
    return Found(InputObject(uri, len(body), etag), Position(0, uri.removeprefix("s3://data/")), {"seen": 1})


def cut(body: bytes, split: str, target: int, uri: str = URI) -> tuple[list[InputObject], list[str]]:
    """The slices of an object, and the reasons if it was planned whole."""
    store, told = MemoryObjectStore(), list[str]()
    options = RunOptions(split=split, target_bytes=target)
    found = slice_objects(store, [put(store, body, uri)], options, whole=told.append)
    return [each.item for each in found], told


def parts(body: bytes, items: list[InputObject]) -> list[bytes]:
    """The bytes that each slice is made of, without the header."""
    return [body[item.slice.start : item.slice.end] if item.slice else body for item in items]


# --- lines ---


@given(body=TEXTS, target=st.integers(1, 120))
def test_slices_are_whole_lines_and_add_up_to_the_whole(body: bytes, target: int) -> None:
    items, _ = cut(body, "lines", target)

    pieces = parts(body, items)
    assert b"".join(pieces) == body
    assert all(piece.endswith(b"\n") for piece in pieces[:-1])
    assert all(pieces) or items[0].slice is None
    assert all(len(piece) <= target or piece.count(b"\n", 0, -1) == 0 for piece in pieces)  # over it with a long line
    assert sum(item.size_bytes for item in items) == len(body)
    assert all(item.etag for item in items)


@given(body=TEXTS, target=st.integers(1, 120), window=st.integers(1, 9), farthest=st.integers(1, 60))
def test_slices_do_not_depend_on_the_read_windows(body: bytes, target: int, window: int, farthest: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_cuts, "WINDOW_BYTES", window)
        patch.setattr(line_cuts, "MAX_WINDOW_BYTES", 2 * window)
        whole_search, _ = cut(body, "lines", target)
        patch.setattr(line_cuts, "MAX_DISTANCE_BYTES", farthest)
        items, _ = cut(body, "lines", target)

    assert whole_search == cut(body, "lines", target)[0]
    assert b"".join(parts(body, items)) == body
    assert all(piece.endswith(b"\n") for piece in parts(body, items)[:-1])


@given(header=st.sampled_from([b"a,b\n", b"\xef\xbb\xbfa,b\r\n", b'"a","b,""c"""\n', b"\n \r\na\n"]), body=TEXTS)
def test_a_csv_header_is_in_no_slice_and_given_to_each(header: bytes, body: bytes) -> None:
    items, told = cut(header + body, "csv", 20)

    if told:
        assert len(items) == 1
        return
    assert b"".join(parts(header + body, items)) == (body if items[0].slice else header + body)
    assert {item.slice.header_bytes for item in items if item.slice} <= {len(header)}
    assert sum(item.size_bytes for item in items) == len(header) + len(body)


def test_a_header_is_found_beyond_the_first_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_cuts, "HEAD_BYTES", 4)
    items, _ = cut(b"one,two,three\n1,2,3\n4,5,6\n", "csv", 20)
    assert [item.slice.header_bytes for item in items if item.slice] == [14, 14]


def test_the_first_slice_with_its_header_fits_the_target() -> None:
    items, _ = cut(b"12345678\n" + b"abc\n" * 10, "csv", 20)
    assert [item.size_bytes for item in items] == [17, 16, 16]


@given(lines=st.integers(1, 200), target=st.integers(10, 300))
def test_no_sliver_is_left_at_the_end(lines: int, target: int) -> None:
    pieces = parts(b"abc\n" * lines, cut(b"abc\n" * lines, "lines", target)[0])
    assert len(pieces) == 1 or min(map(len, pieces)) >= target / 2 - 2 * len(b"abc\n")


WHOLE = {
    "UTF-16": ("a,b\n1,2\n" * 20).encode("utf-16"),
    "UTF-16 with the other order": b"\xfe\xff" + ("a,b\n1,2\n" * 20).encode("utf-16-be"),
    "UTF-32": ("a,b\n1,2\n" * 20).encode("utf-32"),
    "UTF-32 with the other order": b"\x00\x00\xfe\xff" + ("a\n" * 40).encode("utf-32-be"),
    "UTF-16 without its mark": ("a,b\n1,2\n" * 20).encode("utf-16-le"),
    "gzip by another name": b"\x1f\x8b\x08" + b"x\n" * 40,
    "Parquet by another name": b"PAR1\x15\0" + b"x\n" * 40,
    "one line": b"x" * 100,
    "one line, ended": b"x" * 100 + b"\n",
    "old line breaks": b"a,b\r" * 40,
}


@pytest.mark.parametrize("what", WHOLE)
@pytest.mark.parametrize("split", ["lines", "csv"])
def test_an_uncuttable_object_is_planned_whole_with_a_reason(what: str, split: str) -> None:
    items, told = cut(WHOLE[what], split, 16)
    assert [item.slice for item in items] == [None]
    assert len(told) == 1


COMMENT = "its first line may be a comment, so which line is the header is not known"


@pytest.mark.parametrize(
    ("body", "split", "uri", "reasons"),
    [
        (b'"a\nb",c\n' + b"1,2\n" * 20, "csv", URI, ["its header spans several lines"]),
        (b"# made today\na,b\n" + b"1,2\n" * 20, "csv", URI, [COMMENT]),
        (b"x\n" * 40, "lines", "s3://data/in/a.jsonl.gz", ["compressed as a whole"]),
        (b"x\n" * 8, "lines", URI, []),  # it is small enough
    ],
)
def test_a_whole_object_has_a_reason_unless_it_is_small(body: bytes, split: str, uri: str, reasons: list[str]) -> None:
    items, told = cut(body, split, 16, uri)
    assert [item.slice for item in items] == [None]
    assert told == reasons


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.csv", "csv"),
        ("a.TSV", "csv"),
        ("a.jsonl", "lines"),
        ("a.ndjson", "lines"),
        ("a.snappy.parquet", "parquet"),
        ("a.txt", ""),
        ("a.json", ""),
        ("csv", ""),
    ],
)
def test_split_auto_chooses_by_the_name(name: str, kind: str) -> None:
    assert split_kind(f"s3://b/{name}", "auto") == kind
    assert split_kind(f"s3://b/{name}", "lines") == "lines"


# --- Parquet ---


@pytest.mark.parametrize(("size", "target"), [(12, 11), (1000, 300), (1001, 1)])
def test_parquet_is_cut_into_even_ranges_of_all_its_bytes(size: int, target: int) -> None:
    items, told = cut(b"x" * (size - 4) + b"PAR1", "parquet", target)

    found = [item.slice for item in items if item.slice]
    assert [0, *(each.end for each in found)] == [*(each.start for each in found), size]
    assert [each.end - each.start for each in found] == [item.size_bytes for item in items]
    assert {each.kind for each in found} == {SliceKind.ROW_GROUPS} and told == []
    assert size / len(items) <= target and max(i.size_bytes for i in items) - min(i.size_bytes for i in items) <= 1


@pytest.mark.parametrize(
    ("name", "ending", "version", "access", "why"),
    [
        ("a", b"PAR1", "", Access(role_arn="arn:aws:iam::1:role/x"), "workers fetch whole"),
        ("a", b"PAR1", "", Access(requester_pays=True), "workers fetch whole"),
        ("a", b"PAR1", "v", Access(), "workers fetch whole"),
        ("_a", b"PAR1", "", Access(), "workers fetch whole"),
        ("a", b"PARE", "", Access(), "encrypted Parquet"),
        ("a", b"1,2\n", "", Access(), "not Parquet"),
    ],
)
def test_parquet_that_has_no_parts_for_spark_is_whole(
    name: str, ending: bytes, version: str, access: Access, why: str
) -> None:
    store, told = MemoryObjectStore(), list[str]()
    found = put(store, b"x" * 96 + ending, f"s3://data/in/{name}.parquet")
    found = replace(found, item=replace(found.item, version_id=version))
    options = RunOptions(split="auto", target_bytes=16)

    passed = list(slice_objects(store, [found], options, whole=told.append, access=access))

    assert passed == [found]
    assert len(told) == 1 and why in told[0]


# --- the store says otherwise ---


def fails(store: MemoryObjectStore, error: ObjectStoreError) -> None:
    def get(*args: object, **kwargs: object) -> bytes:
        raise error

    store.get = get  # type: ignore[method-assign]


@pytest.mark.parametrize("error", [ObjectNotFoundError("gone"), ObjectForbiddenError("no")])
def test_an_unreadable_object_is_planned_whole_for_its_shard(error: ObjectStoreError) -> None:
    store, told = MemoryObjectStore(), list[str]()
    found = put(store, b"x\n" * 40)
    fails(store, error)

    passed = list(slice_objects(store, [found], OPTIONS, whole=told.append))

    assert passed == [found]
    assert len(told) == 1


def test_a_store_that_is_down_stops_planning() -> None:
    store = MemoryObjectStore()
    found = put(store, b"x\n" * 40)
    fails(store, ObjectStoreError("503"))
    with pytest.raises(ObjectStoreError, match="503"):
        list(slice_objects(store, [found], OPTIONS))


@pytest.mark.parametrize("listed", ["stale", "none"])
def test_an_object_is_cut_as_it_is_now_not_as_it_was_listed(listed: str) -> None:
    store = MemoryObjectStore()
    found = put(store, b"old\n" * 40)
    etag = store.put(URI, b"newer\n" * 10)
    if listed == "none":
        found = replace(found, item=replace(found.item, etag=""))

    items = [e.item for e in slice_objects(store, [found], RunOptions(split="lines", target_bytes=24))]

    assert {item.etag for item in items} == {etag}
    assert sum(item.size_bytes for item in items) == 60


# --- positions ---


@given(body=TEXTS, target=st.integers(1, 60), data=st.data())
def test_a_resuming_planner_cuts_the_same_slices(body: bytes, target: int, data: st.DataObject) -> None:
    store, options = MemoryObjectStore(), RunOptions(split="lines", target_bytes=target)
    listing = [put(store, body, f"s3://data/{name}.jsonl") for name in "abc"]
    whole = list(slice_objects(store, listing, options))
    kept = data.draw(st.integers(0, len(whole)))
    position = whole[kept - 1].position if kept else Position()
    after = position.after
    rest = [f for f in listing if f.position.after > after or (f.position.after == after and position.slices)]

    assert whole[:kept] + list(slice_objects(store, rest, options, position)) == whole


def test_only_the_last_slice_ends_its_object() -> None:
    store = MemoryObjectStore()
    found = put(store, b"abc\n" * 4)

    passed = list(slice_objects(store, [found], RunOptions(split="lines", target_bytes=5)))

    etag = found.item.etag
    assert [each.position for each in passed] == [
        *(Position(0, "in/big.csv", count, etag) for count in (1, 2, 3)),
        found.position,
    ]
    assert all(each.skipped == {"seen": 1} for each in passed)


@pytest.mark.parametrize("changed", [b"ABC\n" * 4, b"A\n"])
def test_slices_of_two_contents_never_follow_one_another(changed: bytes) -> None:
    store, options = MemoryObjectStore(), RunOptions(split="lines", target_bytes=5)
    first = next(slice_objects(store, [put(store, b"abc\n" * 4)], options))

    with pytest.raises(PlanError, match=r"big\.csv was replaced while its slices were planned"):
        list(slice_objects(store, [put(store, changed)], options, first.position))


# --- 5 GB ---

TABLE_BYTES = 5 * 1024**3
TABLE = Found(InputObject(URI, TABLE_BYTES, "etag"), Position())
LINE = b'2013-01-01,"EWR",1545,IAH\r\n'


class Huge(MemoryObjectStore):
    """Holds one CSV of 5 GB that is nowhere: each range is made when it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[int] = []

    def head(self, uri: str, version_id: str = "") -> ObjectInfo:
        return ObjectInfo(uri, TABLE_BYTES, "etag", 0.0)

    def get(self, uri: str, offset: int = 0, length: int | None = None, etag: str = "", version_id: str = "") -> bytes:
        assert length is not None
        assert etag == "etag"
        self.reads.append(length)
        begin = offset % len(LINE)
        lines = LINE * (length // len(LINE) + 2)
        return lines[begin : begin + min(length, TABLE_BYTES - offset)]


def test_a_file_of_5_gb_is_planned_with_a_window_a_slice() -> None:
    store = Huge()
    options = RunOptions(split="csv", target_bytes=128 * 1024**2)

    shards = [shard for shard, _ in pack_shards(slice_objects(store, [TABLE], options), options)]

    assert len(shards) == 41
    assert [len(shard.objects) for shard in shards] == [1] * 41
    assert sum(shard.size_bytes for shard in shards) == TABLE_BYTES
    slices = [item.slice for shard in shards for item in shard.objects]
    assert all(each and each.kind is SliceKind.LINES and each.start % len(LINE) == 0 for each in slices)
    assert len(store.reads) == 41  # the head, and one for each of 40 cuts
    assert max(store.reads) == 64 * 1024


def test_a_file_of_5_gb_that_is_one_line_costs_a_bounded_search() -> None:
    class OneLine(Huge):
        def get(self, *args: object, **kwargs: object) -> bytes:
            return super().get(*args, **kwargs).replace(b"\n", b" ")  # type: ignore[arg-type]

    store = OneLine()
    options = RunOptions(split="lines", target_bytes=128 * 1024**2)

    (whole,) = slice_objects(store, [TABLE], options)

    assert whole.item.slice is None
    assert max(store.reads) <= 1024**2
    assert sum(store.reads) < TABLE_BYTES / 7
