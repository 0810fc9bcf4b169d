"""Parquet's footer taken apart and cut, against two libraries that read it on their own."""

import io
import random
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparklet.inputs.parquet_footer import Footer, FooterError, load_footer, read_footer

ROWS = st.integers(0, 60)
SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "text": pa.string(),
        "list": pa.list_(pa.float64()),
        "nested": pa.struct({"flag": pa.bool_(), "day": pa.int32()}),
    }
)


def table(rows: int, seed: int = 0) -> pa.Table:
    pick = random.Random(seed)
    return pa.table(
        {
            "id": range(rows),
            "text": [pick.choice(["a", "bb", None, "ü" * 9]) for _ in range(rows)],
            "list": [[pick.random() for _ in range(pick.randrange(3))] for _ in range(rows)],
            "nested": [{"flag": pick.random() < 0.5, "day": pick.randrange(9)} for _ in range(rows)],
        },
        schema=SCHEMA,
    )


def written(rows: int, group: int, **options: object) -> bytes:
    body = io.BytesIO()
    pq.write_table(table(rows), body, row_group_size=group, **options)
    return body.getvalue()


def footer_of(body: bytes) -> Footer:
    return load_footer(lambda offset, length: body[offset : offset + length], len(body))


def sparse(body: bytes, first: int, end: int) -> bytes:
    """What staging writes: zeros, but for the magic, what belongs to the row groups, and a footer of its own."""
    footer = footer_of(body)
    cut = bytearray(footer.start)
    cut[:4] = b"PAR1"
    for start, stop in footer.ranges(first, end):
        cut[start:stop] = body[start:stop]
    return bytes(cut) + footer.shortened(first, end)


@settings(max_examples=40, deadline=None)
@given(
    rows=ROWS,
    group=st.integers(1, 20),
    compression=st.sampled_from(["none", "snappy", "zstd"]),
    index=st.booleans(),
    dictionary=st.booleans(),
    version=st.sampled_from(["1.0", "2.0"]),
    data=st.data(),
)
def test_any_run_of_row_groups_reads_as_those_rows(
    rows: int, group: int, compression: str, index: bool, dictionary: bool, version: str, data: st.DataObject
) -> None:
    options = {"compression": compression, "write_page_index": index, "use_dictionary": dictionary}
    body = written(rows, group, data_page_version=version, data_page_size=64, **options)
    groups = pq.read_metadata(io.BytesIO(body)).num_row_groups
    first = data.draw(st.integers(0, groups))
    end = data.draw(st.integers(first, groups))

    cut = sparse(body, first, end)

    assert pq.read_table(io.BytesIO(cut)).equals(table(rows)[first * group : end * group])
    assert pq.read_metadata(io.BytesIO(cut)).num_rows == sum(g.rows for g in footer_of(cut).row_groups)


def test_the_footer_with_all_row_groups_is_the_footer() -> None:
    body = written(60, 1, write_page_index=True)  # more than 15: lists have another head
    footer = footer_of(body)
    assert footer.shortened(0, 60) == body[footer.start :]


def test_sizes_and_rows_equal_pyarrows() -> None:
    body = written(50, 8)
    meta = pq.read_metadata(io.BytesIO(body))
    told = [meta.row_group(n) for n in range(meta.num_row_groups)]
    groups = footer_of(body).row_groups
    assert [g.rows for g in groups] == [t.num_rows for t in told]
    assert [g.size_bytes for g in groups] == [
        sum(t.column(n).total_compressed_size for n in range(t.num_columns)) for t in told
    ]


def test_only_what_belongs_to_the_row_groups_is_taken_along() -> None:
    body = written(4000, 1000, compression="none", use_dictionary=False)
    taken = sum(end - start for start, end in footer_of(body).ranges(1, 2))
    assert taken < len(body) / 3


def test_bloom_filters_come_along_and_are_used(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    with duckdb.connect() as db:
        rows = "SELECT range AS id, 'k' || (range % 50) AS key FROM range(20000)"
        db.execute(f"COPY ({rows}) TO '{whole}' (FORMAT parquet, ROW_GROUP_SIZE 4096)")
        body = whole.read_bytes()
        cut.write_bytes(sparse(body, 1, 3))
        filters = db.execute(f"SELECT count(bloom_filter_offset) FROM parquet_metadata('{cut}')").fetchall()
        found = db.execute(f"SELECT count(*), min(id), max(id) FROM '{cut}' WHERE key = 'k7'").fetchall()
        none = db.execute(f"SELECT count(*) FROM '{cut}' WHERE key = 'nobody'").fetchall()
    group = footer_of(body).row_groups[0].rows
    expected = [n for n in range(group, 3 * group) if n % 50 == 7]
    assert filters[0][0] >= 2
    assert found == [(len(expected), expected[0], expected[-1])]
    assert none == [(0,)]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "does not end"),
        (b"PAR1", "does not end"),
        (b"a,b\n1,2\n", "does not end"),
        (b"PAR1" + b"\xff\xff\x00\x00PAR1", "shorter than its footer"),
        (b"PAR1" + b"x" * 20 + b"\x04\x00\x00\x00PARE", "encrypted"),
    ],
)
def test_a_file_that_is_no_parquet_is_refused_with_the_reason(body: bytes, why: str) -> None:
    with pytest.raises(FooterError, match=why):
        footer_of(body)


GOOD = footer_of(written(30, 7, write_page_index=True))
DOCUMENT = GOOD.shortened(0, 99)[:-8]


@settings(deadline=None)
@given(at=st.integers(0, len(DOCUMENT) - 1), byte=st.integers(0, 255), length=st.integers(0, len(DOCUMENT)))
def test_a_damaged_footer_is_read_or_refused_but_never_worse(at: int, byte: int, length: int) -> None:
    damaged = bytearray(DOCUMENT)
    damaged[at] = byte
    for document in (bytes(damaged), DOCUMENT[:length], bytes(damaged)[:length]):
        try:
            footer = read_footer(document, GOOD.start)
            assert all(start < end <= GOOD.start for start, end in footer.ranges(0, 99))
        except FooterError:
            pass


def test_a_footer_nested_without_end_is_refused() -> None:
    with pytest.raises(FooterError, match="nested"):
        read_footer(b"\x1c" * 5000, 10_000)


def test_a_number_without_end_is_refused_at_once() -> None:
    with pytest.raises(FooterError, match="a number without end"):
        read_footer(b"\x15" + b"\xff" * 1_000_000, 2_000_000)
