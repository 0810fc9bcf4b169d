"""Which columns a table gets of a frame; nothing here needs Spark."""

import pytest
from pyspark.sql.types import StructField, StructType

from sparklet.connectors.tables.columns import fits, matched
from sparklet.job.errors import TableError


def struct(**types: str) -> StructType:
    """``name="type"``, with ``!`` at its end for a required column."""
    fields = [
        {"name": name, "type": text.rstrip("!"), "nullable": not text.endswith("!"), "metadata": {}}
        for name, text in types.items()
    ]
    return StructType.fromJson({"type": "struct", "fields": fields})


def names(given: StructType, wanted: StructType, **how: bool) -> list[tuple[str | None, str]]:
    return [(own.name if own else None, field.name) for own, field in matched(given, wanted, **how)]


def test_columns_are_matched_by_name_in_the_tables_order() -> None:
    assert names(struct(b="long", a="string"), struct(a="string", b="long")) == [("a", "a"), ("b", "b")]


def test_case_matters_only_if_spark_says_so() -> None:
    assert names(struct(Id="long"), struct(id="long")) == [("Id", "id")]
    with pytest.raises(TableError, match="no column 'Id'"):
        names(struct(Id="long"), struct(id="long"), exact=True)


def test_a_missing_column_is_null_unless_it_is_required() -> None:
    assert names(struct(a="long"), struct(a="long", b="long")) == [("a", "a"), (None, "b")]
    with pytest.raises(TableError, match="lacks the column 'b', which the table requires"):
        names(struct(a="long"), struct(a="long", b="long!"))


def test_a_new_column_needs_merge_schema() -> None:
    with pytest.raises(TableError, match=r"no column 'b': drop it, or pass merge_schema=True"):
        names(struct(a="long", b="long!"), struct(a="long"))

    pairs = matched(struct(a="long", b="long!"), struct(a="long"), merge_schema=True)

    assert [(field.name, field.nullable) for _, field in pairs] == [("a", True), ("b", True)]


def test_a_type_that_does_not_fit_is_an_error_with_its_remedy() -> None:
    with pytest.raises(TableError, match="'a' is string in the frame and bigint in the table: cast it in the script"):
        names(struct(a="string"), struct(a="long"))


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(TableError, match="two columns of one name"):
        names(struct(a="long", A="long"), struct(a="long"))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        *(("byte", "short"), ("short", "integer"), ("integer", "long"), ("float", "double"), ("void", "date")),
        *(("integer", "double"), ("short", "float"), ("decimal(5,2)", "decimal(7,3)"), ("integer", "decimal(10,0)")),
        *(("long", "decimal(20,1)"), ("timestamp", "timestamp"), ("byte", "decimal(3,0)")),
    ],
)
def test_a_type_that_holds_every_value_fits(given: str, wanted: str) -> None:
    assert fits(struct(a=given)["a"].dataType, struct(a=wanted)["a"].dataType)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        *(("long", "integer"), ("double", "float"), ("long", "double"), ("integer", "float"), ("string", "date")),
        *(("integer", "string"), ("timestamp", "date"), ("date", "timestamp"), ("timestamp", "timestamp_ntz")),
        *(("decimal(7,3)", "decimal(7,2)"), ("decimal(7,3)", "decimal(7,4)"), ("long", "decimal(18,0)")),
        *(("double", "decimal(38,10)"), ("decimal(5,0)", "long"), ("string", "binary")),
    ],
)
def test_a_type_that_could_lose_something_does_not_fit(given: str, wanted: str) -> None:
    assert not fits(struct(a=given)["a"].dataType, struct(a=wanted)["a"].dataType)


def test_what_is_nested_must_be_the_same_but_for_the_order() -> None:
    ab, ba, abc = (
        StructType([StructField("s", struct(**dict.fromkeys(names, "long")))]) for names in ("ab", "ba", "abc")
    )

    assert names(ab, ab) == names(ba, ab) == [("s", "s")]
    with pytest.raises(TableError, match=r"'s' is struct<a:bigint,b:bigint,c:bigint> in the frame"):
        names(abc, ab)
