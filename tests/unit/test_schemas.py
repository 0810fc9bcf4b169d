"""Names of output schemas differ exactly if readers would see a difference that one job would not write."""

import json
from typing import Any

import pytest

from sparklet.model.schemas import MAX_OUTPUTS, Schema, clash, output_schemas, reader_schemas

FOLDER = "s3://bucket/staged/run-1/000000-a"


def struct(**types: Any) -> dict[str, Any]:
    fields = [{"name": name, "type": type_, "nullable": True, "metadata": {}} for name, type_ in types.items()]
    return {"type": "struct", "fields": fields}


def schema_text(columns: dict[str, Any], format_: str = "parquet", folder: str = FOLDER) -> str:
    """A write's schema, in the text form that ``AttemptCommit`` stores."""
    return "\n".join([format_, json.dumps(columns, separators=(",", ":")), folder])


def schema_of(text: str, file: str = f"{FOLDER}/part-0-j1.parquet") -> Schema | None:
    found = output_schemas({"j1": text}, [file], FOLDER)
    return found[0][0] if found else None


ARRAY = {"type": "array", "elementType": struct(k="integer", l="long"), "containsNull": True}
ARRAY_ANOTHER_WAY = {"type": "array", "elementType": struct(l="long", k="integer"), "containsNull": False}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (schema_text(struct(id="integer", v="string")), schema_text(struct(v="string", id="integer"))),
        (schema_text(struct(a=ARRAY)), schema_text(struct(a=ARRAY_ANOTHER_WAY))),
        (schema_text(struct(id="integer"), "csv"), schema_text(struct(id="string"), "csv")),
        (
            schema_text(struct(id="long"), folder=f"{FOLDER}/"),
            schema_text(struct(id="long"), folder=FOLDER.replace("s3:", "s3a:")),
        ),
    ],
)
def test_schemas_that_readers_see_alike_have_one_name(one: str, other: str) -> None:
    """Such are the order of columns, nullability, types of partitions, types in text files, the address's scheme."""
    assert schema_of(one) == schema_of(other) and schema_of(one) is not None


@pytest.mark.parametrize(
    ("one", "other", "difference"),
    [
        (
            schema_text(struct(id="long", v="long")),
            schema_text(struct(id="long", v="string")),
            "v is bigint and string",
        ),
        (
            schema_text(struct(id="long")),
            schema_text(struct(id="integer", w=struct(k="long"))),
            "id is bigint and int; only the second has w struct<k:bigint>",
        ),
        (
            schema_text(struct(a="long", b="long"), "csv"),
            schema_text(struct(b="long", a="long"), "csv"),
            "columns in the order a, b and b, a",
        ),
        (
            schema_text(struct(d="decimal(10,2)")),
            schema_text(struct(d="decimal(12,2)")),
            "d is decimal(10,2) and decimal(12,2)",
        ),
        (
            schema_text(struct(id="long")),
            schema_text(struct(ID="long")),
            "only the first has id bigint; only the second has ID bigint",
        ),
    ],
)
def test_a_difference_is_named(one: str, other: str, difference: str) -> None:
    first, second = schema_of(one), schema_of(other)

    assert first and second and first.difference(second) == difference
    assert first.name != second.name and first.name.partition("-")[0] == second.name.partition("-")[0]


@pytest.mark.parametrize(
    "text",
    [
        schema_text(struct(id="long"), "json"),  # one job, too, leaves keys out or writes null
        schema_text(struct(value="string"), "text"),
        schema_text(struct(id="void")),
        schema_text(struct(id="long"), folder="s3://elsewhere/table"),
        schema_text(struct(id="long"), folder=f"{FOLDER}b"),
    ],
)
def test_writes_without_comparable_columns_have_no_schema(text: str) -> None:
    assert schema_of(text) is None


def test_partitions_are_compared_without_their_types() -> None:
    by_day, by_other_type, plain = (
        schema_of(schema_text(struct(id="long", Day=type_)), f"{FOLDER}/{folder}part-0-j1.parquet")
        for type_, folder in (("integer", "Day=1/"), ("string", "Day=x/"), ("string", ""))
    )

    assert by_day and plain and by_day == by_other_type
    assert by_day.difference(plain) == "only the second has Day string; partitions by day and nothing"


def test_only_writes_whose_files_are_published_count() -> None:
    columns = struct(id="long")
    written = {
        "j1": schema_text(struct(id="string")),  # overwritten
        "j2": schema_text(columns),
        "j3": schema_text(columns, folder=f"{FOLDER}/rejected"),
    }
    files = [f"{FOLDER}/part-0-j2.parquet", f"{FOLDER}/rejected/part-0-j3.parquet", f"{FOLDER}/j1/x"]

    found = output_schemas(written, files, FOLDER)

    assert [(schema.subject, file) for schema, file in found] == [
        ("", "part-0-j2.parquet"),
        ("rejected", "rejected/part-0-j3.parquet"),
    ]


def test_a_shard_with_many_outputs_has_a_short_item() -> None:
    written = {f"j{n:02}": schema_text(struct(id="long"), folder=f"{FOLDER}/{n:02}") for n in range(20)}
    files = [f"{FOLDER}/{n:02}/part-0-j{n:02}.parquet" for n in range(20)]

    assert len(output_schemas(written, files, FOLDER)) == MAX_OUTPUTS


def read(*columns: str, format_: str = "json", options: str = "{}0", key: str = "b/in/1") -> str:
    """The types that a reader has inferred, in the text form that ``InferredTypes`` stores."""
    return "\0".join(["read", format_, options, key, *columns])


@pytest.mark.parametrize(
    ("schema_text", "expected"),
    [
        ([read("V", "int", "w", "decimal(20,0)=")], [{"v": "bigint", "w": "bigint="}]),
        ([read("v", "decimal(20,0)", "w", "decimal(9,2)")], [{"v": "decimal(0)", "w": "decimal(2)"}]),
        ([read("v", "int", "w", "string"), read("v", "double")], [{"w": "string"}]),  # a loop over files
        ([read("v", "int="), read("v", "int")], [{"v": "bigint"}]),  # its text, and itself
        ([read("v", "int=")], [{"v": "bigint="}]),
        ([read("v", "int", format_="parquet"), read("v", "double", "w", "int", format_="parquet")], []),
        ([read("v", "int"), read("v", "double", options="{}1")], [{"v": "bigint"}, {"v": "double"}]),
        ([read("v", "int", key="b/lookup")], []),
    ],
)
def test_readers_have_the_types_they_agree_on(schema_text: list[str], expected: list[dict[str, str]]) -> None:
    found = reader_schemas(schema_text, {"b/in/1": "s3://b/in/1"}, ["s3://b/in/"])

    assert sorted((schema.columns for schema, _ in found), key=str) == expected
    assert all(uri == "s3://b/in/1" and schema.is_inferred for schema, uri in found)


def test_two_inputs_that_are_read_apart_are_compared_apart() -> None:
    objects = {f"b/{name}/1": f"s3://b/{name}/1" for name in "xy"}
    schema_text = [read("v", "int", key="b/x/1"), read("v", "string", key="b/y/1")]

    found = [reader_schemas([each], objects, ["s3://b/x/", "s3://b/y/"]) for each in schema_text]

    assert len({schema.subject for of_shard in found for schema, _ in of_shard}) == 3  # both, and each
    types = {(uri, schema.columns["v"]) for of_shard in found for schema, uri in of_shard}
    assert types == {("s3://b/x/1", "bigint"), ("s3://b/y/1", "string")}


@pytest.mark.parametrize(
    ("types", "differ"),
    [
        (["bigint=", "string", "double="], False),  # one job would read all as text
        (["bigint=", "date="], False),
        (["bigint=", "double="], True),  # one job would read 1 as 1.0
        (["date=", "timestamp="], True),
        (["bigint=", "bigint", "string"], True),  # a shard read 007 as 7
        (["bigint=", "bigint"], False),
        (["array", "string"], True),
    ],
)
def test_types_differ_unless_one_job_would_keep_the_files_text(types: list[str], differ: bool) -> None:
    assert bool(clash(types)) is differ and bool(clash(reversed(types))) is differ
