"""A run writes the values of its files: an oracle over generated files with drift, dates and schemas.

Files of one folder lack a column or have one more, in another order, in capitals, or of another type; dates and times
have several forms. A run reads the files, packed at random, by the readers of ``job`` with a given or inferred schema,
or by Spark's readers without a schema, and writes Parquet. If the run SUCCEEDED, each row must be in the output once,
with the values of its file, and all output files must have one schema; else the message must name a file. The tests try
as many folders as ``test_one_job``, by the same variables. In a second oracle Spark's readers infer types and scripts
hide them, by casts and text: the rows must be those of one shard over all files, or the message must name an input. Few
folders whose rows are equal are refused (decision 0075 has the measurements).
"""

import csv
import io
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, seed, settings
from hypothesis import strategies as st

from sparklet.errors import PlanError
from sparklet.model import RunOptions, RunState, ShardState
from sparklet.planning.request import RunRequest
from tests.functional.worker.ledgered import BUCKET, Function
from tests.functional.worker.test_drift import end_run
from tests.functional.worker.test_one_job import FOLDERS, SEED, TRIALS

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

ROOT = f"s3://{BUCKET}/schemas"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COPY_PY = f"s3://{BUCKET}/scripts/copy.py"
COPY = b"""
from sparklet.job import Job

job = Job.from_args()
spark, kind = job.spark(), job.params["kind"]
if job.params["by"] == "job" and kind == "csv":
    frame = job.read_csv(spark)
elif job.params["by"] == "job":
    frame = job.read_json(spark) if kind == "json" else job.read_parquet(spark)
else:
    options = {"header": True, "inferSchema": True} if kind == "csv" else {}
    frame = spark.read.format(kind).options(**options).load(job.input_list())
frame.write.mode("overwrite").parquet(job.output)
"""

Row = Mapping[str, Any]
TIMES = ["2026-01-02", "2026-01-02 13:45", "2026-01-02T13:45:10", "2026-01-02 13:45:10.5", "20260102", "12345", "12:30"]
ODD_TIMES = ["2026-13-01", "10000-01-01", "02/01/2026", "noon", "2026-1-2"]  # Spark writes none before 1582
TEXTS = [
    ["1", "22"],
    ["1.5"],
    ["é", "x y"],
    ["true"],
    ["1", "x"],
    ["007"],
    ["9999999999", "1"],
    ["", "1"],
    ["1e5", "2"],
]
TEXTS += [["12345678901234567890"], [" 1", "2 "], ["NaN"], ["-0"], ["0x10"], ["null"]]
QUOTED = [['say "a, b"', "a\\b"], ['"x" and "y"', "C:\\"], ["1D"]]  # Spark's own reader has other rules for these
TYPES = {"DATE": pa.date32(), "TIMESTAMP": pa.timestamp("us", "UTC"), "INT": pa.int32(), "BIGINT": pa.int64()}


@dataclass(frozen=True)
class Folder:
    """The files of a folder, as rows, and how a run reads the files."""

    kind: str
    by: str  # whose reader reads the files: ``job`` or ``spark``
    schema: str  # the schema of the run: DDL, ``infer``, or "" for none
    files: Sequence[Sequence[Row]]
    types: Sequence[Mapping[str, pa.DataType]]  # the types of a Parquet file's columns; other columns are text
    max_objects: int

    def bodies(self) -> Iterator[bytes]:
        for rows, types in zip(self.files, self.types, strict=True):
            names = [*rows[0]]
            if self.kind == "json":
                yield "".join(json.dumps(row) + "\n" for row in rows).encode()
            elif self.kind == "csv":
                writer = csv.DictWriter(text := io.StringIO(), names, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
                yield text.getvalue().encode()
            else:
                columns = {name: pa.array([row[name] for row in rows], types.get(name, pa.string())) for name in names}
                pq.write_table(pa.table(columns), sink := io.BytesIO())
                yield sink.getvalue()


@st.composite
def folders(draw: st.DrawFn) -> Folder:
    """Draw a folder whose files mostly fit together."""
    kind = draw(st.sampled_from(["csv", "json", "parquet"]))
    by = draw(st.sampled_from(["job", "job", "spark"]))
    time_type = draw(st.sampled_from(["DATE", "TIMESTAMP", "STRING", "INT"]))
    schema = draw(st.sampled_from(["infer", f"id INT, v STRING, at {time_type}"])) if by == "job" else ""
    # Spark's reader reads 12:30 as a time of today and CSV columns by position, also in one job over all files.
    pool = [*TIMES, *ODD_TIMES] if by == "job" else TIMES[:5]
    drifts = ["", "", "", "more", "fewer", "order"] if (by, kind) != ("spark", "csv") else [""]
    # For JSON one job fails without the name of a file.
    drifts += ["capitals"] if by == "job" or kind == "parquet" else []
    number, files, types = 0, [], []
    for _ in range(draw(st.integers(2, 4))):
        times = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=2))
        texts = draw(st.sampled_from([*TEXTS, *(QUOTED if by == "job" else [])]))
        drift, rows = draw(st.sampled_from(drifts)), []
        for _ in range(draw(st.integers(1, 3))):
            number += 1
            row: dict[str, Any] = {"id": number, "v": draw(st.sampled_from(texts)), "at": draw(st.sampled_from(times))}
            if drift == "more":
                row["extra"] = "e"
            elif drift == "fewer":
                del row["v"]
            elif drift == "order":
                row = dict(reversed(row.items()))
            rows.append({name.upper() if drift == "capitals" else name: value for name, value in row.items()})
        column_types = {}
        if kind == "parquet":
            name = "AT" if drift == "capitals" else "at"
            type_ = draw(st.sampled_from([*TYPES, ""]))
            column_types = {"ID" if drift == "capitals" else "id": draw(st.sampled_from([pa.int32(), pa.int64()]))}
            with suppress(ValueError):
                values = [_typed(row[name], type_) for row in rows]
                rows = [{**row, name: value} for row, value in zip(rows, values, strict=True)]
                column_types |= {name: TYPES[type_]} if type_ else {}
        files.append(rows)
        types.append(column_types)
    return Folder(kind, by, schema, files, types, draw(st.integers(1, 3)))


def _typed(text: str, type_: str) -> Any:
    match type_:
        case "DATE":
            return date.fromisoformat(text)
        case "TIMESTAMP":
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        case "INT" | "BIGINT":
            return int(text)
    return text


def is_same(value: Any, text: Any) -> bool:
    """Whether a value of the output is the same as in its file, where it is a text, or any value in Parquet."""
    if isinstance(value, datetime):
        value = value.replace(tzinfo=UTC)  # Spark writes INT96, which has no time zone
    if isinstance(text, datetime) and isinstance(value, int):  # Spark's reader does so if another file has BIGINT
        return EPOCH + timedelta(microseconds=value) == text
    if value == text or not isinstance(text, str):
        return bool(value == text)
    if value is None:
        return text == ""
    if isinstance(value, bool):
        return text.lower() == str(value).lower()
    with suppress(ValueError, InvalidOperation):
        if isinstance(value, (int, float, Decimal)):
            actual, expected = value, Decimal(text.strip())
            if isinstance(value, float):  # Spark reads large integers as floats, too, if other values have a fraction
                actual, expected = Decimal(value), Decimal(float(expected))
            return bool(actual == expected) or (expected.is_nan() and actual != actual)
        if isinstance(value, datetime):
            return re.match(r"\d{4}-", text) is not None and _typed(text, "TIMESTAMP") == value
        if isinstance(value, date):
            return re.fullmatch(r"\d{4}-\d\d-\d\d", text) is not None and date.fromisoformat(text) == value
    return False


@pytest.fixture(scope="module", autouse=True)
def _script(function: Function) -> None:
    function.store.put(COPY_PY, COPY)
    function.skip_log()


def verdict(function: Function, folder: Folder) -> str:
    """Return ``right``, ``wrong: …``, or the message of a run that fails."""
    run_id = f"f{uuid.uuid4().hex[:12]}"
    for number, body in enumerate(folder.bodies()):
        function.store.put(f"{ROOT}/{run_id}/{number}.{folder.kind}", body)
    params = {"by": folder.by, "kind": folder.kind, **({"schema": folder.schema} if folder.schema else {})}
    request = RunRequest(
        COPY_PY,
        (f"{ROOT}/{run_id}/",),
        f"s3://{BUCKET}/out/{run_id}/",
        run_id=run_id,
        params=params,
        options=RunOptions(max_objects=folder.max_objects, max_attempts=1),
    )
    try:
        function.deliver(*function.plan_request(request))
    except PlanError as error:
        return _failure(run_id, "refused", str(error))
    if failed := next(function.ledger.shards.list(run_id, ShardState.FAILED), None):
        return _failure(run_id, "failed", f"{failed.error_class}: {failed.error_message}")
    state, drift = end_run(function, run_id)
    if state is not RunState.SUCCEEDED:
        return _failure(run_id, "drift", drift)
    tables = [
        pq.read_table(io.BytesIO(function.store.get(info.uri)), partitioning=None)
        for info in function.store.list(f"s3://{BUCKET}/out/{run_id}/")
        if info.uri.endswith(".parquet")
    ]
    rows = [{name.lower(): value for name, value in row.items()} for table in tables for row in table.to_pylist()]
    return _compare(folder, rows, [table.schema for table in tables if table.num_rows])


def _compare(folder: Folder, rows: Sequence[Row], schemas: Sequence[pa.Schema]) -> str:
    lower_rows = [{name.lower(): value for name, value in row.items()} for file in folder.files for row in file]
    expected = {row["id"]: row for row in lower_rows}
    ids = [row.get("id") for row in rows]
    if sorted(expected, key=str) != sorted(ids, key=str):
        return f"wrong: rows {ids} of {len(expected)}"
    for row in rows:
        file_row = expected[row["id"]]
        if different := [name for name in {*row, *file_row} if not is_same(row.get(name), file_row.get(name))]:
            return f"wrong: {different} of {row}, and its file says {file_row}"
    distinct = {tuple(sorted((each.name, str(each.type)) for each in schema)) for schema in schemas}
    return "right" if len(distinct) == 1 else f"wrong: files of several schemas: {distinct}"


def _failure(run_id: str, outcome: str, message: str) -> str:
    assert run_id in message, f"no file is named: {message}"
    return f"{outcome}: " + re.sub(r"s3a?:\S+", "FILE", message)[:100]


COUNTS: Counter[str] = Counter()


@pytest.mark.timeout(3600 + 60 * FOLDERS)
@seed(SEED)
@TRIALS
@given(folder=folders())
def test_a_run_writes_the_values_of_its_files(function: Function, folder: Folder) -> None:
    result = verdict(function, folder)
    COUNTS[result] += 1
    assert not result.startswith("wrong"), result


def test_some_folders_are_written() -> None:
    """Not all runs fail, although they must fail for drift and odd dates; this test must run after the oracle."""
    print(dict(COUNTS))
    assert COUNTS["right"] >= 0.1 * COUNTS.total(), COUNTS


GUESSES_PY = f"s3://{BUCKET}/scripts/guesses.py"
GUESSES = b"""
from pyspark.sql import functions as F
from sparklet.job import Job

job = Job.from_args()
spark, kind, write = job.spark(), job.params["kind"], job.params["write"]
reader = spark.read.format(kind).options(**({"header": True, "inferSchema": True} if kind == "csv" else {}))
folders = job.event["input_folders"] if job.params["apart"] else [""]
for number, folder in enumerate(folders):
    inputs = [uri for uri in job.input_list() if uri.startswith(folder)]
    if not inputs:
        continue
    rows, output = reader.load(inputs), f"{job.output}/{number}"
    v = F.col("s.v" if job.params["nested"] else "v")
    if write == "rdd":
        rows.rdd.saveAsTextFile(output)  # as Row(id=1, v=2)
    elif write == "parquet":
        rows.select("id", v.cast("string").alias("v")).write.parquet(output)
    elif write == "text":
        rows.select(F.concat_ws(",", "id", v)).write.text(output)
    elif write == "csv":
        rows.select("id", v.alias("v")).write.csv(output)
    elif write == "json":
        rows.write.json(output)
    else:
        rows.where("id > 0").select("id").write.csv(output)
"""
KINDS = {
    "int": ["1", "22"],
    "zip": ["00100", "00101"],
    "big": ["9999999999"],
    "huge": ["12345678901234567890"],
    "half": ["1.5", "2.0"],
    "text": ["x", "\u00e9"],
    "mixed": ["1", "x"],
    "digits": ['"1"', '"2"'],  # texts in JSON
    "bool": ["true"],
    "day": ["2026-01-02"],
    "none": [""],
}
COLUMNS = {"int": pa.int32(), "big": pa.int64(), "half": pa.float64(), "bool": pa.bool_(), "day": pa.date32()}


@dataclass(frozen=True)
class Guesses:
    """Files, mostly alike, whose types a script lets Spark infer, and what the script writes."""

    kind: str
    write: str
    nested: bool
    apart: bool  # whether the script reads the two input folders one by one
    files: Sequence[tuple[str, Sequence[str]]]  # for each file the kind of its values, and the values
    max_objects: int = 1

    def bodies(self) -> Iterator[bytes]:
        number = 0
        for of, values in self.files:
            rows: list[dict[str, Any]] = []
            for value in values:
                number += 1
                row = {"v": value if self.kind == "csv" else None if value == "" else _of_json(value, of)}
                rows.append({"id": number, **({"s": row} if self.nested else row)})
            if self.kind == "csv":
                yield "".join(["id,v\n", *(f"{row['id']},{row['v']}\n" for row in rows)]).encode()
            elif self.kind == "json":
                yield "".join(json.dumps(row) + "\n" for row in rows).encode()
            else:
                type_ = COLUMNS.get(of, pa.string())
                cells = [
                    _typed(each, "DATE") if of == "day" else _of_json(each, of) if of in COLUMNS else each
                    for each in values
                ]
                column = (
                    pa.array([{"v": cell} for cell in cells], pa.struct({"v": type_}))
                    if self.nested
                    else pa.array(cells, type_)
                )
                pq.write_table(
                    pa.table({"id": [row["id"] for row in rows], "s" if self.nested else "v": column}),
                    sink := io.BytesIO(),
                )
                yield sink.getvalue()


def _of_json(text: str, of: str) -> Any:
    return text if of in ("zip", "text", "mixed", "day") else json.loads(text)


@st.composite
def guesses(draw: st.DrawFn) -> Guesses:
    kind = draw(st.sampled_from(["csv", "json", "parquet"]))
    usual, files = draw(st.sampled_from([*KINDS])), []
    for _ in range(draw(st.integers(2, 4))):
        of = draw(st.sampled_from([*[usual] * 20, *KINDS]))
        files.append((of, draw(st.lists(st.sampled_from(KINDS[of]), min_size=1, max_size=3))))
    write = draw(st.sampled_from(["rdd", *["parquet", "text", "csv", "json", "select"] * 2]))
    nested, apart = kind != "csv" and draw(st.booleans()), draw(st.integers(0, 7)) == 0
    return Guesses(kind, write, nested, apart, files, draw(st.sampled_from([1, 1, 2])))


def run_guesses(function: Function, folder: Guesses, run_id: str, max_objects: int) -> tuple[str, Counter[str], bool]:
    """Return the message of a failed shard or of drift, or "", the rows that the run wrote, and whether it FAILED."""
    half = f"{ROOT}/{run_id.partition('-')[0]}"
    params = {"kind": folder.kind, "write": folder.write, "nested": folder.nested, "apart": folder.apart}
    output = f"s3://{BUCKET}/out/{run_id}/"
    request = RunRequest(
        GUESSES_PY,
        (f"{half}/a/", f"{half}/b/"),
        output,
        run_id=run_id,
        params=params,
        options=RunOptions(max_objects=max_objects, max_attempts=1),
    )
    function.deliver(*function.plan_request(request))
    if failed := next(function.ledger.shards.list(run_id, ShardState.FAILED), None):
        return f"failed: {failed.error_message}", Counter(), True
    rows = Counter[str]()
    for info in function.store.list(output):
        body = function.store.get(info.uri)
        if info.uri.endswith(".parquet"):
            rows.update(map(str, pq.read_table(io.BytesIO(body), partitioning=None).to_pylist()))
        else:
            rows.update(body.decode().splitlines())
    state, drift = end_run(function, run_id)
    return drift, rows, state is RunState.FAILED


FALSE: Counter[bool] = Counter()  # how many folders with the rows of one job are refused (True), or not (False)
WORD, ONE, NOTHING = ("mixed", ["x"]), ("int", ["1"]), ("none", [""])
HIDDEN, INSIDE = (
    Guesses("csv", "parquet", False, False, [("zip", ["00100"]), WORD]),
    Guesses("json", "text", True, False, [ONE, ("half", ["1.5"])]),
)
NO_VALUE, ITS_TEXT = (Guesses("csv", "text", False, False, [ONE, other]) for other in (NOTHING, WORD))


@pytest.mark.timeout(3600 + 60 * FOLDERS)
@seed(SEED)
# Each example has a run of several shards and a run of one shard.
@settings(TRIALS, max_examples=max(1, FOLDERS * 2 // 5))
@given(folder=guesses())
@example(folder=HIDDEN)
@example(folder=INSIDE)
@example(folder=NO_VALUE)
@example(folder=ITS_TEXT)
def test_rows_with_inferred_types_are_those_of_one_job(function: Function, folder: Guesses) -> None:
    function.store.put(GUESSES_PY, GUESSES)
    run_id = f"g{uuid.uuid4().hex[:12]}"
    for number, body in enumerate(folder.bodies()):
        function.store.put(f"{ROOT}/{run_id}/{'ab'[number % 2]}/{number}.{folder.kind}", body)
    message, rows, is_refused = run_guesses(function, folder, f"{run_id}-shards", folder.max_objects)
    job_message, job_rows, _ = run_guesses(function, folder, f"{run_id}-job", 100)
    if job_message:
        return  # one job fails, too
    assert message or rows == job_rows, f"wrong: {rows} of {job_rows}"
    assert not message or run_id in message, f"no file is named: {message}"
    if rows == job_rows:
        FALSE[is_refused] += 1
        if is_refused:
            print("FALSE ALARM", folder, message)
    else:
        COUNTS["drift"] += 1


def test_few_equal_folders_are_refused() -> None:
    print(dict(FALSE), COUNTS["drift"])
    assert FALSE[True] <= 0.02 * FALSE.total() + 2 * (FOLDERS > 20), FALSE  # none for the default seed
