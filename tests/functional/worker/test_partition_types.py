"""Partition values of one ``value_kind`` have one type in Spark, for any values that folders could have."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from sparklet.planning.inputs.partitions import NULL, value_kind

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [pytest.mark.spark, pytest.mark.slow]

PIECES = st.sampled_from(
    [
        *("1", "0", "9", "12", "99999999999999999999", "0" * 20, "2026", "-", "+", ".", "e", "E", "d", "f", "x", "0x"),
        *("p", "NaN", "Infinity", " ", "%20", "%3A", "%2B", "2026-01-01", "0000-01-01", "2024-02-29", "2026-02-29"),
        *(" 10%3A00%3A00", " 24%3A00%3A00", ".1", "T", "Z", "٣", "a", "_", "10000", "-0001", "true", NULL),
    ]
)
VALUES = st.lists(PIECES, min_size=1, max_size=5).map("".join).filter(lambda value: value not in (".", ".."))
SEEN: dict[str, tuple[str, str]] = {}  # for each kind the type, and the first value with this kind


def types(spark: "SparkSession", folder: Path, values: list[str]) -> Mapping[str, str]:
    """Return Spark's type of each value; each value is the only value of its own partition column."""
    place = folder.joinpath(*(f"k{number}={value}" for number, value in enumerate(values)))
    place.mkdir(parents=True)
    (place / "a.txt").write_text("row")
    column_types = dict(spark.read.text(str(folder)).dtypes)
    return {value: column_types[f"k{number}"] for number, value in enumerate(values)}


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@seed(7)
@given(values=st.lists(VALUES, min_size=10, max_size=25))
def test_values_of_one_kind_have_one_type(
    spark: "SparkSession", tmp_path_factory: pytest.TempPathFactory, values: list[str]
) -> None:
    for value, type_ in types(spark, tmp_path_factory.mktemp("values"), values).items():
        first, other = SEEN.setdefault(value_kind(value), (type_, value))
        assert type_ == first, f"{value!r} is a {type_}, and {other!r} a {first}, both of the kind {value_kind(value)}"
