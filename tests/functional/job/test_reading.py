"""``read_csv``, ``read_json`` and ``read_parquet`` use the run's schema; a column that the schema lacks is an error."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.functional.job.warm_jvm import WarmJvm, reported

pytestmark = pytest.mark.spark

READS = """
import sys
from sparklet.errors import DriftError
from sparklet.job import Job

job = Job.from_args()
for number, format_ in enumerate(job.params["formats"]):
    one = Job(event=job.event, inputs=(job.inputs[number],), params=job.params, shard=job.shard, exact_names=True)
    try:
        frame = getattr(one, f"read_{format_}")(job.spark())
        print("READ", frame.schema.simpleString(), [tuple(row) for row in frame.collect()])
    except Exception as error:
        print("READ", type(error).__name__, str(error).replace(one.inputs[0], "FILE").splitlines()[0])
"""

INFERS = """
from sparklet.job import Job

job = Job.from_args()
job.read_json(job.spark())
"""


def read(jvm: WarmJvm, folder: Path, schema: str, *files: Path, allow_drift: bool = False) -> list[str]:
    """Read each file in a shard of a run with this schema; return the type and rows of each, or its error."""
    done = run(jvm, folder, schema, *files, script=READS, allow_drift=allow_drift)
    assert done.returncode == 0, done.stderr
    return [line.removeprefix("READ ") for line in done.stdout.splitlines() if line.startswith("READ ")]


def run(jvm: WarmJvm, folder: Path, schema: str, *files: Path, script: str, allow_drift: bool = False) -> Any:
    (folder / "reads.py").write_text(script)
    names = {"run": "run-1", "shard": 0, "attempt": "a1", "generation": 0}
    event = {
        "sparklet": {**names, **({"allow_drift": True} if allow_drift else {})},
        "inputs": [f"file://{file}" for file in files],
        "output_path": str(folder / "out"),
        "params": {"formats": [file.suffix[1:] for file in files], **({"schema": schema} if schema else {})},
    }
    return jvm.run(str(folder / "reads.py"), "--event", json.dumps(event))


def written(folder: Path, *contents: str | pa.Table, suffix: str = "json") -> list[Path]:
    files = [folder / f"{number}.{suffix}" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        if isinstance(content, str):
            file.write_text(content + "\n")
        else:
            pq.write_table(content, file)
    return files


def test_quotes_in_csv_are_doubled_or_refused(jvm: WarmJvm, tmp_path: Path) -> None:
    """With Spark's own escape, a backslash, doubled quotes would stay, and a comma behind a quote would cut a value."""
    lines = ['1,"say ""a, b"""', '1,"a ""b"""', '1,"C:\\dir\\"', '1,5" pipe', '1,"say \\"hi\\""']
    files = written(tmp_path, *(f"id,v\n{line}" for line in lines), suffix="csv")

    *found, escaped = read(jvm, tmp_path, "id INT, v STRING", *files)

    values = ['say "a, b"', 'a "b"', "C:\\dir\\", '5" pipe']
    assert found == [f"struct<id:int,v:string> {[(1, value)]}" for value in values]
    assert escaped.startswith("Py4JJavaError")
    for option, value in (('escape="\\\\"', 'say "hi"'), ('mode="PERMISSIVE"', r'"say \"hi\""')):
        script = READS.replace("(job.spark())", f"(job.spark(), {option})")
        done = run(jvm, tmp_path, "id INT, v STRING", files[-1], script=script)
        assert done.stdout.startswith(f"READ struct<id:int,v:string> {[(1, value)]}")


def test_json_is_read_by_the_schema_or_refused(jvm: WarmJvm, tmp_path: Path) -> None:
    files = written(
        tmp_path,
        '{"id": 1, "in": {"k": "x"}, "tags": {"a": 1, "b": 2}}',
        '{"id": 2}',
        '{"id": 3, "extra": true}',
        '{"ID": 4}',
        '{"id": 5, "in": {"k": "x", "l": "y"}}',
        '{"id": "six"}',
        '{"id": 7, "in": ',
    )

    found = read(jvm, tmp_path, "id INT, in STRUCT<k: STRING>, tags MAP<STRING, INT>", *files)

    type_ = "struct<id:int,in:struct<k:string>,tags:map<string,int>>"
    assert found[:2] == [f"{type_} [(1, Row(k='x'), {{'a': 1, 'b': 2}})]", f"{type_} [(2, None, None)]"]
    for named, result in zip(("extra", "ID", "in.l"), found[2:5], strict=True):
        assert result.startswith("DriftError") and f"while reading file FILE. It has {named}, which" in result
    assert not any("[(" in result for result in found[5:])


def test_files_with_a_rare_spelling_of_a_name_are_left_out(jvm: WarmJvm, tmp_path: Path) -> None:
    """Spark's inference treats ID as id, but its parser finds only one of them: the others would be null."""
    files = written(
        tmp_path,
        '{"id": 1, "in": {"k": [{"x y": 1}]}}',
        '{"ID": 2}',
        '{"id": 3, "in": {"k": [{"X Y": 1}]}}',
        '{"id": 4, "in": {"k": [{"x y": 1, "z": "a"}]}}',
        '{"id": 5, ',
    )

    done = run(jvm, tmp_path, "infer", *files, script=INFERS)

    schema = "`id` bigint, `in` struct<`k`: array<struct<`x y`: bigint, `z`: string>>>"
    assert reported(done.stderr)["answer"]["schema"] == schema
    assert read(jvm, tmp_path, schema, files[0])[0].endswith(" [(1, Row(k=[Row(x y=1, z=None)]))]")
    assert "1.json is left out of the sample: it has ID, and more have id" in done.stderr
    assert "2.json is left out of the sample: it has in.k.X Y, and more have in.k.x y" in done.stderr
    assert "4.json is left out of the sample: " in done.stderr


def test_no_schema_is_inferred_from_names_that_spark_confuses(jvm: WarmJvm, tmp_path: Path) -> None:
    done = run(jvm, tmp_path, "infer", *written(tmp_path, '{"id": 1, "ID": 2}'), script=INFERS)
    assert done.returncode != 0
    assert "DriftError" in done.stderr and "0.json: it has id, and more have ID" in done.stderr


def test_json_without_a_schema_is_refused_in_a_run(jvm: WarmJvm, tmp_path: Path) -> None:
    (found,) = read(jvm, tmp_path, "", *written(tmp_path, '{"id": 1}'))
    assert found.startswith("EventError") and "--schema" in found


def test_allowed_drift_is_left_out_with_a_warning(jvm: WarmJvm, tmp_path: Path) -> None:
    found = read(jvm, tmp_path, "id INT", *written(tmp_path, '{"id": 1, "extra": 2}'), allow_drift=True)
    assert found == ["struct<id:int> [(1,)]"]


def test_parquet_is_read_by_name_or_refused(jvm: WarmJvm, tmp_path: Path) -> None:
    files = written(
        tmp_path,
        pa.table({"v": ["x"], "ID": pa.array([1], pa.int32())}),
        pa.table({"id": pa.array([2], pa.int32())}),
        pa.table({"id": pa.array([3], pa.int32()), "extra": [1]}),
        pa.table({"id": pa.array([4], pa.int64())}),
        suffix="parquet",
    )

    found = read(jvm, tmp_path, "id INT, v STRING", *files)

    assert found[:2] == ["struct<id:int,v:string> [(1, 'x')]", "struct<id:int,v:string> [(2, None)]"]
    assert "It has extra, which the schema lacks" in found[2]
    assert "It has id as bigint, and the schema as int" in found[3]


def test_a_parquet_file_of_another_type_is_named(jvm: WarmJvm, tmp_path: Path) -> None:
    tables = [pa.table({"id": pa.array([1], type_)}) for type_ in (pa.int32(), pa.int64())]
    reads = INFERS.replace("read_json", "read_parquet")

    done = run(jvm, tmp_path, "id INT", *written(tmp_path, *tables, suffix="parquet"), script=reads)

    assert done.returncode != 0
    assert "1.parquet. It has id as bigint, and the schema as int" in done.stderr


def test_parquet_without_a_schema_has_all_columns(jvm: WarmJvm, tmp_path: Path) -> None:
    (folder := tmp_path / "all.parquet").mkdir()
    written(folder, pa.table({"id": [1]}), pa.table({"id": [2], "w": ["x"]}), suffix="parquet")

    (found,) = read(jvm, tmp_path, "", folder)

    assert found.startswith("struct<id:bigint,w:string>")
