"""Inputs of the generated suite: tables whose values Hypothesis draws, and text files that are hard to read."""

import datetime as dt
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

ROWS = 200  # of each half
TYPES = {
    "i": pa.int32(),
    "l": pa.int64(),
    "f": pa.float32(),
    "d": pa.float64(),
    "n": pa.decimal128(12, 3),
    "b": pa.bool_(),
    "s": pa.string(),
    "t": pa.string(),  # numbers
    "u": pa.string(),  # dates
    "j": pa.string(),  # JSON
    "da": pa.date32(),
    "ts": pa.timestamp("us", tz="UTC"),
    "bi": pa.binary(),
    "ai": pa.list_(pa.int32()),
    "sa": pa.list_(pa.string()),
    "m": pa.map_(pa.string(), pa.int32()),
    "st": pa.struct({"x": pa.int32(), "y": pa.string()}),
    "g": pa.string(),
}
WORDS = (
    "",
    " a ",
    "a",
    "İstanbul",
    "ß",
    "\t",
    "NaN",
    "a-b-c",
    "x1y22",
    "http://h.example/p?q=1",
    "don't",
    "é",
    "😀",
    "1-2-3",
)
NUMERALS = (
    "1",
    "1.5",
    "-0",
    "1e3",
    " 7 ",
    "0x10",
    "NaN",
    "Infinity",
    "",
    "+5",
    "1_000",
    "2147483648",
    "1d",
    ".5",
    "5.",
    "true",
    "-9e400",
)
DAYS = (
    "2013-02-30",
    "2013-1-2",
    "2013-01-02T03:04:05Z",
    " 2013-01-02 ",
    "0001-01-01",
    "9999-12-31",
    "abc",
    "",
    "2013",
    "2013-07",
    "2013-01-02 03:04:05.678",
    "2013-01-02 25:00:00",
    "20130102",
    "2013-01-02 03:04:05+02:00",
    "12:30",
)
DOCUMENTS = (
    '{"a": 1}',
    '{"a": 1.5, "b": [1, 2]}',
    '{"c": {"d": 3}}',
    "{}",
    "",
    "[1]",
    "null",
    '{"a": "x"}',
    '{"a": null}',
    "{'a': 1}",
    '{"a": 1',
    '{"b": [null, "1"]}',
    '{"a": 99999999999}',
    '{"A": 1}',
    '{"a": true, "a": 2}',
    ' {"a": 1} x',
)
SMALL = st.integers(-2, 12)
INT = SMALL | st.integers(-(2**31), 2**31 - 1) | st.sampled_from((2**31 - 1, -(2**31)))
TEXT = st.sampled_from(WORDS) | st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), max_size=6)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "i": INT,
    "l": SMALL | st.integers(-(2**63), 2**63 - 1),
    "f": st.floats(width=32) | SMALL.map(float),
    "d": st.floats() | SMALL.map(float) | st.sampled_from((0.5, 1.5, 2.5, -0.5, -0.0)),
    "n": st.decimals(-(10**8), 10**8, places=3)
    | st.sampled_from((Decimal("0.005"), Decimal("-0.005"), Decimal("2.500"))),
    "b": st.booleans(),
    "s": TEXT,
    "t": st.sampled_from(NUMERALS) | INT.map(str) | st.floats().map(repr),
    "u": st.sampled_from(DAYS) | st.dates(dt.date(1000, 1, 1)).map(str),
    "j": st.sampled_from(DOCUMENTS),
    "da": st.dates(dt.date(1600, 1, 1), dt.date(2300, 1, 1))
    | st.sampled_from((dt.date(1970, 1, 1), dt.date(2012, 2, 29))),
    "ts": st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1)),
    "bi": st.binary(max_size=4) | st.sampled_from(WORDS).map(str.encode),
    "ai": st.lists(st.none() | SMALL, max_size=4),
    "sa": st.lists(st.none() | TEXT, max_size=3),
    "m": st.dictionaries(st.sampled_from("abc"), st.none() | SMALL, max_size=3).map(lambda each: [*each.items()]),
    "st": st.fixed_dictionaries({"x": st.none() | SMALL, "y": st.none() | TEXT}),
    "g": st.sampled_from("pqr"),
}
FIELDS = (
    "1",
    "2.5",
    "",
    '""',
    '"a,b"',
    '"q""q"',
    '" x "',
    " x ",
    "NA",
    "null",
    "é",
    '"line\nbreak"',
    "2013-01-02",
    "31/12/2013",
    "31/12/2013 10:30",
    '"a\\"b"',
    "#c",
    "NaN",
    "-0",
    "99999999999",
    "a^b",
    "'s;s'",
    '" "',
    "\t",
)
MEMBERS = (
    '"a": 1',
    '"a": 1.5',
    '"b": [1, 2]',
    '"b": []',
    '"c": {"d": 3}',
    '"c": null',
    '"e": "2013-01-02"',
    '"a": "x"',
    "'a': 7",
    '"a": 007',
    "a: 1",
    '"b": "s"',
    '"a": 99999999999999999999',
)


def make(folder: Path, half: str, of_seed: int) -> dict[str, str]:
    """Write one half's inputs; its text files by name. The table is ``HALF.parquet``."""
    drawn: list[dict[str, Any]] = []

    @seed(of_seed)
    @settings(max_examples=ROWS, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.fixed_dictionaries({name: st.none() | each for name, each in VALUES.items()}))
    def draw(row: dict[str, Any]) -> None:
        drawn.append(row)

    draw()
    rows = [{"id": n, **row} for n, row in enumerate(drawn[:ROWS])]
    pq.write_table(pa.Table.from_pylist(rows, pa.schema({"id": pa.int64(), **TYPES})), folder / f"{half}.parquet")
    chosen = random.Random(of_seed)
    lines = [",".join(chosen.choices(FIELDS, k=chosen.choice((3, 3, 3, 3, 2, 4)))) for _ in range(ROWS)]
    text = "\n".join(["a,b,c", *lines, ""])
    members = (", ".join({each[1]: each for each in chosen.choices(MEMBERS, k=2)}.values()) for _ in range(ROWS))
    files = {
        "csv": text.encode(),
        "iso-8859-1": text.encode("latin-1"),
        "utf-16": text.encode("utf-16"),
        "json": "\n".join([*(f"{{{each}}}" for each in members), "{broken", ""]).encode(),
        "text": "\n".join([*WORDS, "\r", "last"]).encode(),
    }
    for name, body in files.items():
        (folder / f"{name}_{half}.csv").write_bytes(body)
    return {f"{name}_{half}": str(folder / f"{name}_{half}.csv") for name in files}
