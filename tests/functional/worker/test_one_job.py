"""Shards read the same rows as one Spark job over the folder: an oracle over generated folders and readers.

One job reads the whole folder. Sparklet reads the folder in shards, packed and cut at random, with the same reader over
``job.input_list()`` or over the folder's address. Some files are compressed, in archives or in UTF-16, and not all of
their names say so. Rows, columns and types must be equal, or the run must be refused or fail with the name of a file.
About every second run writes an output for each input; each row must be once in the output of the row's own file.
``make test-all`` always tries the same few folders. With ``SPARKLET_FOLDERS=3000`` ``make pytest`` tries more, and
with another ``SPARKLET_SEED`` other folders.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

from sparklet.errors import PlanError
from sparklet.model import InputObject, RunOptions, ShardState
from sparklet.planning.inputs.selection import is_hidden
from sparklet.planning.outputs import output_name
from sparklet.planning.request import RunRequest
from tests.archives import by_arrow, in_v7, skipped, tarred, zipped
from tests.functional.worker.ledgered import BUCKET, Function

pytestmark = [pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]

FOLDERS, SEED = int(os.environ.get("SPARKLET_FOLDERS") or "20"), int(os.environ.get("SPARKLET_SEED") or "10")
TRIALS = settings(
    max_examples=FOLDERS,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate] + ([Phase.shrink] if os.environ.get("SPARKLET_SHRINK") else []),
)
ROOT = f"s3://{BUCKET}/folders"
READ_PY = f"s3://{BUCKET}/scripts/read.py"
READ = b"""
import json
from pyspark.sql import functions as F
from sparklet.job import Job

job = Job.from_args()
spark = job.spark()


def frame_of(reader, place):
    kind, options, schema, way = (reader[word] for word in ("format", "options", "schema", "way"))
    if way == "lines":
        return spark.createDataFrame(spark.sparkContext.textFile(place).map(lambda line: [line]), "value STRING")
    if way == "whole":
        return spark.createDataFrame(spark.sparkContext.wholeTextFiles(place), "path STRING, value STRING")
    if way == "binary":
        return spark.read.format("binaryFile").options(**options).load(place).drop("modificationTime")
    if way == "view":
        words = ", ".join(f"'{name}' '{value}'" for name, value in {**options, "path": place}.items())
        columns = f"({schema})" if schema else ""
        spark.sql(f"CREATE OR REPLACE TEMPORARY VIEW place {columns} USING {kind} OPTIONS ({words})")
        return spark.table("place")
    if way == "sql":
        return spark.sql(f"SELECT * FROM {kind}.`{place}`")
    read = (spark.readStream if way == "stream" else spark.read).format(kind).options(**options)
    if "basePath" in options:
        read = read.option("basePath", place)
    frame = (read.schema(schema) if schema else read).load(place + reader["pattern"] if reader["pattern"] else place)
    return frame.select("*", *[f"_metadata.{name}" for name in reader["metadata"]])


def collected(frame):
    if frame.isStreaming:
        frame.writeStream.trigger(availableNow=True).format("memory").queryName("seen").start().awaitTermination()
        frame = spark.table("seen")
    return frame.collect()


for place, (folder, reader) in enumerate(job.params.get("folders") or [("", job.params["reader"])]):
    try:
        mine = job.event["input_folders"][0] if reader["by_folder"] else job.input_list() if not folder else ""
        frame = frame_of(reader, folder or mine)
        names = sorted(frame.columns)
        row = F.to_json(F.struct(*[F.col(f"`{name}`") for name in names]))
        rows = collected(frame.select(row))
        if reader.get("by_input") and not folder:
            frame.select(F.concat_ws("\\t", F.input_file_name(), row)).write.text(job.output)
        told = json.dumps([place, sorted(frame.dtypes), [row[0] for row in rows], frame._jdf.schema().toDDL()])
        while len(told) > 50_000:  # of a longer line the worker's log has the beginning
            print("PART " + told[:50_000])
            told = told[50_000:]
        print("SAW " + told)
    except Exception as error:
        if not folder:
            raise
        print("SAW " + json.dumps([place, type(error).__name__ + ": " + str(error)[:300], [], ""]))
"""


@dataclass(frozen=True)
class Folder:
    """The files of a folder, how a job reads the files, and how a run packs them into shards."""

    files: Mapping[str, bytes]
    packed: Mapping[str, bytes]  # the files for the shards: the same files, some in archives or compressed
    format: str
    options: Mapping[str, str]
    schema: str
    max_objects: int
    split: str
    by_folder: bool
    cut_bytes: int = 40
    by_input: bool = False  # whether rows are written, an output for each input
    way: str = (
        "load"  # how: by ``load``, with ``metadata`` of files, a ``view``, ``sql``, a ``stream``, an RDD's ``lines``
    )
    pattern: str = ""  # the pattern that the reader appends to the folder's address

    @property
    def reader(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "options": dict(self.options),
            "schema": self.schema,
            "by_folder": self.by_folder,
            "by_input": self.by_input,
            "way": self.way,
            "metadata": METADATA.get(self.way, ()),
            "pattern": self.pattern,
        }


@dataclass
class Saw:
    """What a reader saw: columns with their types, or the text of an error, and the rows."""

    columns: Any
    rows: Counter[str] = field(default_factory=Counter)
    schema: str = ""  # as DDL


VALUES = st.sampled_from(["1", "2", "07", "a", "b c", "1.5", "2026-01-02", "2026-13-02", "x%2Fy", "9999999999"]) | (
    st.sampled_from(["2026-01-02 03%3A04%3A05", "12345678901234567890", "true", "1e3", "A", "a%20b", "-1", "1D", "é"])
    | st.sampled_from(["1" * 25, "1" * 39, "1e400", "%2B5", "5%20", "0000-01-01", "2026-01-02%2003%3A04%3A05.5"])
)
NAMES = st.sampled_from(["a", "b b", "part-00000-x", "c[1]", "é", "d{1,2}", "e*", "f?"])
FIELDS = st.text(st.sampled_from("ab,\"'# é\\\n\r"), max_size=5)


COLUMNAR = ("parquet", "orc")
METADATA = {"metadata": ["file_path", "file_name", "file_size"], "row_index": ["row_index"]}
BY_PATTERN = ("load", "metadata", "row_index")
LOGS = ["_delta_log/00000000000000000000.json", ".hoodie/hoodie.properties", "metadata/v1.metadata.json"]
OPTIONS: dict[str, list[dict[str, str]]] = {
    "csv": [
        {"multiLine": "true"},
        {"comment": "#"},
        {"mode": "DROPMALFORMED"},
        {"lineSep": "b"},
        {"sep": "é"},
        {"escape": '"', "ignoreLeadingWhiteSpace": "true"},
        {"encoding": "ISO-8859-1"},
        {"quote": "'", "nullValue": "a"},
        {"enforceSchema": "false", "ignoreTrailingWhiteSpace": "true"},
        {"mode": "FAILFAST"},
    ],
    "json": [{"multiLine": "true"}, {"lineSep": ","}, {"primitivesAsString": "true"}, {"encoding": "UTF-8"}],
    "text": [{"wholetext": "true"}, {"lineSep": ","}],
    "parquet": [{"mergeSchema": "true"}],
    "orc": [{"mergeSchema": "true"}],
    "": [{"recursiveFileLookup": "true"}, {"pathGlobFilter": "*[0-2].*"}, {"modifiedAfter": "2001-01-01T00:00:00"}],
}


def in_streams(pack: Callable[[bytes], bytes], between: bytes) -> Callable[[str, bytes], bytes]:
    """Return a packer that stores a file in two streams, each with ``between`` after it: padding or a skipped frame."""
    return lambda _, body: b"".join(pack(half) + between for half in (body[: len(body) // 2], body[len(body) // 2 :]))


ARCHIVES: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    ".zip": lambda files: zipped({"__MACOSX/._x": b"hidden", **files}),
    ".tar": in_v7,
    ".tar.xz": lambda files: lzma.compress(tarred(files)),
}
PACKERS: dict[str, Callable[[str, bytes], bytes]] = {
    ".GZ": in_streams(gzip.compress, bytes(5)),
    ".BZ2": in_streams(bz2.compress, bytes(3)),
    ".xz": in_streams(lzma.compress, bytes(8)),
    ".zst": in_streams(partial(by_arrow, "zstd"), skipped(b"x")),
    ".lz4": in_streams(partial(by_arrow, "lz4"), skipped(b"")),
    ".zip": lambda name, body: ARCHIVES[".zip"]({name: body}),
    ".tar": lambda name, body: ARCHIVES[".tar"]({name: body}),
    ".tar.xz": lambda name, body: ARCHIVES[".tar.xz"]({name: body}),
}


@st.composite
def folders(draw: st.DrawFn) -> Folder:
    """Draw a folder that one job could read."""
    kind = draw(st.sampled_from(["csv", "csv", "csv", "json", "text", "parquet", "orc"]))
    columns = draw(st.sampled_from([(), (), ("dt",), ("dt",), ("dt", "shop"), ("DT", "v"), ("id",), ("a b",)]))
    pool = [draw(st.lists(VALUES | st.just("__HIVE_DEFAULT_PARTITION__"), min_size=1, max_size=3)) for _ in columns]
    header, reads_header = draw(st.sampled_from([(True, True), (False, False), (True, False), (False, True)]))
    line = draw(st.sampled_from(["\n", "\r\n", "\n", "\r"]))
    options = {"header": "true"} if reads_header and kind == "csv" else {}
    options |= draw(st.sampled_from([{}, {}, {}, *OPTIONS[kind]])) | draw(st.sampled_from([{}, {}, {}, *OPTIONS[""]]))
    splits = ["", "lines"] if kind in ("json", "text") else ["", "auto", "auto"]
    # Readers whose slices are refused, and files that one job does not read, are drawn seldom.
    split = draw(
        st.sampled_from([*([""] * 6 if options.keys() & {"multiLine", "wholetext", "lineSep"} else []), *splits])
    )
    files: dict[str, bytes] = {}
    stored: dict[str, bytes] = {}
    by_folder = draw(st.booleans())
    has_more = by_folder or columns or "recursiveFileLookup" in options  # else one job does not read what a shard does
    below = [*[""] * 9, "more/", "a/b c/"] if has_more else [""]  # folders that are no partitions
    for number in range(draw(st.integers(1, 5))):
        place = "".join(f"{name}={draw(st.sampled_from(values))}/" for name, values in zip(columns, pool, strict=True))
        place += draw(st.sampled_from(below))
        fewest = draw(st.sampled_from([0, 0, 8]))  # 8 rows are enough to be cut
        # Odd fields can make cutting impossible.
        fields = draw(st.sampled_from([FIELDS, st.sampled_from(["a", "b b"])]))
        rows = draw(st.lists(st.tuples(st.integers(0, 99), fields), min_size=fewest, max_size=fewest + 6))
        blank = draw(st.sampled_from([*[[]] * 8, [""], ["  "]]))
        before = [*blank, *(["# by hand"] if "comment" in options else []), *(["id,v"] if header else []), *blank]
        # With wholetext the byte order mark of UTF-8 would be a part of the row, which other encodings lack.
        mark = b"" if "wholetext" in options else draw(st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf"]))
        body = _file_content(kind, before, line, rows, mark)
        if kind not in COLUMNAR and draw(st.booleans()):
            body = body.removesuffix(b"\n" if kind == "json" else line.encode())  # the last line does not end
        packed = kind not in COLUMNAR and draw(st.integers(0, 5)) == 0
        name = f"{draw(NAMES)}{number}.{kind}{'.gz' if packed else ''}"
        body = gzip.compress(body) if packed else body  # in an archive such a file would be refused
        packer = draw(st.sampled_from(["", "", *PACKERS]))
        has_suffix = packed or kind in COLUMNAR or "encoding" in options or draw(st.booleans())
        files[place + name] = body
        stored_name = place + name + (packer if has_suffix else "")
        stored[stored_name] = PACKERS[packer](name, body) if packer else body
        if packer in ARCHIVES and not packed and draw(st.booleans()):
            files[place + "x" + name] = body = _file_content(kind, before, line, rows[::2], mark)
            stored[stored_name] = ARCHIVES[packer]({name: files[place + name], "x" + name: body})
        if not (has_suffix or packer):
            stored[place + name] = body.removeprefix(b"\xef\xbb\xbf").decode().encode("utf-16")
        if draw(st.integers(0, 3)) == 0:
            hidden = draw(st.sampled_from(["_SUCCESS", ".a.crc", "._x.csv", "_temporary/0/a.csv", ".hidden/a.csv"]))
            files[place + hidden] = stored[place + hidden] = body or b"x"
    files, stored = _with_trap(draw, columns, files, stored)
    alike = header and reads_header and "lineSep" not in options  # whether all files have one header for this reader
    schemas = {"json": ["id INT, v STRING"], "csv": ["id INT, v STRING", *([""] if alike else [])]}
    schema = draw(st.sampled_from(schemas.get(kind, [""])))
    typed = [f", `{name}` {of}" for name in columns if name not in ("id", "v") for of in ("STRING", "DATE")]
    schema += draw(st.sampled_from(["", *typed])) if schema else ""
    cut_bytes, pattern = 500 if kind in COLUMNAR else 40, ""
    as_named = files == stored and not split
    ways = ["load"] * 4 + (["metadata"] * 2 if as_named else [])
    ways += ["row_index"] * (1 if split else 3) if kind == "parquet" else []  # slices are refused to its reader
    if by_folder:
        pattern = draw(st.sampled_from(["", "", "", "*", f"*.{kind}*", *[f"{name}=*" for name in columns], "*/*"]))
        ways += ["view"] + (["sql"] if kind != "json" and not options and not schema else [])
        is_streamed = (schema or kind == "text") and "modifiedAfter" not in options
        is_plain = kind == "text" and as_named and not any("/" in name for name in files)
        ways += ["lines", "whole", "binary"] if is_plain else []
        # Of several files a stream of Spark's own reads one whose name is a pattern twice.
        ways += ["stream"] if is_streamed and not any(re.search(r"[*?\[{]", name) for name in files) else []
    way = draw(st.sampled_from(ways))
    packing = draw(st.integers(1, 3)), split, by_folder, cut_bytes, way != "stream" and draw(st.booleans())
    # A pattern finds hidden folders, too, and what is in them is not planned.
    finds_hidden = any(re.search(r"(^|/)(\.hidden|_temporary)/", name) for name in files)
    pattern = pattern if way in BY_PATTERN and not finds_hidden else ""
    if pattern and draw(st.booleans()):
        options["basePath"] = "the folder"
    return Folder(files, stored, kind, options, schema, *packing, way, pattern)


def _with_trap(
    draw: st.DrawFn, columns: Sequence[str], files: Mapping[str, bytes], stored: Mapping[str, bytes]
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the files, sometimes with a table's log, with files beside the partitions or with a column in capitals."""
    trap = draw(st.sampled_from([*[""] * 12, "log", *(["beside", "capitals"] if columns else [])]))
    if trap == "log":
        log = {draw(st.sampled_from(LOGS)): b"{}"}
        return {**files, **log}, {**stored, **log}
    old = draw(st.sampled_from(sorted({"/".join(name.split("/")[: len(columns)]) + "/" for name in files})))
    if not trap or all(name.startswith(old) for name in files):  # else no file would be left in a partition
        return dict(files), dict(stored)
    new = "" if trap == "beside" else old.replace(columns[0], columns[0].swapcase(), 1)
    moved = [{re.sub(f"^{re.escape(old)}", new, name): body for name, body in of.items()} for of in (files, stored)]
    return moved[0], moved[1]


def _file_content(kind: str, before: Sequence[str], line: str, rows: list[tuple[int, str]], mark: bytes) -> bytes:
    """Return the content of a file; ``before`` has the lines before the rows of a text file."""
    if kind in COLUMNAR:
        schema = pa.schema({"id": pa.int32(), "v": pa.string(), "long": pa.string()})
        wide = [{"id": n, "v": text, "long": f"{n:0200d}"} for n, text in rows]  # wide rows make more slices
        table, buffer = pa.Table.from_pylist(wide, schema), io.BytesIO()
        if kind == "orc":
            orc.write_table(table, buffer)
            return buffer.getvalue()
        size, index = 1 + len(rows) % 3, len(rows) % 2 == 0  # of a row group; with a page index
        pq.write_table(table, buffer, size, compression="none", write_page_index=index)
        return buffer.getvalue()
    if kind == "json":
        return "".join(json.dumps({"id": n, "v": text}) + "\n" for n, text in rows).encode()
    quoted = ['{},"{}"'.format(n, text.replace("\\", "").replace('"', '""')) for n, text in rows]
    return mark + "".join(each + line for each in (*before, *quoted)).encode() if before or quoted else b""


@pytest.fixture(scope="module", autouse=True)
def _script(function: Function) -> None:
    function.store.put(READ_PY, READ)
    function.skip_log()


def saw(function: Function) -> list[Saw]:
    """Return what each script has printed to the new part of the log."""
    results, parts = [], b""
    for line in function.new_log().split(b"\n"):
        word, _, text = line.partition(b" ")
        if word in (b"PART", b"SAW"):
            parts += text
        if word == b"SAW":
            _, columns, rows, ddl = json.loads(parts)
            results.append(Saw(columns, Counter(rows), ddl))
            parts = b""
    return results


def one_job(function: Function, place: str, folder: Folder) -> Saw:
    event = {
        "sparklet": {"script": READ_PY},
        "params": {"folders": [[f"{place}/", {**folder.reader, "by_folder": False}]]},
    }
    function.skip_log()
    answer = function.invoke(event)
    assert answer.get("answer", {}).get("state") == "SUCCEEDED", answer
    return saw(function)[0]


def in_shards(function: Function, place: str, folder: Folder) -> Saw | str:
    """Return what all shards saw, or the message with which the run was refused or a shard failed."""
    run_id = place.rpartition("/")[2]
    options = RunOptions(
        max_objects=folder.max_objects,
        split=folder.split,
        target_bytes=folder.cut_bytes if folder.split else 10**9,
        output_per="input" if folder.by_input else "",
    )
    request = RunRequest(
        READ_PY,
        (f"{place}/",),
        f"s3://{BUCKET}/out/{run_id}/",
        run_id=run_id,
        params={"reader": folder.reader},
        options=options,
    )
    try:
        refs = function.plan_request(request)
    except PlanError as error:
        return f"refused: {error}"
    function.skip_log()
    for ref in refs:
        while function.deliver(ref):
            continue
    records = list(function.ledger.shards.list(run_id))
    if failed := [record for record in records if record.state is not ShardState.SUCCEEDED]:
        return f"failed: {failed[0].error_class}: {failed[0].error_message}"
    seen = [each for each in saw(function) if each.rows] or [Saw([])]  # shards without rows need no columns
    rows = sum((each.rows for each in seen), Counter[str]())
    if folder.by_input:
        assert written(function, place, f"s3://{BUCKET}/out/{run_id}/", folder) == rows
    columns = seen[0].columns if all(each.columns == seen[0].columns for each in seen) else [s.columns for s in seen]
    return Saw(columns, rows)


def written(function: Function, place: str, output: str, folder: Folder) -> Counter[str]:
    """Count the rows in the outputs of all inputs; each row must be in the output of the file that it was read from."""
    rows = Counter[str]()
    by_input = RunOptions(output_per="input")
    items = [InputObject(f"{place}/{name}", 0) for name in folder.packed]
    own = {item.uri: output + output_name("", by_input, [f"{place}/"], item) for item in items}
    for info in function.store.list(output):
        if is_hidden(info.uri[len(output) :]):
            continue
        for line in function.store.get(info.uri).decode().split("\n")[:-1]:
            file, _, row = line.partition("\t")
            read = "s3" + unquote(file.partition("%23")[0]).removeprefix("s3").removeprefix("a")
            if read in own:  # a slice has another name
                assert re.fullmatch(rf"{re.escape(own[read])}(/.*|(-\d{{5,6}})*(\.[^/]*)?)", info.uri)
            rows[row] += 1
    return rows


def verdict(function: Function, folder: Folder) -> str:
    """Return ``equal``, ``different: …``, the message of a run that fails, or why there is nothing to compare.

    For JSON without a schema the shards get the schema of the one job, as each would infer its own.
    """
    place = f"{ROOT}/f{uuid.uuid4().hex[:12]}"
    for files, address in ((folder.packed, place), (folder.files, f"{place}-one")):
        for name, body in files.items():
            function.store.put(f"{address}/{name}", body)
    one = one_job(function, f"{place}-one", folder)
    if isinstance(one.columns, str):  # one job refuses the folder, too
        return "one job fails"
    # Columns of metadata have the address.
    one.rows = Counter(row.replace(f"{place}-one/", f"{place}/") for row in one.rows.elements())
    schema = folder.schema or (one.schema if folder.format == "json" else "")
    shards = in_shards(function, place, replace(folder, schema=schema))
    if any(name in LOGS for name in folder.files) and any(folder.packed.values()):
        is_refused = isinstance(shards, str) and "is the folder of a " in shards
        return A_TABLE if is_refused else "different: a table's files are planned"
    if isinstance(shards, str):
        if "is not in a folder of columns" in shards:
            return BESIDE
        assert shards.startswith(("refused: ", "failed: "))
        return "nothing to plan" if not one.rows else re.sub(r"s3:\S+", "FILE", shards)[:160]
    lost, surplus = list((one.rows - shards.rows).items()), list((shards.rows - one.rows).items())
    if lost or surplus:
        return f"different: {len(lost)} rows are lost, {len(surplus)} are new: {lost[:2]} and {surplus[:2]}"[:2000]
    if one.rows and shards.columns != one.columns:
        return f"different: the columns {shards.columns}, and {one.columns} of one job"
    return "equal"


A_TABLE, BESIDE = "refused as a table", "refused for files beside partitions, which one job drops"
RIGHT = ("equal", "one job fails", "nothing to plan", A_TABLE, BESIDE)
COUNTS: Counter[str] = Counter()
LINES = {"a.csv": b"id,v\n" + b"".join(b"%d,b b\n" % number for number in range(20))}
HEADER_IS_A_ROW = Folder(LINES, LINES, "csv", {}, "id INT, v STRING", 1, "auto", by_folder=True)  # drawn too rarely
BESIDE_PARTITIONS, TWO_PRECISIONS, TABLE = (
    Folder(files, files, "csv", {"header": "true"}, "id INT, v STRING", 1, "", by_folder=True)
    for names in (("a.csv", "dt=1/b.csv"), (f"dt={'1' * 20}/a.csv", f"dt={'1' * 25}/b.csv"), ("a.csv", LOGS[0]))
    for files in [dict.fromkeys(names, LINES["a.csv"])]
)


@pytest.mark.timeout(3600 + 60 * FOLDERS)
@seed(SEED)
@TRIALS
@given(folder=folders())
@example(folder=HEADER_IS_A_ROW)
@example(folder=BESIDE_PARTITIONS)
@example(folder=TWO_PRECISIONS)
@example(folder=TABLE)
def test_shards_read_the_same_rows_as_one_job(function: Function, folder: Folder) -> None:
    result = verdict(function, folder)
    COUNTS[result] += 1
    assert not result.startswith("different")


def test_few_folders_are_refused() -> None:
    """Few of the folders that one job reads are refused; this test must run after the oracle."""
    print(dict(COUNTS))
    refused, usual = COUNTS.total() - sum(COUNTS[each] for each in RIGHT), 0.1 * COUNTS.total()
    # The limit has two standard deviations more, as the folders are few.
    assert COUNTS["equal"] and refused <= usual + 2 * usual**0.5, COUNTS
